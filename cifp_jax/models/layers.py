"""Layers for 2D and 3D alike; arrays are `(b, *spatial, c)` and rank decides."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from cifp_jax.models.convolution import convolve

Keys = Key[Array, " b"]
Features = tuple[Float[Array, "b *_"], ...]
# The name of what the backward pass keeps of a layer; see `network.bind`.
KEPT = "kept"
NORMALIZATIONS = ("batch", "instance")
_EPSILON = 1e-5  # PyTorch's
MOMENTUM = 0.9  # of running batch statistics: the share of the old ones


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Key[Array, ""], shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def _space_to_depth(x: Float[Array, "b *spatial c"]) -> Float[Array, "b *half window_c"]:
    """Each 2x2(x2) block becomes one position whose channels are the block, row-major."""
    b, *spatial, c = x.shape
    rank = len(spatial)
    blocks = x.reshape(b, *(n for side in spatial for n in (side // 2, 2)), c)
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return blocks.transpose(order).reshape(b, *(side // 2 for side in spatial), -1)


def _depth_to_space(x: Float[Array, "b *half window_c"]) -> Float[Array, "b *spatial c"]:
    """The inverse of `_space_to_depth`."""
    b, *half, channels = x.shape
    rank = len(half)
    blocks = x.reshape(b, *half, *(2,) * rank, channels // 2**rank)
    order = [0, *(i for a in range(rank) for i in (1 + a, 1 + rank + a)), 2 * rank + 1]
    return blocks.transpose(order).reshape(b, *(2 * side for side in half), -1)


class Conv(nn.Module):
    """Convolution with bias, `window` wide along every axis, that keeps the size."""

    features: int
    window: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *spatial d"]:
        shape = (self.window,) * (x.ndim - 2) + (x.shape[-1], self.features)
        init = _uniform(math.prod(shape[:-1]))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        x = x @ kernel.reshape(shape[-2:]) if self.window == 1 else convolve(x, kernel)
        return checkpoint_name(x + bias, KEPT)


class Down(nn.Module):
    """Convolution 2x2(x2) with stride 2: a matrix product over blocks."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *half d"]:
        shape = (2,) * (x.ndim - 2) + (x.shape[-1], self.features)
        init = _uniform(math.prod(shape[:-1]))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        return checkpoint_name(_space_to_depth(x) @ kernel.reshape(-1, self.features) + bias, KEPT)


class Up(nn.Module):
    """Transposed convolution 2x2(x2) with stride 2: a matrix product into blocks."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *half c"]) -> Float[Array, "b *spatial d"]:
        shape = (2,) * (x.ndim - 2) + (x.shape[-1], self.features)
        # PyTorch counts the fan-in of a transposed convolution over its output channels.
        init = _uniform(2 ** (x.ndim - 2) * self.features)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        flat = jnp.moveaxis(kernel, -2, 0).reshape(x.shape[-1], -1)
        return checkpoint_name(_depth_to_space(x @ flat) + bias, KEPT)


def batch_norm(axis_name: str | None) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's epsilon and momentum.

    Flax's running variance is the biased one, PyTorch's the unbiased: the same to 1 / (b * voxels).
    """
    return nn.BatchNorm(momentum=MOMENTUM, epsilon=_EPSILON, axis_name=axis_name)


def normalize(
    x: Float[Array, "b *spatial c"], kind: str, axis_name: str | None, *, train: bool
) -> Float[Array, "b *spatial c"]:
    """A layer that normalises, of the module that calls this.

    Args:
      x: features.
      kind: one of `NORMALIZATIONS`. batch: each channel over the batch, and in prediction by
        running statistics. instance: each channel over its own image, always, so that images of a
        batch know nothing of each other and there are no statistics to keep or to share.
      axis_name: pmapped axis over which batch statistics are shared.
      train: normalise with the statistics of this batch instead of the running ones.
    """
    if kind == "instance":
        return nn.InstanceNorm(epsilon=_EPSILON)(x)
    return batch_norm(axis_name)(x, use_running_average=not train)


def upsample(x: Float[Array, "b *half c"]) -> Float[Array, "b *spatial c"]:
    """Doubles every side by linear interpolation with aligned corners.

    Output i reads position i * (n - 1) / (2 n - 1); `jax.image.resize` aligns half-pixel centres
    instead. So output 2k lies k / (2 n - 1) before input k, and output 2k + 1 lies
    (n - 1 - k) / (2 n - 1) after it.
    """
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        k = jnp.arange(n).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        back, ahead = ((w / (2 * n - 1)).astype(x.dtype) for w in (k, n - 1 - k))
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, n - 1))
        before = jnp.concatenate([first, lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
        after = jnp.concatenate([lax.slice_in_dim(x, 1, n, axis=axis), last], axis)
        even = x + back * (before - x)
        odd = x + ahead * (after - x)
        shape = (*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
        x = jnp.stack([even, odd], axis=axis + 1).reshape(shape)
    return x


def max_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b *half c"]:
    """Maximum over blocks of 2x2(x2); of equal values the first gets the gradient, as in PyTorch.

    It compares slices, as the gradient of XLA's window reduction is six times slower on CPUs.
    """
    for axis in range(x.ndim - 2, 0, -1):
        first, second = (lax.slice_in_dim(x, i, None, 2, axis) for i in range(2))
        x = jnp.where(second > first, second, first)
    return x


def dropout(
    x: Float[Array, "b *spatial c"], rate: float, keys: Keys | None, layer: int, *, channels: bool
) -> Float[Array, "b *spatial c"]:
    """Dropout with one key an example, so that any device layout draws the same masks.

    Args:
      x: features.
      rate: probability of a zero, in [0, 1).
      keys: one key an example; None switches dropout off.
      layer: a number that no other dropout of the network has.
      channels: drops whole channels instead of single values.
    """
    if keys is None or rate == 0:
        return x
    shape = (*(1,) * (x.ndim - 2), x.shape[-1]) if channels else x.shape[1:]

    def mask(key: Key[Array, ""]) -> Array:
        # Sixteen bits a value are precise enough for a rate, and cost half of thirty-two.
        bits = jax.random.bits(jax.random.fold_in(key, layer), shape, jnp.uint16)
        return bits >= round(rate * 2**16)

    return jnp.where(checkpoint_name(jax.vmap(mask)(keys), KEPT), x / (1 - rate), 0)


def check_size(spatial: Sequence[int], multiple: int) -> None:
    """Raises ValueError where a side is no multiple of the network's total stride."""
    if any(n % multiple for n in spatial):
        fits = tuple(max(1, round(n / multiple)) * multiple for n in spatial)
        raise ValueError(
            f"An image of {tuple(spatial)} cannot be halved four times: each side must be a "
            f"multiple of {multiple}. The nearest patch_size that fits is {fits}."
        )
