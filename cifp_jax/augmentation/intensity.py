"""Random grey values of one example: each function takes one image and what was drawn for it.

Scales. ACDC slices lie in [0, 1] and LA scans are z-scored, so no absolute level means the same in
both. Brightness multiplies the distance to the image's own minimum, contrast the distance to its
mean, gamma works on the image rescaled to its own range, and the noise is measured in the image's
standard deviations. Nothing is clipped to a range. The order is fixed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax.augmentation.settings import Settings


def brighten(
    image: Float[Array, "*spatial c"], factor: Float[Array, ""]
) -> Float[Array, "*spatial c"]:
    """Multiplies the distance to the darkest voxel."""
    dark = jnp.min(image)
    return dark + factor * (image - dark)


def contrast(
    image: Float[Array, "*spatial c"], factor: Float[Array, ""]
) -> Float[Array, "*spatial c"]:
    """Multiplies the distance to the mean."""
    mean = jnp.mean(image)
    return mean + factor * (image - mean)


def gamma(image: Float[Array, "*spatial c"], power: Float[Array, ""]) -> Float[Array, "*spatial c"]:
    """Raises the image, rescaled to [0, 1] by its range, to a power."""
    low, high = jnp.min(image), jnp.max(image)
    width = jnp.maximum(high - low, 1e-6)
    return low + width * ((image - low) / width) ** power


def gaussian_filter(
    image: Float[Array, "*spatial c"], sigma: Float[Array, ""]
) -> Float[Array, "*spatial c"]:
    """Separable Gaussian filter; at the border the weights inside the image are renormalised."""
    for axis in range(image.ndim - 1):
        position = jnp.arange(image.shape[axis], dtype=image.dtype)
        # One small matrix product an axis: a one-channel convolution is slow on the CPU.
        weights = jnp.exp(-0.5 * ((position[:, None] - position) / sigma) ** 2)
        image = _along(weights / jnp.sum(weights, axis=1, keepdims=True), image, axis)
    return image


def coarsen(
    image: Float[Array, "*spatial c"], factor: Float[Array, ""]
) -> Float[Array, "*spatial c"]:
    """What an acquisition at `factor` (in (0, 1]) of the resolution would have shown.

    Every side is read by nearest neighbour at points 1 / `factor` voxels apart, and brought back by
    linear interpolation between them.
    """
    for axis in range(image.ndim - 1):
        last = image.shape[axis] - 1
        position = jnp.arange(last + 1, dtype=image.dtype)
        before = jnp.floor(position * factor)
        share = position * factor - before
        ends = [jnp.clip(jnp.round(p / factor), 0, last) for p in (before, before + 1)]
        pick = [(end[:, None] == position).astype(image.dtype) for end in ends]
        image = _along((1 - share[:, None]) * pick[0] + share[:, None] * pick[1], image, axis)
    return image


def _along(
    matrix: Float[Array, "n n"], image: Float[Array, "*spatial c"], axis: int
) -> Float[Array, "*spatial c"]:
    product = jnp.tensordot(matrix, image, (1, axis), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(product, 0, axis)


def change(
    key: Key[Array, ""], image: Float[Array, "*spatial c"], settings: Settings
) -> Float[Array, "*spatial c"]:
    """Gamma, brightness, contrast, blur, lower resolution and noise, each with its probability."""
    draw_key, noise_key = jax.random.split(key)
    steps = (
        (gamma, settings.gamma),
        (brighten, settings.brightness),
        (contrast, settings.contrast),
        (gaussian_filter, settings.blur),
        (coarsen, settings.resolution),
    )
    # One draw of all numbers: each call of jax.random costs a good part of a second to compile.
    drawn = jax.random.uniform(draw_key, (len(steps) + 1, 2))
    for (changed, (probability, low, high)), (happens, share) in zip(steps, drawn, strict=False):
        amount = low * (high / low) ** share  # a half as likely as a double
        image = jnp.where(happens < probability, changed(image, amount), image)
    happens, share = drawn[-1]
    probability, low, high = settings.noise
    level = jnp.where(happens < probability, low + (high - low) * share, 0.0)
    return image + level * jnp.std(image) * jax.random.normal(noise_key, image.shape)
