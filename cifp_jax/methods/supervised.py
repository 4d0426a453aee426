"""Supervised-only training: the labelled stream alone, for comparison."""

from typing import Any

from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods.losses import one_hot, segmentation_loss
from cifp_jax.methods.shared import Metrics, figures
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
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L_x = (CE + Dice) / 2` of the labelled images; unlabelled images and teacher are not read.

    Args:
      student: the network that is trained.
      teacher: not read.
      batch: `labeled` with `image` `(b, *spatial, c)`, `label` `(b, *spatial)` and `index` `(b,)`.
      rng: key of the step.
      step: not read.
      axis_name: of the pmapped devices, or None.
      shards: not read.

    Returns:
      The loss, and the moved batch statistics with the metrics, `(sum, count)` each.
    """
    del teacher, step, shards
    labeled = batch["labeled"]
    keys = parallel.example_keys(rng, labeled["index"])
    logits, batch_stats = student.forward(labeled["image"], keys, student.batch_stats)
    value = segmentation_loss(logits, one_hot(labeled["label"], logits.shape[-1]), 1.0, axis_name)
    return value, (batch_stats, figures({"loss": value, "supervised": value}, axis_name))
