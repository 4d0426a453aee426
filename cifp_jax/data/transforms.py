"""Weak augmentation and crops on the host.

A record is a dict of arrays of one spatial shape, `image` (perhaps with channels along a last axis)
and perhaps `label`. Every function here moves all of them alike, with nearest-neighbour sampling
where it resamples: an unlabelled record needs no label, and a label never parts from its image.
Arrays are never changed in place.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cifp_jax.data.whole_slices import Arrays, padding, resize_slices

FOREGROUND_SHARE = 1 / 3


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


def draw_starts(
    rng: np.random.Generator, shape: Sequence[int], size: Sequence[int]
) -> tuple[int, ...]:
    """First voxels of a box of `size` in an image of `shape`, whose channels may stand behind.

    All places are equally likely; a side that is shorter than the box begins at 0.
    """
    return tuple(int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(shape, size, strict=False))


class ScanCrop(NamedTuple):
    """What is drawn for one crop of a scan of shape (X, Y, Z)."""

    start: tuple[int, ...]  # first voxel of the box along X, Y, Z
    size: tuple[int, ...]  # of the box, before it is turned
    quarter_turns: int  # 0 to 3, in X-Y
    mirrored_axis: int  # 0 or 1, after the turn


def draw_scan_crop(
    rng: np.random.Generator, shape: Sequence[int], patch_size: Sequence[int]
) -> ScanCrop:
    """Draws what `weak_scan` does to a scan of this shape; all places are equally likely."""
    quarter_turns, mirrored_axis = int(rng.integers(4)), int(rng.integers(2))
    x, y, z = patch_size
    size = (x, y, z) if quarter_turns % 2 == 0 else (y, x, z)
    return ScanCrop(draw_starts(rng, shape, size), size, quarter_turns, mirrored_axis)


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
    drawn = draw_scan_crop(rng, arrays["image"].shape, patch_size)
    box = crop(arrays, drawn.start, drawn.size)
    return _turn(box, drawn.quarter_turns, drawn.mirrored_axis)


def crop(arrays: Arrays, starts: Sequence[int], size: Sequence[int]) -> Arrays:
    """A box from `starts` on; what it lacks in size is padded with zeros on both ends."""
    crop = tuple(slice(s, s + p) for s, p in zip(starts, size, strict=True))
    widths = padding(arrays["image"].shape[: len(size)], size)
    arrays = {k: a[crop] for k, a in arrays.items()}
    if any(after for _, after in widths):
        arrays = {
            k: np.pad(a, widths + [(0, 0)] * (a.ndim - len(widths))) for k, a in arrays.items()
        }
    return arrays


def weak_crop(rng: np.random.Generator, arrays: Arrays, patch_size: Sequence[int]) -> Arrays:
    """For data of one's own, slices or scans: a random crop, for half of them turned by 0 to 3
    quarter turns in the plane of the first two axes and mirrored along one of these.

    A third of the labelled crops, where there is any foreground, are laid around a voxel of a
    foreground class drawn at random: small structures in large scans would be missed by most crops
    (the habit is nnU-Net's). A side shorter than the patch is padded as in `weak_scan`.

    Args:
      rng: generator of this example.
      arrays: record of as many spatial axes as the patch; `image` may have channels.
      patch_size: shape of the result.
    """
    turns = rng.random() < 0.5
    quarter_turns, mirrored_axis = int(rng.integers(4)), int(rng.integers(2))
    size = list(patch_size)
    if turns and quarter_turns % 2:
        size[:2] = size[1], size[0]
    starts = draw_starts(rng, arrays["image"].shape, size)
    label = arrays.get("label")
    if label is not None and rng.random() < FOREGROUND_SHARE and label.any():
        chosen = np.flatnonzero(label == rng.choice(np.unique(label[label > 0])))
        voxel = np.unravel_index(rng.choice(chosen), label.shape)
        around = zip(voxel, size, label.shape, strict=True)
        starts = [int(np.clip(v - p // 2, 0, max(n - p, 0))) for v, p, n in around]
    arrays = crop(arrays, starts, size)
    return _turn(arrays, quarter_turns, mirrored_axis) if turns else arrays


def weak_slice(
    rng: np.random.Generator,
    arrays: Arrays,
    patch_size: Sequence[int],
    interpolation: str = "nearest",
) -> Arrays:
    """ACDC protocol: for half of the slices a rotation by 0 to 3 quarter turns and a flip, for a
    quarter a rotation by a whole number of degrees from -20 to 20, for the rest nothing, all with
    nearest neighbour; then the resize to `patch_size`.

    Args:
      rng: generator of this example.
      arrays: record of shape (H, W).
      patch_size: shape of the result.
      interpolation: of the resize, as of `resize_slices`.
    """
    if rng.random() < 0.5:
        arrays = _turn(arrays, int(rng.integers(4)), int(rng.integers(2)))
    elif rng.random() < 0.5:
        angle = int(rng.integers(-20, 21))
        arrays = {k: ndimage.rotate(a, angle, order=0, reshape=False) for k, a in arrays.items()}
    return resize_slices(arrays, patch_size, interpolation)
