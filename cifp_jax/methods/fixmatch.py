"""FixMatch (Sohn et al., NeurIPS 2020), as segmentation uses it (the baseline of UniMatch)."""

from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.shared import Metrics, clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network


def loss(
    student: Network,
    teacher: Network,
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    threshold: float = 0.95,
    cutmix: float = 0.5,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = (L_x + L_s) / 2`, `L_s = mean_v [max p_w >= tau] CE(p_s, argmax p_w)`.

    p_w is the student's own prediction of the weak view, under stop-gradient, p_s that of the
    strong view. The mean is over all unlabelled voxels, the unsure ones included.

    Different from the published code: the other image of CutMix comes from the same batch, and its
    pseudo label from the same pass, where that code predicts it in a pass of its own with running
    statistics; and the strong views' pass moves no running statistics, as theirs does.

    Args:
      student: the network that is trained.
      teacher: not read.
      batch: as for `cifp.loss`.
      rng: key of the step.
      step: not read.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      threshold: tau.
      cutmix: probability of a box.

    Returns:
      The loss, and the moved batch statistics with the metrics: global `(sum, count)` pairs.
    """
    del teacher, step
    rng_keys, rng_views, rng_strong = jax.random.split(rng, 3)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, axis_name=axis_name, shards=shards)
    goal = confident(jax.nn.softmax(clean.logits), threshold)
    unlabeled = batch["unlabeled"]
    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=1, cutmix=cutmix
    )
    ((x_s, (target, sure)),) = views.mix(goal, *drawn)
    keys_s = parallel.example_keys(rng_strong, unlabeled["index"])
    logits_s, _ = student.forward(x_s, keys_s, student.batch_stats)
    # Weights inside the target: the mean stays one over all voxels.
    target = target * sure[..., None]
    strong = losses.cross_entropy(jax.nn.log_softmax(logits_s), target, 1.0, axis_name)
    total = (clean.supervised + strong) / 2
    terms = {"loss": total, "supervised": clean.supervised, "strong": strong}
    return total, (clean.batch_stats, figures(terms, axis_name, {"confident": goal[1]}))
