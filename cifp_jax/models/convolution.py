"""Convolution, in the form that suits the platform; arrays are `(b, *spatial, c)`.

On CPUs, XLA's 3D convolution is many times slower than its 2D one. There, 3x3x3 convolutions and
their gradients are 2D ones of transformed planes (`winograd`), 2D ones of few channels compute
pixels in pairs, and the gradients of kernels that XLA is slow at are matrix products. Other
platforms get the plain form.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from cifp_jax.models import winograd

# Measured on CPUs. Below the first number of channels, three planes are inputs of one convolution,
# as they are in volumes of one tile of planes, where kernels are larger than what they meet.
# Up to the second, XLA's fast library does not take a convolution or the gradient of a kernel.
# Above the third, XLA's gradient of a kernel beats the scan over planes.
_FEW, _NARROW, _MANY = 8, 16, 64
# Pixels; in smaller images XLA's gradient of a kernel is as fast as one by bands of rows.
_LARGE = 28 * 28
# Values of a scan's features up to which the six parts of a kernel's gradient go through one loop:
# it is compiled once for all six, but wants all of them in memory.
_LOOPED = 2**22
# Rows of an image whose products fit into a core's cache.
_BAND = 8
_FLAGS = pathlib.Path("/proc/cpuinfo")


def convolve(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"]
) -> Float[Array, "b *spatial d"]:
    """Convolution with stride 1 and zero padding that keeps the size; odd windows.

    On CPUs, keep the gradient of it out of `lax.scan` and its kin: XLA runs it some forty times
    slower inside a loop.
    """
    return _convolve(x, kernel) if set(kernel.shape[:-2]) == {3} else _plain(x, kernel)


def _plain(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"], stride: int = 1
) -> Float[Array, "b *out d"]:
    """Zero-padded; `stride` is that along the last axis."""
    rank = x.ndim - 2
    spatial = "XYZ"[:rank]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    strides = (*(1,) * (rank - 1), stride)
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=numbers)


@jax.custom_vjp
def _convolve(
    x: Float[Array, "b *spatial c"], kernel: Float[Array, "*window c d"]
) -> Float[Array, "b *spatial d"]:
    """Window 3 along every axis."""
    on_cpu = _of_slices if kernel.ndim == 4 else _of_volumes
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=_plain)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Gradients of input and kernel; of the platform's form, so that nothing more is saved."""
    x, kernel = saved
    # The gradient of the input is a convolution with the kernel turned around.
    turned = jnp.flip(kernel, range(kernel.ndim - 2)).swapaxes(-2, -1)
    on_cpu = _kernel_gradient_of_slices if kernel.ndim == 4 else _kernel_gradient_of_volumes
    to_kernel = lax.platform_dependent(x, g, cpu=on_cpu, default=_kernel_gradient)
    return _convolve(g, turned), to_kernel


_convolve.defvjp(_forward, _backward)


def _kernel_gradient(
    x: Float[Array, "b *spatial c"], g: Float[Array, "b *spatial d"]
) -> Float[Array, "*window c d"]:
    """Gradient of a convolution of window 3, which is linear in its kernel."""
    shape = (3,) * (x.ndim - 2) + (x.shape[-1], g.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda k: _plain(x, k), kernel)(g)[0]


def _is_precise(x: Array) -> bool:
    """Whether sums of tiles may be rounded: in bfloat16 they would lose six times as much."""
    return jnp.finfo(x.dtype).bits >= 32


