"""Uncertainty-weighted fusion of pseudo labels (given: S3; the formulas are reconstructed)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float

from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """How predictions of the same images become one pseudo label."""

    kind: str = setting(
        "none",
        "The weights of the members: all of it for the prediction of the image as it is (none), by "
        "their entropy (entropy), or all the same (mean).",
        options=("none", "entropy", "mean"),
    )
    temperature: float = setting(
        0.25,
        "The temperature T of weights by entropy: towards 0 the least uncertain member is taken, "
        "towards infinity the mean.",
        low=0.001,
        unit="log K",
    )
    gamma: float = setting(
        2.0,
        "How much less uncertain voxels count in the loss: a voxel's weight is exp(-gamma U).",
        low=0,
    )


class Fused(NamedTuple):
    """Several predictions of the same images as one; no gradient passes through it.

    Attributes:
      probs: `p^`, the weighted mean of the members.
      weights: `w_m` of each member, adding up to 1 over members.
    """

    probs: Float[Array, "b *spatial k"]
    weights: Float[Array, "m b *spatial"]


def normalized_entropy(probs: Float[Array, "*shape k"]) -> Float[Array, "*shape"]:
    """`H(p) / log K` in [0, 1], with 0 log 0 = 0."""
    return jnp.sum(entr(probs), axis=-1) / math.log(probs.shape[-1])


def fuse(members: Float[Array, "m b *spatial k"], temperature: float) -> Fused:
    """Fuses predictions of the same images, the uncertain ones counting less, voxel by voxel.

    `U_m = H(p_m) / log K`, `w_m = softmax_m(-U_m / T)`, `p^ = sum_m w_m p_m`.

    Args:
      members: distributions.
      temperature: T, in units of the largest entropy: towards 0 the least uncertain member is
        taken, towards infinity the mean.
    """
    members = jax.lax.stop_gradient(members)
    uncertainty = normalized_entropy(members)
    weights = jax.nn.softmax(-uncertainty / temperature, axis=0)
    return Fused(jnp.sum(weights[..., None] * members, axis=0), weights)
