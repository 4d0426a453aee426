"""Uncertainty-weighted fusion of pseudo labels (given: S3; the formulas are reconstructed)."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float, Key

from cifp_jax.methods.losses import one_hot, segmentation_loss
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """How predictions of the same images become one pseudo label."""

    kind: str = setting(
        "deviation",
        "What the uncertainty U_m of a member is: entropy, `H(p_m) / log K`; kl, "
        "`KL(p_m || mean p)` in nats; entropy_kl, their sum; deviation, "
        "`H(p_m) / log K + KL(p_w || p_m)`, by which a confident member that a perturbation has "
        "led away from the weak prediction counts less. The others weigh without an uncertainty: "
        "mean gives all members the same weight, random draws the weights of each example from a "
        "flat Dirichlet distribution, and weak_only takes the weak prediction alone.",
        options=("entropy", "kl", "entropy_kl", "deviation", "mean", "random", "weak_only"),
    )
    temperature: float = setting(
        1.0,
        "The temperature T of the weights: 1 compares entropies in bits, towards 0 the least "
        "uncertain member is taken, towards infinity the mean.",
        low=0,
        unit="1 / log2 K",
    )
    gamma: float = setting(
        1.0,
        "The strength of the reliability R; 0 makes every voxel count the same, the literal "
        "reading of S3.",
        low=0,
    )
    target: str = setting(
        "hard",
        "What a prediction is compared with: the class of the largest fused probability (hard), or "
        "the fused probabilities (soft).",
        options=("hard", "soft"),
    )
    threshold: float = setting(
        0.95,
        "The confidence that a voxel needs under weak_only, which has this mask in place of R.",
        low=0,
        high=1,
    )
    strong_member: bool = setting(
        False,
        "Whether the teacher's prediction of the (first) strong view before mixing joins the "
        "fusion.",
    )


class Fused(NamedTuple):
    """A fused pseudo label; no gradient passes through it.

    Attributes:
      probs: `p^`, the weighted mean of the members.
      target: what a prediction is compared with: one-hot argmax of `p^`, or `p^` itself.
      reliability: R in [0, 1], the weight of each voxel in the loss.
      weights: `w_m` of each member, adding up to 1 over members.
    """

    probs: Float[Array, "b *spatial k"]
    target: Float[Array, "b *spatial k"]
    reliability: Float[Array, "b *spatial"]
    weights: Float[Array, "m b *spatial"]


def normalized_entropy(probs: Float[Array, "*shape k"]) -> Float[Array, "*shape"]:
    """`H(p) / log K` in [0, 1], with 0 log 0 = 0."""
    return jnp.sum(entr(probs), axis=-1) / math.log(probs.shape[-1])


def divergence_from_mean(
    members: Float[Array, "m b *spatial k"], entropies: Float[Array, "m b *spatial"]
) -> Float[Array, "m b *spatial"]:
    """`KL(p_m || mean of the members)` in nats; `entropies` are the members' `H / log K`."""
    mean = jnp.mean(members, axis=0)
    # Where the mean is 0, every member is 0 too, and the product below vanishes.
    log_mean = jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))
    cross = -jnp.sum(members * log_mean, axis=-1)
    return jnp.maximum(cross - math.log(members.shape[-1]) * entropies, 0)


def divergence_from_weak(
    members: Float[Array, "m b *spatial k"], entropies: Float[Array, "m b *spatial"]
) -> Float[Array, "m b *spatial"]:
    """`KL(p_w || p_m)` in nats, 0 for the first member, the weak prediction itself."""
    log_members = jnp.log(jnp.maximum(members, jnp.finfo(members.dtype).tiny))
    cross = -jnp.sum(members[0] * log_members, axis=-1)
    return jnp.maximum(cross - math.log(members.shape[-1]) * entropies[0], 0)


