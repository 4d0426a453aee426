"""Whole slices, as those of ACDC: what a network sees of them, and its answer brought back.

A record is a dict of arrays of one spatial shape, `image` and perhaps `label`, of shape (H, W) or
(Z, H, W). Every function here moves all of them alike; arrays are never changed in place.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy import ndimage

from cifp_jax.scans import geometry

Arrays = dict[str, Shaped[np.ndarray, "*_"]]

INTERPOLATIONS = ("nearest", "linear")


class SliceFrame(NamedTuple):
    """What of a whole slice is seen; the fields are settings of `config.data`.

    Attributes:
      largest_side: slices whose longer side has more pixels are shrunk until it has so many, 0
        for none. The middle of a finer matrix would cut off what it is to show.
      center_crop: side of the square in the middle that is seen then, pixels; 0 for all of it.
      interpolation: by which slices are resized, see `resize_slices`.
    """

    largest_side: int = 0
    center_crop: int = 0
    interpolation: str = "nearest"

    def cut(self, arrays: Arrays) -> Arrays:
        """The part of slices that is seen."""
        shape = arrays["image"].shape[-2:]
        limited = limited_shape(shape, self.largest_side)
        if limited != shape:
            arrays = resize_slices(arrays, limited, self.interpolation)
        return center_crop(arrays, self.center_crop)

    def see(self, arrays: Arrays, size: Sequence[int]) -> Arrays:
        """That part in the size of what a network takes, (h, w) pixels."""
        return resize_slices(self.cut(arrays), size, self.interpolation)

    def restore(
        self, probabilities: Float[np.ndarray, "z h w k"], shape: Sequence[int]
    ) -> Float[np.ndarray, "z H W k"]:
        """Undoes `see` by the same kind of interpolation: probabilities on the grid of `shape`.

        Around the part that was seen stands background with probability 1.
        """
        limited = limited_shape(shape, self.largest_side)
        where, lacking = central(limited, self.center_crop)
        full = (self.center_crop,) * 2 if self.center_crop else limited
        wide = _enlarged(probabilities, full, self.interpolation)
        own = tuple(slice(a, n - b) for n, (a, b) in zip(full, lacking, strict=True))
        restored = np.zeros((len(wide), *limited, wide.shape[-1]), np.float32)
        restored[..., 0] = 1
        restored[(slice(None), *where)] = wide[(slice(None), *own)]
        return _enlarged(restored, shape, self.interpolation)


WHOLE = SliceFrame()  # all of a slice


def slice_frame(data: Any) -> SliceFrame:
    """The frame that `data` names: a `config.data`, or the part `data` of a header of weights."""
    return SliceFrame(**{name: data[name] for name in SliceFrame._fields if name in data})


def limited_shape(shape: Sequence[int], largest_side: int) -> tuple[int, ...]:
    """The shape of a slice whose longer side has `largest_side` pixels at most; 0 sets no limit."""
    factor = largest_side / max(shape)
    if not largest_side or factor >= 1:
        return tuple(shape)
    return tuple(max(round(n * factor), 1) for n in shape)


def _enlarged(
    probabilities: Float[np.ndarray, "z h w k"], shape: Sequence[int], interpolation: str
) -> Float[np.ndarray, "z H W k"]:
    if probabilities.shape[1:3] == tuple(shape):
        return probabilities
    if interpolation == "linear":
        return geometry.resample_linear(probabilities, (len(probabilities), *shape))
    return np.moveaxis(zoom_nearest(np.moveaxis(probabilities, -1, 1), shape), 1, -1)


def zoom_nearest(array: Shaped[np.ndarray, "*_"], shape: Sequence[int]) -> Shaped[np.ndarray, "*_"]:
    """Resizes the last `len(shape)` axes to `shape` by nearest neighbour, aligned at the corners.

    Output i reads input `floor(i * (n - 1) / (m - 1) + 1/2)` along an axis resized from n to m.
    This is `scipy.ndimage.zoom(order=0, mode="nearest")`. The field's scripts use its default mode,
    where rounding sets the last row or column to 0 for some sizes (256 -> 216 is one).
    """
    first = array.ndim - len(shape)
    indices = [np.arange(n) for n in array.shape[:first]]
    for n, m in zip(array.shape[first:], shape, strict=True):
        step = (n - 1) / (m - 1) if m > 1 else 0.0
        indices.append(np.floor(np.arange(m) * step + 0.5).astype(np.intp))
    return array[np.ix_(*indices)]


def central(shape: Sequence[int], side: int) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """The middle `side` x `side` pixels of a slice: where they lie, and what they lack at the ends.

    `side` 0 means the whole slice.
    """
    if not side:
        return (slice(None), slice(None)), [(0, 0), (0, 0)]
    starts = [max(0, (n - side) // 2) for n in shape]
    return tuple(slice(s, s + side) for s in starts), padding(shape, (side, side))


def center_crop(arrays: Arrays, side: int) -> Arrays:
    """The middle `side` x `side` pixels of slices, the last two axes; 0 keeps whole slices.

    A slice that is smaller is padded with zeros on both ends.
    """
    if not side:
        return arrays
    where, lacking = central(arrays["image"].shape[-2:], side)
    cut = {}
    for key, array in arrays.items():
        around = [(0, 0)] * (array.ndim - 2) + lacking
        cut[key] = np.pad(array[(..., *where)], around)
    return cut


def resize_slices(arrays: Arrays, size: Sequence[int], interpolation: str) -> Arrays:
    """Slices, the last two axes, in another size.

    Args:
      arrays: a record of shape (H, W) or (Z, H, W).
      size: of the result, (h, w) pixels.
      interpolation: "nearest", the field's rule, takes pixels as they are, aligned at the corners.
        "linear" smooths images that shrink (a Gaussian of 0.4 times the factor less one, against
        aliasing) and interpolates them; of labels the one with the largest share wins. Both cover
        the same area.
    """
    if interpolation == "nearest":
        return {key: zoom_nearest(array, size) for key, array in arrays.items()}
    sized = {}
    for key, array in arrays.items():
        stack = array.reshape(-1, *array.shape[-2:])
        shape = (len(stack), *size)
        if key == "label":
            stack = geometry.resample_labels(stack, shape)
        else:
            factors = [n / m for n, m in zip(stack.shape[1:], size, strict=True)]
            sigma = [0.0, *(0.4 * max(f - 1, 0.0) for f in factors)]
            stack = geometry.resample_linear(ndimage.gaussian_filter(stack, sigma), shape)
        sized[key] = stack.reshape(*array.shape[:-2], *size)
    return sized


def padding(shape: Sequence[int], size: Sequence[int]) -> list[tuple[int, int]]:
    """Voxels that each side lacks to `size`, before and behind it; the odd one stands behind."""
    lacking = [max(p - n, 0) for n, p in zip(shape, size, strict=True)]
    return [(n // 2, n - n // 2) for n in lacking]
