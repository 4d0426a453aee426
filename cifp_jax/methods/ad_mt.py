"""AD-MT, alternate diverse teaching (Zhao et al., ECCV 2024)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import fusion, losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.ema import Decays, warm_decay
from cifp_jax.methods.shared import clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting

_DRAWN = 4096  # periods before the same ones come again; an even number


def active_teacher(step: Int[Array, ""], period: int) -> Int[Array, ""]:
    """Which teacher (0 or 1) follows the student at a step: they take turns.

    Each turn takes a number of steps drawn uniformly from 1 to `period`. The turns are the same in
    every run: drawn once, they follow from the step alone, and a resumed run keeps them.
    """
    ends = np.cumsum(np.random.default_rng(0).integers(1, period + 1, _DRAWN))
    turn = jnp.searchsorted(jnp.asarray(ends, jnp.int32), step % int(ends[-1]), side="right")
    return turn % 2


def half_box(
    key: Key[Array, ""], spatial: tuple[int, ...], probability: float
) -> Bool[Array, "*spatial"]:
    """A box of about half of the image, or nothing (1 - `probability`).

    Every side, in 2D as in 3D, is the fraction `sqrt(s)` of the image's, `s ~ Beta(4, 4)`. The
    middle is uniform from an eighth of each axis to its end, and what sticks out is cut off, so
    that on average 36 % of a slice are covered, and 22 % of a crop in 3D.
    """
    rank = len(spatial)
    # One draw of all numbers. The median of seven uniform ones has the distribution Beta(4, 4).
    drawn = jax.random.uniform(key, (rank + 8,))
    apply, place, share = drawn[0], drawn[1 : rank + 1], jnp.sort(drawn[rank + 1 :])[3]
    size = jnp.array(spatial)
    half = jnp.floor(size * jnp.sqrt(share)).astype(jnp.int32) // 2
    first = size // 8
    middle = first + jnp.floor(place * (size - first)).astype(jnp.int32)
    start, stop = jnp.maximum(middle - half, 0), jnp.minimum(middle + half, size)
    return views.fill_box(spatial, start, stop) & (apply < probability)


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of AD-MT; the defaults are the published ones of ACDC."""

    threshold: float = setting(
        0.95,
        "The confidence tau that a voxel's pseudo label needs in order to be learned from.",
        low=0,
        high=1,
    )
    criterion: str = setting(
        "dice",
        "The loss l of the strong view: a Dice loss (dice) or the cross entropy (ce).",
        options=("dice", "ce"),
    )
    cutmix: float = setting(
        1.0,
        "The probability of a CutMix box in the strong view during the second teacher's turns.",
        low=0,
        high=1,
    )
    cutmix_source: str = views.source_setting()
    period: int = setting(50, "The longest turn of a teacher.", low=1, unit="steps")
    lambda_max: float = setting(2.0, "The weight of the unlabelled loss after the ramp.", low=0)
    ramp_steps: int = setting(7500, "The length of the ramp of that weight.", low=0, unit="steps")


def loss(
    student: Network,
    teacher: tuple[Network, Network],
    batch: Batch,
    context: Context,
    settings: Settings,
) -> Outcome:
    """`L = L_x + lambda(t) * l(p_s, y^)` over voxels where `max p^ >= tau`.

    Two teachers follow one student in turns of random length (`active_teacher`), so that they
    average different stretches, batches and augmentations: during the first one's turns the
    strong view is photometric, during the second one's it is CutMix of weak views with large boxes
    (`half_box`). Their predictions of the weak view are weighted by their certainty,
    `p^ = (e^-H1 p_1 + e^-H2 p_2) / (e^-H1 + e^-H2)`, entropies H in bits, a voxel at a time, and
    y^ = argmax p^. Voxels on which the teachers disagree count as all others. l is a Dice loss, or
    the cross entropy. Settings: the published ones of ACDC; on LA tau is 0.8, l the cross entropy,
    the longest turn 19 steps and the ramp 6,000. Boxes of labelled images (`cutmix_source`), which
    are shown as weak views too, are an addition.

    Different from the published code: its pseudo label is replaced by the student's where the
    teachers disagree and the student is surer; here the student has no say. (After CutMix the two
    belong to different places, as the label has been mixed and the student's prediction has not.)
    Its active teacher normalises by the batch and has dropout on; here both use running statistics.
    Strong views have a pass of their own, which moves no running statistics. Each box has a size of
    its own, where there one serves the whole batch, and shows the neighbour in the batch. The ramp
    rises at every step, not every 150. (One version of the 2D script gives both predictions the
    same weight, `e^-(H1 + H2)`; the other scripts have the weights above.)
    """
    axis_name = context.axis_name
    rng_keys, rng_views, rng_strong, rng_boxes = jax.random.split(context.key, 4)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, context)
    unlabeled = batch["unlabeled"]
    members = jnp.stack(
        [
            jax.nn.softmax(one.forward(unlabeled["image"], None, one.batch_stats)[0])
            for one in teacher
        ]
    )
    # In units of log K, a bit is 1 / log2 K.
    bit = 1 / math.log2(members.shape[-1])
    goal = confident(fusion.fuse(members, bit).probs, settings.threshold)
    labels = jnp.argmax(members, axis=-1)

    second = active_teacher(context.step, settings.period) == 1
    (photo,), (box,) = views.strong_views(
        rng_views,
        unlabeled["image"],
        unlabeled["index"],
        count=1,
        cutmix=settings.cutmix,
        box=half_box,
    )
    shown = views.shown_in_boxes(
        settings.cutmix_source, rng_boxes, batch, clean.label, context.shards, weak=True
    )
    view = jnp.where(second, unlabeled["image"], photo)
    box = None if box is None else box & second
    ((x_s, (target, sure)),) = views.mix(goal, [view], [box], shown)
    keys_s = parallel.example_keys(rng_strong, unlabeled["index"])
    logits_s, _ = student.forward(x_s, keys_s, student.batch_stats)
    if settings.criterion == "dice":
        strong = losses.dice_loss(jax.nn.softmax(logits_s), target, sure, axis_name)
    else:
        strong = losses.cross_entropy(jax.nn.log_softmax(logits_s), target, sure, axis_name)

    weight = losses.consistency_weight(
        context.since, lambda_max=settings.lambda_max, ramp_steps=settings.ramp_steps
    )
    total = clean.supervised + weight * strong
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "strong": strong,
        "lambda": jnp.asarray(weight),
    }
    shares = {"confident": goal[1], "conflict": (labels[0] != labels[1]).astype(jnp.float32)}
    return total, (clean.batch_stats, figures(terms, axis_name, shares))


def decays(context: Context, decay: float, settings: Settings) -> Decays:
    """The active teacher follows, as if each had been updated at every second step; 1 stays."""
    first = active_teacher(context.step, settings.period) == 0
    used = warm_decay(context.step // 2, decay)
    return jnp.where(first, used, 1.0), jnp.where(first, 1.0, used)
