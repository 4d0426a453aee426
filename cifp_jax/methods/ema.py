"""How far a teacher, a moving average, stays where it is at a step."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cifp_jax.methods.context import Context

Decays = tuple[Float[Array, ""], ...]


def warm_decay(updates: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """`min((1 + n) / (10 + n), decay)` after n updates: the last tenth of the steps, at first.

    The field's `1 - 1 / (n + 1)` is the mean of all steps, the first ones included, and segments
    nothing until it has forgotten them.
    """
    return jnp.minimum((1 + updates) / (10 + updates), decay)


def one_teacher(context: Context, decay: float, settings: Any) -> Decays:
    """The rule of most methods: one teacher, averaged at every step."""
    del settings
    return (warm_decay(context.step, decay),)
