"""Supervised-only training: the labelled stream alone, for comparison."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

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
    student: Network | tuple[Network, ...],
    teacher: Any,
    batch: Batch,
    context: Context,
    settings: Settings,
) -> Outcome:
    """`L_x = (CE + Dice) / 2` of the labelled images alone; the teacher is not read.

    Several students, of a method that begins with supervised steps, each have a loss of their own,
    and the loss is the sum of these.
    """
    del teacher, settings
    labeled, axis_name = batch["labeled"], context.axis_name
    students = (student,) if isinstance(student, Network) else student
    total, moved = jnp.zeros(()), []
    for number, one in enumerate(students):
        key = jax.random.fold_in(context.key, number) if number else context.key
        keys = parallel.example_keys(key, labeled["index"])
        logits, batch_stats = one.forward(labeled["image"], keys, one.batch_stats)
        label = one_hot(labeled["label"], logits.shape[-1])
        total += segmentation_loss(logits, label, 1.0, axis_name)
        moved.append(batch_stats)
    stats = moved[0] if isinstance(student, Network) else tuple(moved)
    return total, (stats, figures({"loss": total, "supervised": total}, axis_name))
