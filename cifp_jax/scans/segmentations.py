"""DICOM segmentations as masks: read onto the grid of a scan, and written for one."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import highdicom
import numpy as np
import pydicom

from cifp_jax.scans.volumes import LPS, Volume, refuse


class Segmentation(NamedTuple):
    """What a DICOM segmentation says of itself.

    Attributes:
      path: the file.
      names: of its segments, by their numbers.
      series: SeriesInstanceUIDs of the scans that it was drawn on.
    """

    path: pathlib.Path
    names: tuple[tuple[int, str], ...]
    series: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.path)


def described(path: pathlib.Path, header: pydicom.Dataset) -> Segmentation:
    """The segmentation in a file with this header."""
    names = tuple(
        (int(segment.SegmentNumber), str(segment.SegmentLabel))
        for segment in header.get("SegmentSequence", ())
    )
    series = (str(item.SeriesInstanceUID) for item in header.get("ReferencedSeriesSequence", ()))
    return Segmentation(path, names, tuple(series))


def read(segmentation: Segmentation, values: Mapping[str, int]) -> Volume:
    """Reads a segmentation; voxels of no segment are 0.

    Args:
      segmentation: of `described`.
      values: what the segments of each name become.

    Returns:
      A mask that covers the frames that are stored, which may be a part of the scan alone.

    Raises:
      ValueError: it cannot be read, it is fractional, its segments overlap, or one has no value.
    """
    path = segmentation.path
    unknown = [name for _, name in segmentation.names if name not in values]
    if unknown:
        refuse(path, f"its segments {unknown} are none of {list(values)}. Rename or remove them.")
    try:
        file = highdicom.seg.segread(path)
        if file.SegmentationType == "FRACTIONAL":
            refuse(path, "it is a fractional segmentation. Save it as a binary one.")
        volume = file.get_volume(combine_segments=True, dtype=np.uint8).flip_spatial(0)
    except RuntimeError as error:
        refuse(path, f"its segments overlap ({error}). Give each voxel to one segment.")
    table = np.zeros(256, np.uint8)
    for number, name in segmentation.names:
        table[number] = values[name]
    return Volume(table[volume.array].T, (LPS @ volume.affine)[:, [2, 1, 0, 3]], path)
