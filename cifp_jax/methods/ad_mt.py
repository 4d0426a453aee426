"""AD-MT, alternate diverse teaching (Zhao et al., ECCV 2024)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.ema import Decays, warm_decay
from cifp_jax.methods.fusion import fuse
from cifp_jax.methods.options import check_option
from cifp_jax.methods.shared import Metrics, clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network

CRITERIA = ("dice", "ce")
PERIOD = 50
_DRAWN = 4096  # periods before the same ones come again; an even number


def active_teacher(step: Int[Array, ""], period: int) -> Int[Array, ""]:
    """Which teacher (0 or 1) follows the student at a step: they take turns.

    Each turn takes a number of steps drawn uniformly from 1 to `period`. The turns are the same in
    every run: drawn once, they follow from the step alone, and a resumed run keeps them.
    """
    ends = np.cumsum(np.random.default_rng(0).integers(1, period + 1, _DRAWN))
    turn = jnp.searchsorted(jnp.asarray(ends, jnp.int32), step % int(ends[-1]), side="right")
    return turn % 2


def loss(
    student: Network,
    teacher: tuple[Network, Network],
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    threshold: float = 0.95,
    criterion: str = "dice",
    cutmix: float = 1.0,
    period: int = PERIOD,
    lambda_max: float = 2.0,
    ramp_steps: int = 7500,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = L_x + lambda(t) * l(p_s, y^)` over voxels where `max p^ >= tau`.

    Two teachers follow one student in turns of random length (`active_teacher`), so that they
    average different stretches, batches and augmentations: during the first one's turns the
    strong view is photometric, during the second one's it is CutMix of weak views. Their
    predictions of the weak view are weighted by their certainty,
    `p^ = (e^-H1 p_1 + e^-H2 p_2) / (e^-H1 + e^-H2)`, entropies H in bits, a voxel at a time, and
    y^ = argmax p^. Voxels on which the teachers disagree count as all others. l is a Dice loss, or
    the cross entropy. Settings: the published ones of ACDC; on LA tau is 0.8, l the cross entropy,
    the longest turn 19 steps and the ramp 6,000.

    Different from the published code: there, both predictions get the weight `e^-(H1 + H2)`, which
    cancels and leaves their plain mean; the weights here are those of the paper's words, an
    ensemble by entropy. Its pseudo label is then replaced by the student's where the two disagree
    and the student is surer; as the label has been mixed by CutMix and the student's has not, they
    belong to different places, and the student has no say here. Its active teacher normalises by
    the batch and has dropout on; here both use running statistics. Strong views move no running
    statistics. The boxes are those of `views.box_mask`.

    Args:
      student: the network that is trained.
      teacher: the two moving averages.
      batch: as for `cifp.loss`.
      rng: key of the step.
      step: number of the step, from 0.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      threshold: tau.
      criterion: dice or ce.
      cutmix: probability of a box during the second teacher's turns.
      period: longest turn, in steps.
      lambda_max: weight of the unlabelled loss after the ramp.
      ramp_steps: length of the ramp.

    Returns:
      The loss, and the moved batch statistics with the metrics: global `(sum, count)` pairs.
    """
    check_option("criterion", criterion, CRITERIA)
    rng_keys, rng_views, rng_strong = jax.random.split(rng, 3)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, axis_name=axis_name, shards=shards)
    unlabeled = batch["unlabeled"]
    members = jnp.stack(
        [
            jax.nn.softmax(one.forward(unlabeled["image"], None, one.batch_stats)[0])
            for one in teacher
        ]
    )
    # Entropies in bits at temperature 1: the weights above.
    goal = confident(fuse(members, kind="entropy", temperature=1.0).probs, threshold)
    labels = jnp.argmax(members, axis=-1)

    second = active_teacher(step, period) == 1
    (photo,), (box,) = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=1, cutmix=cutmix
    )
    view = jnp.where(second, unlabeled["image"], photo)
    box = None if box is None else box & second
    ((x_s, (target, sure)),) = views.mix(goal, [view], [box])
    keys_s = parallel.example_keys(rng_strong, unlabeled["index"])
    logits_s, _ = student.forward(x_s, keys_s, student.batch_stats)
    if criterion == "dice":
        strong = losses.dice_loss(jax.nn.softmax(logits_s), target, sure, axis_name)
    else:
        strong = losses.cross_entropy(jax.nn.log_softmax(logits_s), target, sure, axis_name)

    weight = losses.consistency_weight(step, lambda_max=lambda_max, ramp_steps=ramp_steps)
    total = clean.supervised + weight * strong
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "strong": strong,
        "lambda": jnp.asarray(weight),
    }
    shares = {"confident": goal[1], "conflict": (labels[0] != labels[1]).astype(jnp.float32)}
    return total, (clean.batch_stats, figures(terms, axis_name, shares))


def decays(step: Int[Array, ""], decay: float, *, period: int = PERIOD, **settings: Any) -> Decays:
    """The active teacher follows, as if each had been updated at every second step; 1 stays."""
    del settings
    first, used = active_teacher(step, period) == 0, warm_decay(step // 2, decay)
    return jnp.where(first, used, 1.0), jnp.where(first, 1.0, used)
