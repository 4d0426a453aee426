"""How far a teacher, a moving average, stays where it is at a step."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Decays = tuple[Float[Array, ""], ...]


def warm_decay(updates: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """`min(1 - 1 / (n + 1), decay)` after n updates: a plain mean at first."""
    return jnp.minimum(1 - 1 / (updates + 1), decay)


def one_teacher(step: Int[Array, ""], decay: float, settings: Any) -> Decays:
    """The rule of most methods: one teacher, averaged at every step."""
    del settings
    return (warm_decay(step, decay),)