def _of_slices(
    x: Float[Array, "b y z c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b y z d"]:
    """A 3x3 convolution; of many channels by tiles of rows, of few by pairs of pixels."""
    c, d = kernel.shape[-2:]
    if min(c, d) > _NARROW and x.shape[1] > winograd.TILE and _is_precise(x):
        return winograd.convolve(x, kernel, lambda x, k: _plain(x, k[None]))
    return _by_pairs(x, kernel) if max(c, d) <= _NARROW else _plain(x, kernel)


def _by_pairs(
    x: Float[Array, "b y z c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b y z d"]:
    """A 3x3 convolution by pairs of pixels, as XLA fills its vectors with outputs.

    Two neighbours of a row are computed as one pixel of 2 d channels, by a window of four columns
    and steps of two, or, where that is slow, of pairs of inputs as well.
    """
    c, d = kernel.shape[-2:]
    if x.shape[2] % 2:
        return _plain(x, kernel)
    columns = [jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2)]
    pair = jnp.concatenate(columns, axis=-1)
    if 2 * d <= c or (c > 1 and c % 2):
        # Six columns are three pairs.
        wide = jnp.pad(pair, ((0, 0), (1, 1), (0, 0), (0, 0))).reshape(3, 3, 2 * c, 2 * d)
        result = _plain(x.reshape(*x.shape[:2], -1, 2 * c), wide)
    else:
        result = _plain(x, pair, stride=2)
    return result.reshape(*x.shape[:-1], d)


def _of_volumes(
    x: Float[Array, "b x y z c"], kernel: Float[Array, "3 3 3 c d"]
) -> Float[Array, "b x y z d"]:
    """A 3x3x3 convolution as 2D ones: by tiles of planes, or of three planes with 3 c inputs."""
    c, d = kernel.shape[-2:]
    if c >= _FEW and x.shape[1] > winograd.TILE and _is_precise(x):
        return winograd.convolve(x, kernel, _of_planes)
    return _of_planes(_with_neighbors(x), jnp.moveaxis(kernel, 0, 2).reshape(3, 3, 3 * c, d))


def _with_neighbors(x: Float[Array, "b x y z c"]) -> Float[Array, "b x y z 3*c"]:
    """The channels of each plane between those of the one before it and the one after it."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(3)], axis=-1)


def _of_planes(
    x: Float[Array, "b x y z c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b x y z d"]:
    """A 3x3 convolution of each plane; not by tiles of rows, which gained nothing there."""
    form = _by_pairs if max(kernel.shape[-2:]) <= _NARROW else _plain
    return form(_planes(x), kernel).reshape(*x.shape[:-1], -1)


def _planes(x: Float[Array, "b x y z c"]) -> Float[Array, "bx y z c"]:
    """Planes of volumes as a batch of images."""
    return x.reshape(-1, *x.shape[2:])


def _padded_rows(
    x: Float[Array, "*lead y z c"], g: Float[Array, "*lead y z d"]
) -> tuple[Float[Array, "*lead n c"], Float[Array, "*lead m d"]]:
    """Images with their rows one after the other, so that a step along y or z is an offset.

    Both have rows of z + 2 pixels; `x` has one more row before and after.
    """
    around = [(0, 0)] * (x.ndim - 3)
    x = jnp.pad(x, (*around, (1, 1), (1, 1), (0, 0)))
    g = jnp.pad(g, (*around, (0, 0), (0, 2), (0, 0)))
    x, g = (a.reshape(*a.shape[:-3], -1, a.shape[-1]) for a in (x, g))
    return x, g


def _products(
    x: Float[Array, "n c"], g: Float[Array, "m d"], width: int
) -> Float[Array, "3 3*d c"]:
    """Products of `g` with `x` at three offsets of a row; padded rows are `width`."""
    turned = jnp.pad(g.T, ((0, 0), (2, 0)))
    # The steps along z are taken by `g`, so that one product serves all three.
    shifted = jnp.concatenate([turned[:, 2 - k : 2 - k + len(g)] for k in range(3)])
    return jnp.stack([shifted @ x[j * width : j * width + len(g)] for j in range(3)])


@functools.cache
def _has_avx512() -> bool:
    """Whether the processor has vectors of 512 bits, for which XLA's fast library was written."""
    return _FLAGS.exists() and " avx512f " in _FLAGS.read_text()


def _kernel_gradient_of_slices(
    x: Float[Array, "b y z c"], g: Float[Array, "b y z d"]
) -> Float[Array, "3 3 c d"]:
    """The kernel's gradient in 2D; by bands of rows where XLA is slow at it."""
    c, d = x.shape[-1], g.shape[-1]
    slow = d <= _NARROW or not _has_avx512()
    by_rows = slow and c >= _FEW and x.shape[1] * x.shape[2] >= _LARGE
    return _kernel_gradient_by_rows(x, g) if by_rows else _kernel_gradient(x, g)


def _kernel_gradient_by_rows(
    x: Float[Array, "b y z c"], g: Float[Array, "b y z d"]
) -> Float[Array, "3 3 c d"]:
    """The kernel's gradient in 2D by a scan over bands of rows, as matrix products."""
    c, d = x.shape[-1], g.shape[-1]
    width = x.shape[2] + 2
    band = _BAND * width
    whole = ((0, 0), (0, -x.shape[1] % _BAND), (0, 0), (0, 0))
    rows, g = _padded_rows(jnp.pad(x, whole), jnp.pad(g, whole))

    def of_example(rows: Array, g: Array) -> Array:
        def add(total: Array, start: Array) -> tuple[Array, None]:
            near = lax.dynamic_slice_in_dim(rows, start, band + 2 * width)
            there = lax.dynamic_slice_in_dim(g, start, band)
            return total + _products(near, there, width), None

        starts = jnp.arange(0, len(g), band)
        total, _ = lax.scan(add, jnp.zeros((3, 3 * d, c), x.dtype), starts)
        return total.reshape(3, 3, d, c).swapaxes(2, 3)

    return jnp.sum(jax.vmap(of_example)(rows, g), axis=0)


def _kernel_gradient_of_volumes(
    x: Float[Array, "b x y z c"], g: Float[Array, "b x y z d"]
) -> Float[Array, "3 3 3 c d"]:
    """The kernel's gradient in 3D by tiles of planes; of few channels as matrix products."""
    c, d = x.shape[-1], g.shape[-1]
    if x.shape[1] <= winograd.TILE:
        flat = _kernel_gradient(_planes(_with_neighbors(x)), _planes(g))
        return jnp.moveaxis(flat.reshape(3, 3, 3, c, d), 2, 0)
    if max(c, d) > _MANY:
        # Not in a loop, where XLA's convolutions are slow.
        return winograd.kernel_gradient(
            x, g, lambda x, g: _kernel_gradient(_planes(x), _planes(g)), looped=False
        )
    width = x.shape[3] + 2

    # Mapped over the examples, not one scan over all, so that they stay on their devices.
    @jax.vmap
    def of_examples(x: Array, g: Array) -> Array:
        def add(total: Array, plane: tuple[Array, Array]) -> tuple[Array, None]:
            return total + _products(*plane, width), None

        total, _ = lax.scan(add, jnp.zeros((3, 3 * d, c), x.dtype), (x, g))
        return total.reshape(3, 3, d, c).swapaxes(2, 3)

    looped = math.prod(x.shape[1:]) <= _LOOPED
    by_example = winograd.kernel_gradient(
        x, g, lambda x, g: of_examples(*_padded_rows(x, g)), looped=looped
    )
    # Not in the loop: devices that add up there may wait for each other in different places.
    return jnp.sum(by_example, axis=1)
