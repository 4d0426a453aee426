"""Supervised-only training: the labelled stream alone, for comparison."""

import dataclasses

from cifp_jax import parallel
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.losses import one_hot, segmentation_loss
from cifp_jax.methods.shared import figures
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Supervised training has no settings of its own."""


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L_x = (CE + Dice) / 2` of the labelled images alone; the teacher is not read."""
    del teacher, settings
    labeled, axis_name = batch["labeled"], context.axis_name
    keys = parallel.example_keys(context.key, labeled["index"])
    logits, batch_stats = student.forward(labeled["image"], keys, student.batch_stats)
    value = segmentation_loss(logits, one_hot(labeled["label"], logits.shape[-1]), 1.0, axis_name)
    return value, (batch_stats, figures({"loss": value, "supervised": value}, axis_name))
