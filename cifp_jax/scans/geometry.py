"""Orientation and resolution of arrays on a regular grid, there and back.

Grids of two resolutions cover the same box: voxel i of n lies at (i + 1/2) / n of a side.
"""

from collections.abc import Iterable, Iterator, Sequence

import nibabel
import numpy as np
from jaxtyping import Float, Int, Shaped

_CANONICAL = nibabel.orientations.axcodes2ornt(("R", "A", "S"))
_ROWS = 2**25  # numbers in one block that `restore_rows` gives


def to_canonical(
    array: Shaped[np.ndarray, "x y z *c"], affine: Float[np.ndarray, "4 4"]
) -> tuple[Shaped[np.ndarray, "r a s *c"], Float[np.ndarray, "4 4"]]:
    """Turns the axes to right, anterior, superior as nearly as swaps and flips can (a view)."""
    orientation = nibabel.io_orientation(affine)
    turned = nibabel.apply_orientation(array, orientation)
    return turned, affine @ nibabel.orientations.inv_ornt_aff(orientation, array.shape[:3])


def from_canonical(
    array: Shaped[np.ndarray, "r a s *c"], affine: Float[np.ndarray, "4 4"]
) -> Shaped[np.ndarray, "x y z *c"]:
    """Undoes `to_canonical` of a file with this affine (a view)."""
    back = nibabel.orientations.ornt_transform(_CANONICAL, nibabel.io_orientation(affine))
    return nibabel.apply_orientation(array, back)


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, ...]:
    """The shape that a grid of `spacing` has at the spacing `target`; 0 keeps an axis as it is."""
    pairs = zip(shape, spacing, target, strict=True)
    return tuple(max(round(n * s / t), 1) if t else n for n, s, t in pairs)


def _neighbors(n: int, m: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"], np.ndarray]:
    """For each of m voxels those of n before and after it, and the weight of the one after."""
    place = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    before = np.floor(place).astype(np.intp)
    return before, np.minimum(before + 1, n - 1), (place - before).astype(np.float32)


def resample_linear(
    array: Shaped[np.ndarray, "*s"], shape: Sequence[int]
) -> Float[np.ndarray, "*t"]:
    """Resizes the first `len(shape)` axes by linear interpolation; float32.

    The same as `scipy.ndimage.zoom(order=1, mode="nearest", grid_mode=True)`, several times as
    fast, as the axes follow one another. An axis of the right length is not touched.
    """
    array = np.asarray(array, np.float32)
    for axis, m in enumerate(shape):
        if array.shape[axis] != m:
            before, after, weight = _neighbors(array.shape[axis], m)
            array = _blend(array, axis, before, after, weight)
    return array


def _blend(
    array: np.ndarray, axis: int, before: np.ndarray, after: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    low, high = np.take(array, before, axis), np.take(array, after, axis)
    high -= low
    high *= weight.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    low += high
    return low


def resample_labels(array: Shaped[np.ndarray, "*s"], shape: Sequence[int]) -> np.ndarray:
    """Resizes a label map; the same array at its own shape.

    The class with the largest share wins, by linear interpolation; of equal shares the highest
    class, so that a structure does not lose to the background. The nearest voxel would move
    labels against their image by up to half a voxel: where two are equally near, it is always the
    one behind.
    """
    if array.shape == tuple(shape):
        return array
    labels, largest = np.zeros(shape, array.dtype), np.zeros(shape, np.float32)
    for value in np.unique(array):
        share = resample_linear(array == value, shape)
        labels[share >= largest] = value
        np.maximum(largest, share, out=largest)
    return labels


def restore_rows(
    slabs: Iterable[Float[np.ndarray, "_ b c k"]], rows: int, shape: Sequence[int]
) -> Iterator[tuple[slice, Float[np.ndarray, "_ y z k"]]]:
    """`resample_linear` of an array that comes slab by slab, and goes in blocks of rows.

    Args:
      slabs: the array in pieces along its first axis, in order.
      rows: how many rows they have together.
      shape: of the first three axes of the result.

    Yields:
      Places along the first axis of the result, in order, and what stands there.
    """
    before, after, weight = _neighbors(rows, shape[0])
    held, first, done = None, 0, 0  # rows still needed, the number of the first, rows given
    for slab in slabs:
        held = slab if held is None else np.concatenate([held, slab])
        ready = int(np.searchsorted(after, first + len(held)))
        step = max(_ROWS // (int(np.prod(shape[1:])) * slab.shape[-1]), 1)
        while done < ready:
            own = slice(done, min(done + step, ready))
            low, high = before[own] - first, after[own] - first
            part = _blend(held, 0, low, high, weight[own]) if rows != shape[0] else held[low]
            yield own, resample_linear(part, (len(part), *shape[1:]))
            done = own.stop
        if done < shape[0]:
            unneeded = min(int(before[done]) - first, len(held))
            held, first = held[unneeded:], first + unneeded
