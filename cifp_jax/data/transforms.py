"""Weak augmentation and resizing on the host.

A record is a dict of arrays of one shape, `image` and perhaps `label`. Every function here moves
all of them alike, with nearest-neighbour sampling where it resamples: an unlabelled record needs
no label, and a label never parts from its image. Arrays are never changed in place.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from scipy import ndimage

Arrays = dict[str, Shaped[np.ndarray, "*_"]]


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


def average_down(arrays: Arrays, factor: int) -> Arrays:
    """Shrinks every side `factor` times: mean of the image, commonest label of each block.

    What is left over at the far end of a side is cut off; of equally common labels the lowest wins.

    Raises:
      ValueError: a side is shorter than `factor`.
    """
    small = tuple(n // factor for n in arrays["image"].shape)
    if 0 in small:
        raise ValueError(
            f"An image of shape {arrays['image'].shape} cannot be averaged down by {factor}: "
            f"use a smaller factor."
        )
    blocks = tuple(side for n in small for side in (n, factor))
    within = tuple(range(1, 2 * len(small), 2))

    def mean(array: np.ndarray) -> np.ndarray:
        cut = array[tuple(slice(n * factor) for n in small)]
        return cut.reshape(blocks).mean(axis=within, dtype=np.float32)

    shrunk = {"image": mean(arrays["image"])}
    if "label" in arrays:
        label = arrays["label"]
        shares = np.stack([mean(label == k) for k in range(int(label.max()) + 1)])
        shrunk["label"] = shares.argmax(axis=0).astype(label.dtype)
    return shrunk


def _turn(arrays: Arrays, quarter_turns: int, mirrored_axis: int) -> Arrays:
    return {k: np.flip(np.rot90(a, quarter_turns), mirrored_axis) for k, a in arrays.items()}


def weak_scan(rng: np.random.Generator, arrays: Arrays, patch_size: Sequence[int]) -> Arrays:
    """LA protocol: random crop, rotation by 0 to 3 quarter turns in X-Y, a flip along X or Y.

    The field rotates first; cropping first gives the same distribution and touches less memory.
    A side shorter than the patch is padded with zeros on both ends. The flip is always made, as in
    the field's scripts: training sees mirror images only, in all four orientations.

    Args:
      rng: generator of this example.
      arrays: record of shape (X, Y, Z).
      patch_size: shape of the result.
    """
    quarter_turns, mirrored_axis = int(rng.integers(4)), int(rng.integers(2))
    x, y, z = patch_size
    before_turn = (x, y, z) if quarter_turns % 2 == 0 else (y, x, z)
    shape = arrays["image"].shape
    starts = [int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(shape, before_turn, strict=True)]
    crop = tuple(slice(s, s + p) for s, p in zip(starts, before_turn, strict=True))
    lacking = [max(p - n, 0) for n, p in zip(shape, before_turn, strict=True)]
    arrays = {k: a[crop] for k, a in arrays.items()}
    if any(lacking):
        widths = [(n // 2, n - n // 2) for n in lacking]
        arrays = {k: np.pad(a, widths) for k, a in arrays.items()}
    return _turn(arrays, quarter_turns, mirrored_axis)


def weak_slice(rng: np.random.Generator, arrays: Arrays, patch_size: Sequence[int]) -> Arrays:
    """ACDC protocol: for half of the slices a rotation by 0 to 3 quarter turns and a flip, for a
    quarter a rotation by a whole number of degrees from -20 to 20, for the rest nothing; then the
    resize to `patch_size`. All with nearest neighbour.

    Args:
      rng: generator of this example.
      arrays: record of shape (H, W).
      patch_size: shape of the result.
    """
    if rng.random() < 0.5:
        arrays = _turn(arrays, int(rng.integers(4)), int(rng.integers(2)))
    elif rng.random() < 0.5:
        angle = int(rng.integers(-20, 21))
        arrays = {k: ndimage.rotate(a, angle, order=0, reshape=False) for k, a in arrays.items()}
    return {k: zoom_nearest(a, patch_size) for k, a in arrays.items()}