def _member_weights(
    members: Float[Array, "m b *spatial k"],
    entropies: Float[Array, "m b *spatial"],
    settings: Settings,
    keys: Key[Array, " b"] | None,
) -> Float[Array, "m b *spatial"]:
    (count, batch), kind = members.shape[:2], settings.kind
    if kind == "weak_only":
        return jnp.zeros_like(entropies).at[0].set(1)
    if kind == "mean":
        return jnp.full_like(entropies, 1 / count)
    if kind == "random":
        if keys is None:
            raise ValueError("Random fusion weights need a key for each example.")
        # Normalised exponentials are a uniform draw from the simplex: Dirichlet(1, ..., 1).
        drawn = jax.vmap(lambda key: jax.random.exponential(key, (count,)))(keys)
        drawn = (drawn / jnp.sum(drawn, axis=1, keepdims=True)).T
        drawn = drawn.reshape((count, batch) + (1,) * (entropies.ndim - 2))
        return jnp.broadcast_to(drawn, entropies.shape)
    uncertainty = {
        "entropy": lambda: entropies,
        "kl": lambda: divergence_from_mean(members, entropies),
        "entropy_kl": lambda: entropies + divergence_from_mean(members, entropies),
        "deviation": lambda: entropies + divergence_from_weak(members, entropies),
    }[kind]()
    scale = settings.temperature / math.log2(members.shape[-1])
    return jax.nn.softmax(-uncertainty / max(scale, 1e-6), axis=0)


def fuse(
    members: Float[Array, "m b *spatial k"],
    settings: Settings,
    *,
    entropies: Float[Array, "m b *spatial"] | None = None,
    keys: Key[Array, " b"] | None = None,
) -> Fused:
    """Fuses predictions of the same images, the uncertain ones counting less.

    `w_m = softmax_m(-U_m / T)`, `p^ = sum_m w_m p_m`, and
    `R = exp(-gamma * (H(p^) / log K + sum_m w_m KL(p_m || p^)))`, a voxel at a time.
    The second term of R answers the known risk of entropy weights, a confidently wrong member.

    Args:
      members: distributions, the weak prediction first.
      settings: which U_m and T, gamma, and whether the target is `p^` or its one-hot argmax;
        weak_only has no R of the form above but a hard mask, `max p >= threshold`.
      entropies: `normalized_entropy(members)` where it is at hand already.
      keys: of the examples, for random.

    Raises:
      ValueError: random weights are asked for without keys.
    """
    members = jax.lax.stop_gradient(members)
    if entropies is None:
        entropies = normalized_entropy(members)
    entropies = jax.lax.stop_gradient(entropies)
    classes = members.shape[-1]
    weights = _member_weights(members, entropies, settings, keys)
    probs = jnp.sum(weights[..., None] * members, axis=0)
    if settings.kind == "weak_only":
        reliability = (jnp.max(probs, axis=-1) >= settings.threshold).astype(probs.dtype)
    else:
        entropy = normalized_entropy(probs)
        # As p^ is the weighted mean, sum_m w_m KL(p_m || p^) = H(p^) - sum_m w_m H(p_m).
        gap = jnp.maximum(entropy - jnp.sum(weights * entropies, axis=0), 0)
        reliability = jnp.exp(-settings.gamma * (entropy + math.log(classes) * gap))
    hard = settings.target == "hard"
    goal = one_hot(jnp.argmax(probs, axis=-1), classes) if hard else probs
    return Fused(probs, goal, reliability, weights)


def fusion_loss(
    logits: Float[Array, "b *spatial k"],
    target: Float[Array, "b *spatial k"],
    reliability: Float[Array, "b *spatial"],
    axis_name: str | None,
    *,
    present_only: bool = False,
) -> Float[Array, ""]:
    """Loss of a member against the fused pseudo label: (CE + Dice) / 2, both weighted by R.

    Gradients reach the logits alone. `target` and `reliability` are those of `fuse`, mixed by the
    box of the view where it was mixed.
    """
    target, reliability = jax.lax.stop_gradient((target, reliability))
    return segmentation_loss(logits, target, reliability, axis_name, present_only=present_only)
