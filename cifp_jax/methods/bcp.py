"""BCP, bidirectional copy-paste (Bai et al., CVPR 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, PyTree

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.ema import Decays
from cifp_jax.methods.largest_component import keep_largest
from cifp_jax.methods.shared import figures
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting

SIDE = 2 / 3  # of the box, as a fraction of the image's side


def halves(x: PyTree) -> tuple[PyTree, PyTree]:
    """The examples 2k, and the examples 2k + 1; all of them stay on their device."""
    pairs = jax.tree.map(lambda t: t.reshape((-1, 2, *t.shape[1:])), x)
    return jax.tree.map(lambda t: t[:, 0], pairs), jax.tree.map(lambda t: t[:, 1], pairs)


def patch(key: Key[Array, ""], spatial: tuple[int, ...]) -> Bool[Array, "*spatial"]:
    """True inside a box of two thirds of every side, placed at random."""
    side = jnp.array([int(length * SIDE) for length in spatial])
    place = jax.random.uniform(key, (len(spatial),))
    start = jnp.floor(place * (jnp.array(spatial) - side)).astype(jnp.int32)
    return views.fill_box(spatial, start, start + side)


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of BCP; the defaults are the published ones of ACDC."""

    pretrain_steps: int = setting(
        10_000, "The length of the pre-training on labelled images alone.", low=0, unit="steps"
    )
    alpha: float = setting(
        0.5, "The weight of voxels with a pseudo label, where a true label counts 1.", low=0
    )
    largest_component: bool = setting(
        True, "Whether only the largest component of each class of a pseudo label is kept."
    )


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = L_in + L_out`, of a labelled box in an unlabelled image and of the reverse.

    With a box M (two thirds of every side), labelled images a, b and unlabelled ones p, q:
    `x_in = a in M, p around`, `x_out = q in M, b around`, and
    `L_in = l(x_in, y_a, M) + alpha * l(x_in, y^_p, 1 - M)`, `L_out` likewise, where l is
    (CE + Dice) / 2 over the voxels of its mask. y^ is the teacher's argmax, of which only the
    largest component of each class is kept. The first `pretrain_steps` steps are the
    pre-training: labelled images are pasted into each other, in both directions, with weight 1,
    and the teacher is the student (see `decays`). Settings: the published ones of ACDC; on LA the
    pre-training takes 2,000 steps.

    Each of the two passes has half of the images of a stream. The published ones have 6 on ACDC, of
    batches of 12 + 12, and 2 on LA, of batches of 4 + 4: there `config.data.batch_labeled` and
    `config.data.batch_unlabeled` are to be 4, where other methods have 2 + 2.

    Different from the published code: each image has a box of its own, where there one box
    serves the whole batch; the pre-training pastes in both directions at every step, there in one,
    and ends with its last state, not with the one that is best on validation (on LA: on the test
    set); one polynomial schedule and one optimizer state run through both stages; the teacher uses
    running statistics; it keeps the largest component over corners too. There is no clean image in
    BCP: both passes move the running statistics, one after the other, as published.

    Raises:
      ValueError: the two streams differ in size.
    """
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    if labeled["image"].shape != unlabeled["image"].shape:
        raise ValueError(
            "bcp pastes labelled and unlabelled images into each other one by one: set "
            "config.data.batch_labeled and config.data.batch_unlabeled to the same number."
        )
    logits, _ = teacher.forward(unlabeled["image"], None, teacher.batch_stats)
    classes = logits.shape[-1]
    pseudo = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if settings.largest_component:
        pseudo = keep_largest(pseudo, classes)
    truth = losses.one_hot(labeled["label"], classes)
    guess = jax.lax.stop_gradient(losses.one_hot(pseudo, classes))

    pretraining = context.since < settings.pretrain_steps

    def choose(first: PyTree, then: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: jnp.where(pretraining, x, y), first, then)

    a, b = halves((labeled["image"], truth))
    # Pasted into one another, both are of one kind.
    p, q = halves((unlabeled.get("strong", unlabeled["image"]), guess))
    weight = jnp.where(pretraining, 1.0, settings.alpha)
    # Of each: what is in the box, what is around it, and the weights of the two.
    mixes = {
        "inward": (a, choose(b, p), 1.0, weight),
        "outward": (choose(b, q), choose(a, b), weight, 1.0),
    }
    terms, stats, axis_name = {}, student.batch_stats, context.axis_name
    indices = halves(labeled["index"])
    rngs = jax.random.split(context.key, len(mixes))
    for (name, mix), index, key in zip(mixes.items(), indices, rngs, strict=True):
        (image_in, goal_in), (image_around, goal_around), weight_in, weight_around = mix
        keys = parallel.example_keys(key, index)
        box_keys, dropout_keys = jax.vmap(jax.random.split)(keys).T
        box = jax.vmap(lambda k: patch(k, labeled["image"].shape[1:-1]))(box_keys)
        image = jnp.where(box[..., None], image_in, image_around)
        logits, stats = student.forward(image, dropout_keys, stats)
        inside, around = box.astype(jnp.float32), (~box).astype(jnp.float32)
        terms[name] = weight_in * losses.segmentation_loss(
            logits, goal_in, inside, axis_name
        ) + weight_around * losses.segmentation_loss(logits, goal_around, around, axis_name)
    total = terms["inward"] + terms["outward"]
    shares = {"pretraining": pretraining[None], "foreground": (pseudo > 0)}
    shares = {name: x.astype(jnp.float32) for name, x in shares.items()}
    return total, (stats, figures(terms | {"loss": total}, axis_name, shares))


def decays(context: Context, decay: float, settings: Settings) -> Decays:
    """0 while pre-training, so that the teacher starts as the student; then `decay`."""
    return (jnp.where(context.since < settings.pretrain_steps, 0.0, decay),)
