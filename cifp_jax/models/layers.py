"""Layers for 2D and 3D alike; arrays are `(b, *spatial, c)` and rank decides.

On CPUs, XLA's 3D convolution is many times slower than its 2D one. There, a 3x3x3 convolution is
the sum of three 2D ones over the planes of the first axis. Other platforms get the plain form. The
parameters are the same in both.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

Keys = Key[Array, " b"]

# Measured on a CPU: with fewer channels than this, three planes do better as the channels of one
# convolution; and with more than this, XLA's own gradient of a kernel beats the scan over planes.
_FEW, _MANY = 8, 64


def _uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for convolutions, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: Key[Array, ""], shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, tuple(shape), dtype, -bound, bound)

    return init


def convolve(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"]
) -> Float[Array, "b *spatial d"]:
    """Convolution with stride 1 and zero padding that keeps the size; odd windows.

    On CPUs, keep the gradient of it out of `lax.scan` and its kin: XLA runs it some forty times
    slower inside a loop.
    """
    return _convolve_3d(x, kernel) if kernel.shape[:-2] == (3, 3, 3) else _plain(x, kernel)


def _plain(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"]
) -> Float[Array, "b *spatial d"]:
    rank = x.ndim - 2
    spatial = "XYZ"[:rank]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers)


@jax.custom_vjp
def _convolve_3d(
    x: Float[Array, "b x y z c"], kernel: Float[Array, "3 3 3 c d"]
) -> Float[Array, "b x y z d"]:
    return lax.platform_dependent(x, kernel, cpu=_sum_of_planes, default=_plain)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve_3d(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Gradients of input and kernel; of the platform's form, so that nothing more is saved."""
    x, kernel = saved
    # The gradient of the input is a convolution with the kernel turned around.
    turned = kernel[::-1, ::-1, ::-1].swapaxes(3, 4)
    to_kernel = lax.platform_dependent(
        x, g, cpu=_kernel_gradient_by_planes, default=_kernel_gradient
    )
    return _convolve_3d(g, turned), to_kernel


_convolve_3d.defvjp(_forward, _backward)


def _kernel_gradient(
    x: Float[Array, "b *spatial c"], g: Float[Array, "b *spatial d"]
) -> Float[Array, "*window c d"]:
    """Gradient of a convolution of window 3, which is linear in its kernel."""
    shape = (3,) * (x.ndim - 2) + (x.shape[-1], g.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda k: _plain(x, k), kernel)(g)[0]


def _neighbours(x: Float[Array, "b x y z c"]) -> list[Float[Array, "b x y z c"]]:
    """For every plane of the first axis the one before it, itself, and the one after it."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return [padded[:, i : i + x.shape[1]] for i in range(3)]


def _flat(x: Float[Array, "b x y z c"]) -> Float[Array, "bx y z c"]:
    """Planes as a batch of images."""
    return x.reshape(-1, *x.shape[2:])


def _sum_of_planes(
    x: Float[Array, "b x y z c"], kernel: Float[Array, "3 3 3 c d"]
) -> Float[Array, "b x y z d"]:
    """A 3x3x3 convolution as 2D ones of each plane and its two neighbours."""
    c, d = kernel.shape[-2:]
    shape = (*x.shape[:-1], d)
    if c < _FEW:
        together = jnp.concatenate(_neighbours(x), axis=-1)
        flat = jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3 * c, d)
        return _plain(_flat(together), flat).reshape(shape)
    # Results are shifted, not inputs: that adds up in one pass, and `x` is read where it lies.
    before, same, after = (
        _neighbours(_plain(_flat(x), k).reshape(shape))[i] for i, k in enumerate(kernel)
    )
    return before + same + after


def _kernel_gradient_by_planes(
    x: Float[Array, "b x y z c"], g: Float[Array, "b x y z d"]
) -> Float[Array, "3 3 3 c d"]:
    """The kernel's gradient; with few channels by a scan over planes, as matrix products."""
    b, planes, rows, columns, c = x.shape
    d = g.shape[-1]
    if max(c, d) > _MANY:
        return jnp.stack([_kernel_gradient(_flat(n), _flat(g)) for n in _neighbours(x)])
    # With padded rows one after the other, a step along y or z is an offset in a plane.
    width = columns + 2
    size = rows * width
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0))).reshape(b, planes + 2, -1, c)
    g = jnp.pad(g, ((0, 0), (0, 0), (0, 0), (0, 2), (0, 0))).reshape(b, planes, size, d)

    def of_example(x: Array, g: Array) -> Array:
        def add(total: Array, plane: Array) -> tuple[Array, None]:
            near = lax.dynamic_slice_in_dim(x, plane, 3)
            turned = jnp.pad(g[plane].T, ((0, 0), (2, 0)))
            # The steps along z are taken by `g`, so that one product serves all three.
            shifted = jnp.concatenate([turned[:, 2 - k : 2 - k + size] for k in range(3)])
            products = [
                shifted @ near[i, j * width : j * width + size] for i in range(3) for j in range(3)
            ]
            return total + jnp.stack(products), None

        total, _ = lax.scan(add, jnp.zeros((9, 3 * d, c), x.dtype), jnp.arange(planes))
        return total.reshape(3, 3, 3, d, c).swapaxes(3, 4)

    # Mapped, not scanned over, the examples stay on their devices.
    return jnp.sum(jax.vmap(of_example)(x, g), axis=0)


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
