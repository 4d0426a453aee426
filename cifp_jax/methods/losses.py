"""Segmentation losses over the global batch, and the ramp of the consistency weight.

Every mean and every Dice ratio is made of sums over all devices (`parallel.global_sum`), so that a
loss has one value on every device and its gradients are to be summed over devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cifp_jax import parallel

SMOOTH = 1e-5


def one_hot(label: Int[Array, "b *spatial"], classes: int) -> Float[Array, "b *spatial k"]:
    """Class indices in [0, classes) as a distribution over a new last axis, `k` classes long."""
    return jax.nn.one_hot(label, classes, dtype=jnp.float32)


def cross_entropy(
    log_probs: Float[Array, "b *spatial k"],
    target: Float[Array, "b *spatial k"],
    weights: Float[Array, "b *spatial"] | float,
    axis_name: str | None,
) -> Float[Array, ""]:
    """`sum_v R_v * -sum_c y_vc log p_vc / sum_v R_v`, in nats, over the voxels of all devices.

    The target is a distribution: a product compiles to far faster code on the CPU than a gather by
    class index, whose gradient is a scatter.
    """
    values = -jnp.sum(target * log_probs, axis=-1)
    return parallel.weighted_mean(values, jnp.asarray(weights, values.dtype), axis_name)


def dice_loss(
    probs: Float[Array, "b *spatial k"],
    target: Float[Array, "b *spatial k"],
    weights: Float[Array, "b *spatial"] | float,
    axis_name: str | None,
    *,
    present_only: bool = False,
    foreground_only: bool = False,
) -> Float[Array, ""]:
    """Mean over classes, background included, of one Dice loss a class over the global batch.

    `1 - (2 sum R p y + s) / (sum R p^2 + sum R y^2 + s)` with s = 1e-5, in [0, 1].

    Args:
      probs: predicted distribution.
      target: distribution to be reached, one-hot or soft.
      weights: R, one a voxel, at least 0.
      axis_name: of the pmapped devices, or None.
      present_only: take the mean over those classes only that the target holds with a weight above
        zero. A class that the batch lacks otherwise is pushed towards zero everywhere.
      foreground_only: leave the background out of the mean.
    """
    if foreground_only:
        probs, target = probs[..., 1:], target[..., 1:]
    weights = jnp.broadcast_to(jnp.asarray(weights, probs.dtype), probs.shape[:-1])[..., None]
    axes = tuple(range(probs.ndim - 1))

    def total(x: Float[Array, "b *spatial k"]) -> Float[Array, " k"]:
        return parallel.global_sum(jnp.sum(weights * x, axis=axes), axis_name)

    truth = total(target**2)
    loss = 1 - (2 * total(probs * target) + SMOOTH) / (total(probs**2) + truth + SMOOTH)
    if not present_only:
        return jnp.mean(loss)
    present = (truth > 0).astype(loss.dtype)
    return jnp.sum(present * loss) / jnp.maximum(jnp.sum(present), 1)


def segmentation_loss(
    logits: Float[Array, "b *spatial k"],
    target: Float[Array, "b *spatial k"],
    weights: Float[Array, "b *spatial"] | float,
    axis_name: str | None,
    *,
    present_only: bool = False,
    foreground_only: bool = False,
) -> Float[Array, ""]:
    """`(CE + Dice) / 2` against a target distribution, weighted by voxel (reconstructed)."""
    log_probs = jax.nn.log_softmax(logits)
    entropy = cross_entropy(log_probs, target, weights, axis_name)
    dice = dice_loss(
        jnp.exp(log_probs),
        target,
        weights,
        axis_name,
        present_only=present_only,
        foreground_only=foreground_only,
    )
    return (entropy + dice) / 2


def squared_error(
    probs: Float[Array, "b *spatial k"],
    target: Float[Array, "b *spatial k"],
    weights: Float[Array, "b *spatial"] | float,
    axis_name: str | None,
) -> Float[Array, ""]:
    """`sum_v R_v * mean_c (p_vc - y_vc)^2 / sum_v R_v`; no gradient reaches the target."""
    values = jnp.mean((probs - jax.lax.stop_gradient(target)) ** 2, axis=-1)
    return parallel.weighted_mean(values, jnp.asarray(weights, values.dtype), axis_name)


def consistency_weight(
    step: Int[Array, ""], *, lambda_max: float, ramp_steps: int
) -> Float[Array, ""]:
    """`lambda(t) = lambda_max * exp(-5 (1 - min(t, t_r) / t_r)^2)`; t_r = 0 means no ramp."""
    return lambda_max * jnp.exp(-5 * (1 - ramp_progress(step, ramp_steps)) ** 2)


def ramp_progress(step: Int[Array, ""], ramp_steps: int) -> Float[Array, ""]:
    """Share of the ramp that is done, in [0, 1]."""
    if ramp_steps < 1:
        return jnp.ones(())
    return jnp.minimum(step / ramp_steps, 1.0).astype(jnp.float32)
