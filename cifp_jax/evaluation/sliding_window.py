"""Probabilities of a whole volume: overlapping windows in 3D, slice by slice in 2D."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cifp_jax.data.transforms import zoom_nearest

Apply = Callable[[Any, Float[Array, "n *patch c"]], Float[Array, "n *patch k"]]
PredictVolume = Callable[[Any, Float[np.ndarray, "*spatial"]], Float[np.ndarray, "*spatial k"]]
_BUCKET = 32  # volumes are padded up to multiples of this, so that few shapes are compiled


def window_starts(length: int, patch: int, stride: int) -> list[int]:
    """First voxels of the windows along an axis: every `stride`, the last one flush with the end."""
    return [min(i * stride, length - patch) for i in range(-(-(length - patch) // stride) + 1)]


def make_sliding_window(
    apply: Apply,
    patch_size: Sequence[int],
    stride: Sequence[int],
    batch: int,
    classes: int,
) -> PredictVolume:
    """Builds `predict(variables, volume)`: softmax averaged over overlapping windows.

    A volume smaller than the patch is padded with zeros, half on each side, as the field's scripts
    do. Windows go through the network `batch` at a time, and probabilities add up on the device.
    Volumes are padded up to multiples of 32 for that, so one compilation serves all scans of a
    similar size; the padding lies outside every window and changes no figure.

    Args:
      apply: `(variables, windows) -> logits`.
      patch_size: of a window.
      stride: between windows, along each axis.
      batch: windows in one forward pass.
      classes: channels of the logits.
    """
    patch = tuple(patch_size)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def accumulate(
        total: Array, count: Array, volume: Array, variables: Any, starts: Array, weights: Array
    ) -> tuple[Array, Array]:
        window = lambda start: jax.lax.dynamic_slice(volume, start, patch)  # noqa: E731
        probs = jax.nn.softmax(apply(variables, jax.vmap(window)(starts)[..., None]))

        def add(carry: tuple[Array, Array], item: tuple[Array, Array, Array]) -> Any:
            (total, count), (start, weight, p) = carry, item
            here = jax.lax.dynamic_slice(total, (*start, 0), (*patch, classes))
            total = jax.lax.dynamic_update_slice(total, here + weight * p, (*start, 0))
            times = jax.lax.dynamic_slice(count, start, patch)
            return (total, jax.lax.dynamic_update_slice(count, times + weight, start)), None

        return jax.lax.scan(add, (total, count), (starts, weights, probs))[0]

    def predict(variables: Any, volume: np.ndarray) -> np.ndarray:
        lacking = [max(p - n, 0) for n, p in zip(volume.shape, patch, strict=True)]
        before = [n // 2 for n in lacking]
        padded = np.pad(volume, [(b, n - b) for b, n in zip(before, lacking, strict=True)])
        starts = list(
            itertools.product(
                *(window_starts(*axis) for axis in zip(padded.shape, patch, stride, strict=True))
            )
        )
        room = [(0, -n % _BUCKET) for n in padded.shape]
        device_volume = jnp.asarray(np.pad(padded, room))
        total = jnp.zeros((*device_volume.shape, classes))
        count = jnp.zeros(device_volume.shape)
        for first in range(0, len(starts), batch):
            chunk = starts[first : first + batch]
            # The last batch is filled up with windows of weight 0.
            weights = np.arange(batch) < len(chunk)
            chunk = np.asarray(chunk + chunk[:1] * (batch - len(chunk)), np.int32)
            total, count = accumulate(
                total, count, device_volume, variables, chunk, weights.astype(np.float32)
            )
        own = tuple(slice(b, b + n) for b, n in zip(before, volume.shape, strict=True))
        return np.asarray(total)[own] / np.asarray(count)[own][..., None]

    return predict


def make_slicewise(
    apply: Apply, patch_size: Sequence[int], batch: int, classes: int
) -> PredictVolume:
    """Builds `predict(variables, volume)` for volumes (Z, H, W): each slice resized to `patch_size`
    and the probabilities back, both by nearest neighbour, as the ACDC protocol does.

    Taking the argmax before or after the way back gives the same label map. Slices go through the
    network `batch` at a time, the last batch filled up, so one compilation serves all volumes.
    """
    patch = tuple(patch_size)
    forward = jax.jit(lambda variables, x: jax.nn.softmax(apply(variables, x[..., None])))

    def predict(variables: Any, volume: np.ndarray) -> np.ndarray:
        slices = zoom_nearest(volume, patch)
        filled = np.pad(slices, [(0, -len(slices) % batch), (0, 0), (0, 0)])
        probs = np.concatenate(
            [forward(variables, filled[i : i + batch]) for i in range(0, len(filled), batch)]
        )[: len(slices)]
        back = zoom_nearest(np.moveaxis(probs, -1, 1), volume.shape[1:])
        return np.moveaxis(back, 1, -1)

    return predict
