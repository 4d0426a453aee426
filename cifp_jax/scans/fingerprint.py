"""What a raw data set is like: spacings, shapes, intensities, classes. Read case by case."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from cifp_jax.host import in_order
from cifp_jax.scans import readers, segmentations, volumes
from cifp_jax.scans.preparation import MOST_VALUES, Preparation, intensity_range, mask_values
from cifp_jax.scans.raw_folders import RawCase, RawData
from cifp_jax.scans.segmentations import Segmentation
from cifp_jax.scans.volumes import Volume, sampled

_SAMPLE = 100_000  # voxels of a scan that its percentiles are taken from
_FOREGROUND_SAMPLE = 10_000  # labelled voxels of a case that are kept for those of the whole set
_CANONICAL = Preparation(canonical=True)


@dataclasses.dataclass(frozen=True)
class CaseFacts:
    """Facts of one case; shapes and spacings along right, anterior, superior.

    `box` is the shape of the smallest box around all voxels that are brighter than the darkest
    value of the scan. It comes from the image alone, so it says nothing of an unknown mask.
    `values` counts the voxels of each value of the mask, and is empty for unlabelled cases.
    `intensities` holds for each channel: minimum, 0.5th percentile, median, 99.5th percentile,
    maximum, mean and standard deviation. `foreground` are labelled voxels, for each channel.
    """

    case: RawCase
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    box: tuple[int, ...]
    intensities: tuple[tuple[float, ...], ...]
    values: dict[int, int]
    foreground: Shaped[np.ndarray, "channels n"]


def count_channels(data: RawData) -> int:
    """How many channels the data set has: as it says itself, else as the first case that is read.

    Cases with a mask come first: a film of many frames is no image of many channels.

    Raises:
      ValueError: no case can be read.
    """
    if data.channels:
        return len(data.channels)
    for case in sorted(data.cases, key=lambda case: case.label is None):
        first, *others = case.images
        if others:
            return 1 + len(others)
        try:
            array: Any = readers.read(first).array
        except ValueError:
            continue  # said when its turn comes
        return array.shape[3] if array.ndim == 4 else 1
    raise ValueError("None of the scans can be read. Look at the first of them with a viewer.")


def image_box(array: Shaped[np.ndarray, "x y z *c"]) -> tuple[slice, ...]:
    """The smallest box around all voxels brighter than the darkest value, of any channel."""
    bright = array > array.min()
    bright = bright.any(axis=-1) if array.ndim == 4 else bright
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(bright.any(axis=others)).tolist() or [0, array.shape[axis] - 1]
        box.append(slice(places[0], places[-1] + 1))
    return tuple(box)


def read_pair(
    case: RawCase, channels: int, labels: Mapping[int, str]
) -> tuple[Volume, Volume | None]:
    """The scan and the mask of a case, on one grid.

    `labels` are names of values, which the segments of a segmentation become.

    Raises:
      FileNotFoundError, ValueError: as `readers.read_channels` and `volumes.on_grid_of`.
    """
    scan = readers.read_channels(case.images, channels)
    if scan.prepared:
        raise ValueError(
            f"{scan.path}: HDF5 files hold prepared arrays. Prepare the scan that it was made from."
        )
    if case.label is None:
        return scan, None
    # Both may cover a part of the scan alone: 3D Slicer saves the box around its segments.
    partial = isinstance(case.label, Segmentation) or segmentations.is_slicer(case.label)
    if isinstance(case.label, Segmentation):
        mask = segmentations.read(case.label, {name: value for value, name in labels.items()})
    else:
        mask = readers.read(case.label)
    if mask.array.ndim != 3:
        raise ValueError(
            f"{case.label}: as a mask it must have three axes, not shape {mask.array.shape}. "
            f"Save one mask with a value for each class."
        )
    if np.array_equal(mask.array, scan.array):
        raise ValueError(
            f"{case.label}: this mask is the scan itself, voxel for voxel. Name the mask that was "
            f"drawn on it."
        )
    return scan, volumes.on_grid_of(scan, mask, partial=partial)


def _whole_values(mask: Volume) -> dict[int, int]:
    values, counts = mask_values(mask.array)
    if not np.all(np.isfinite(values)) or np.any(values % 1) or values.min() < 0:
        raise ValueError(
            f"{mask.path}: a mask holds whole numbers from 0, this one {values[:5].tolist()}. "
            f"Round it if it was resampled; it may also be a scan or a probability map."
        )
    if len(values) > MOST_VALUES:
        raise ValueError(
            f"{mask.path}: a mask holds at most {MOST_VALUES} values, this one {len(values)}. It "
            f"may be a scan; name the mask that was drawn on it."
        )
    return {int(v): int(n) for v, n in zip(values, counts, strict=True)}


def _statistics(channel: Shaped[np.ndarray, "x y z"], path: pathlib.Path) -> tuple[float, ...]:
    smallest, largest = map(float, intensity_range(channel, path))
    sample = sampled(channel.ravel(), _SAMPLE).astype(np.float64)
    low, middle, high = np.percentile(sample, (0.5, 50, 99.5)).tolist()
    return smallest, low, middle, high, largest, float(sample.mean()), float(sample.std())


def examine(case: RawCase, channels: int, labels: Mapping[int, str]) -> CaseFacts:
    """The facts of a case.

    Raises:
      FileNotFoundError, ValueError: naming the file and the remedy.
    """
    scan, mask = read_pair(case, channels, labels)
    array = _CANONICAL.turned(scan.array, scan)
    by_channel = scan.array.reshape(*scan.array.shape[:3], channels)
    order = _CANONICAL.source_axes(scan)
    foreground = np.empty((channels, 0))
    values = {} if mask is None else _whole_values(mask)
    if mask is not None:
        labeled = by_channel[mask.array > 0]
        foreground = sampled(labeled, _FOREGROUND_SAMPLE).T
    intensities = tuple(_statistics(by_channel[..., c], scan.path) for c in range(channels))
    return CaseFacts(
        case,
        array.shape[:3],
        tuple(scan.spacing[i] for i in order),
        scan.orientation,
        tuple(s.stop - s.start for s in image_box(array)),
        intensities,
        values,
        foreground,
    )


def examine_all(
    cases: Iterable[RawCase], labels: Mapping[int, str], channels: int, jobs: int = 1
) -> Iterator[CaseFacts | str]:
    """The facts of each case that can be used, or what is wrong with it.

    Args:
      cases: in the order of the result.
      labels: the values that masks may hold; {} where nobody says.
      channels: of each scan.
      jobs: cases that are read at once.
    """

    def tried(case: RawCase) -> CaseFacts | str:
        try:
            found = examine(case, channels, labels)
            unknown = sorted(set(found.values) - set(labels)) if labels else []
            if unknown:
                raise ValueError(
                    f"{case.label}: it holds the values {unknown}, which are no labels of this "
                    f"data set ({list(labels)}). Correct the mask, or name the label."
                )
            return found
        except (ValueError, FileNotFoundError) as error:
            return str(error)

    return in_order(tried, cases, jobs)


def doubts(facts: CaseFacts) -> str:
    """What a person should look at in a mask: that it is empty, or marks a single voxel."""
    if not facts.values:
        return ""
    if set(facts.values) == {0}:
        return "its mask is empty, which teaches that nothing is there"
    single = [value for value, count in facts.values.items() if count == 1]
    return f"label {', '.join(map(str, single))} fills one voxel" if single else ""


def summary(facts: Sequence[CaseFacts]) -> dict[str, Any]:
    """`fingerprint.json`: the whole set, then case by case.

    Spacings are in mm along right, anterior, superior; intensities as in the files.
    """
    foreground = np.concatenate([f.foreground for f in facts], axis=1)
    return {
        "cases": len(facts),
        "labeled": sum(bool(f.values) for f in facts),
        "median_spacing": np.median([f.spacing for f in facts], axis=0).tolist(),
        "median_shape": np.median([f.shape for f in facts], axis=0).tolist(),
        "lowest_intensity": np.min([[c[0] for c in f.intensities] for f in facts], axis=0).tolist(),
        "highest_minimum": np.max([[c[0] for c in f.intensities] for f in facts], axis=0).tolist(),
        "foreground_intensity": [
            {
                "low": float(np.percentile(channel, 0.5)),
                "high": float(np.percentile(channel, 99.5)),
                "mean": float(channel.mean()),
                "std": float(channel.std()),
            }
            for channel in (foreground if foreground.size else ())
        ],
        "values": {
            value: sum(f.values.get(value, 0) for f in facts)
            for value in sorted({value for f in facts for value in f.values})
        },
        "by_case": {
            f.case.name: {
                "shape": f.shape,
                "spacing": f.spacing,
                "orientation": f.orientation,
                "box": f.box,
                "intensities": f.intensities,
                "values": f.values,
            }
            for f in facts
        },
    }
