"""Layers for 2D and 3D alike; arrays are `(b, *spatial, c)` and rank decides.

On CPUs, XLA has no fast 3D convolution. There, a 3x3x3 convolution runs as a 2D one over the last
two spatial axes, with the three neighbours along the first axis side by side as channels. Other
platforms get the plain form. The parameters are the same in both.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

Keys = Key[Array, " b"]


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Key[Array, ""], shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def convolve(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"]
) -> Float[Array, "b *spatial d"]:
    """Convolution with stride 1 and zero padding that keeps the size; odd windows."""
    rank = x.ndim - 2
    spatial = "XYZ"[:rank]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")

    def plain(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers)

    if rank != 3 or kernel.shape[0] != 3:
        return plain(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_convolve_by_planes, default=plain)


def _convolve_by_planes(
    x: Float[Array, "b x y z c"], kernel: Float[Array, "3 3 3 c d"]
) -> Float[Array, "b x y z d"]:
    """A 3x3x3 convolution as one 2D convolution of every plane and its two neighbours."""
    b, planes, *plane, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    neighbours = jnp.concatenate([padded[:, i : i + planes] for i in range(3)], axis=-1)
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(3, 3, 3 * c, -1)
    y = lax.conv_general_dilated(
        neighbours.reshape(b * planes, *plane, 3 * c),
        flat,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(b, planes, *plane, -1)


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
        return (x @ kernel.reshape(shape[-2:]) if self.window == 1 else convolve(x, kernel)) + bias


class Down(nn.Module):
    """Convolution 2x2(x2) with stride 2: a matrix product over blocks."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *spatial c"]) -> Float[Array, "b *half d"]:
        shape = (2,) * (x.ndim - 2) + (x.shape[-1], self.features)
        init = _uniform(math.prod(shape[:-1]))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        return _space_to_depth(x) @ kernel.reshape(-1, self.features) + bias


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
        return _depth_to_space(x @ flat) + bias


def batch_norm(axis_name: str | None) -> nn.BatchNorm:
    """Batch normalisation with PyTorch's epsilon and momentum.

    Flax's running variance is the biased one, PyTorch's the unbiased: the same to 1 / (b * voxels).
    """
    return nn.BatchNorm(momentum=0.9, epsilon=1e-5, axis_name=axis_name)


def upsample(x: Float[Array, "b *half c"]) -> Float[Array, "b *spatial c"]:
    """Doubles every side by linear interpolation with aligned corners.

    Output i reads position i * (n - 1) / (2 n - 1); `jax.image.resize` aligns half-pixel centres
    instead. One small matrix product along each axis.
    """
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        position = jnp.arange(2 * n) * ((n - 1) / (2 * n - 1))
        weights = jnp.maximum(0, 1 - jnp.abs(position[:, None] - jnp.arange(n))).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,))), -1, axis)
    return x


def max_pool(x: Float[Array, "b *spatial c"]) -> Float[Array, "b *half c"]:
    """Maximum over blocks of 2x2(x2)."""
    window = (2,) * (x.ndim - 2)
    return nn.max_pool(x, window, strides=window)


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
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, shape)

    return jnp.where(jax.vmap(mask)(keys), x / (1 - rate), 0)


def check_size(spatial: Sequence[int], multiple: int) -> None:
    """Raises ValueError where a side is no multiple of the network's total stride."""
    if any(n % multiple for n in spatial):
        fits = tuple(max(1, round(n / multiple)) * multiple for n in spatial)
        raise ValueError(
            f"An image of {tuple(spatial)} cannot be halved four times: each side must be a "
            f"multiple of {multiple}. The nearest patch_size that fits is {fits}."
        )
