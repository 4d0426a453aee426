"""Segmentations that name their segments, as masks: of DICOM, read and written, and of 3D Slicer.

highdicom and the codes of pydicom are imported where they are needed: they take long, and most
folders of scans hold no segmentation.
"""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nrrd
import numpy as np
import pydicom
from jaxtyping import Integer

from cifp_jax.files import whole
from cifp_jax.scans import dicom, readers
from cifp_jax.scans.volumes import LPS, Unfit, Volume, refuse

_MAKER = "cifp-jax"
_SLICER = ".seg.nrrd"
_SEGMENT = re.compile(r"(Segment\d+_)Name")  # of a Slicer file's header
_SERIES_NUMBER = 1000  # above those that scanners give

# What a segmentation refers to its scan by, and what it copies, which may be empty but not absent.
_REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)


class Segmentation(NamedTuple):
    """What a segmentation says of itself.

    Attributes:
      path: the file.
      names: of its segments, by their numbers.
      series: SeriesInstanceUIDs of the scans that it was drawn on, where it is of DICOM.
    """

    path: pathlib.Path
    names: tuple[tuple[int, str], ...]
    series: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.path)


def is_slicer(source: object) -> bool:
    """Whether a file is a segmentation of 3D Slicer, by its name."""
    return str(source).lower().endswith(_SLICER)


def described_by_slicer(path: pathlib.Path) -> Segmentation | None:
    """The segmentation in a file of 3D Slicer; None where it is none, or names no segment."""
    if not is_slicer(path):
        return None
    try:
        header = nrrd.read_header(str(path))
    except (OSError, ValueError, nrrd.NRRDError):
        return None  # said when it is read as a mask
    keys = [match[1] for key in header if (match := _SEGMENT.fullmatch(key))]
    if not keys or any(f"{key}LabelValue" not in header for key in keys):
        return None  # of an early version, which did not say
    names = tuple((int(header[f"{key}LabelValue"]), str(header[f"{key}Name"])) for key in keys)
    return Segmentation(path, names, ())


def described(path: pathlib.Path, header: pydicom.Dataset) -> Segmentation:
    """The DICOM segmentation in a file with this header."""
    names = tuple(
        (
            int(segment.get("SegmentNumber", number)),
            str(segment.get("SegmentLabel") or f"segment {number}"),
        )
        for number, segment in enumerate(header.get("SegmentSequence", ()), start=1)
    )
    referred = header.get("ReferencedSeriesSequence", ())
    series = (str(item.get("SeriesInstanceUID", "")) for item in referred)
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
    return (_of_slicer if is_slicer(path) else _of_dicom)(segmentation, values)


def _of_slicer(segmentation: Segmentation, values: Mapping[str, int]) -> Volume:
    mask = readers.read(segmentation.path)
    if mask.array.ndim != 3:
        refuse(mask.path, "its segments overlap. Give each voxel to one segment.")
    table = {0: 0} | {number: values[name] for number, name in segmentation.names}
    found, places = np.unique(mask.array, return_inverse=True)
    if nameless := [value for value in found.tolist() if value not in table]:
        refuse(mask.path, f"its values {nameless} are those of no segment. Save it again.")
    turned = np.array([table[value] for value in found.tolist()], np.uint8)
    return dataclasses.replace(mask, array=turned[places].reshape(mask.array.shape))


def _of_dicom(segmentation: Segmentation, values: Mapping[str, int]) -> Volume:
    import highdicom

    path = segmentation.path
    try:
        file = highdicom.seg.segread(path)
        if file.SegmentationType == "FRACTIONAL":
            refuse(path, "it is a fractional segmentation. Save it as a binary one.")
        volume = file.get_volume(combine_segments=True, dtype=np.uint8).flip_spatial(0)
    except Unfit:
        raise
    except RuntimeError as error:
        if "overlap" in str(error):
            refuse(path, f"its segments overlap ({error}). Give each voxel to one segment.")
        refuse(path, f"this segmentation cannot be read ({error}). Save it again.")
    except Exception as error:  # of a damaged file, anything
        refuse(path, f"this segmentation cannot be read ({error!r}). Save it again.")
    table = np.zeros(256, np.uint8)
    for number, name in segmentation.names:
        table[number] = values[name]
    return Volume(table[volume.array].T, (LPS @ volume.affine)[:, [2, 1, 0, 3]], path)


def _code(name: str) -> tuple[Any, Any]:
    """Category and type of a segment: SNOMED's code of that name, or that of any tissue."""
    from pydicom.sr.codedict import codes

    found = getattr(
        codes.SCT, "".join(word.capitalize() for word in re.findall(r"\w+", name)), None
    )
    if found is None:
        return codes.SCT.Tissue, codes.SCT.Tissue
    if found in [getattr(codes.CID7159, lesion) for lesion in codes.CID7159.dir()]:
        return codes.SCT.MorphologicallyAbnormalStructure, found
    return codes.SCT.AnatomicalStructure, found


def _version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a folder of sources
        return importlib.metadata.version(_MAKER)
    return "unknown"


def _check_references(series: dicom.Series, headers: Sequence[pydicom.Dataset]) -> None:
    """Raises ValueError where slices cannot be referred to."""
    remedy = "Take the original series, or leave --format=dicom-seg out."
    lacking = [word for word in _REFERRED if not all(header.get(word) for header in headers)]
    if lacking:
        refuse(
            series.path,
            f"it lacks {', '.join(lacking)}, by which a segmentation refers to its scan. {remedy}",
        )
    if len({header.SOPInstanceUID for header in headers}) < len(headers):
        refuse(
            series.path,
            f"several of its slices have one SOPInstanceUID, so that a segmentation cannot refer "
            f"to each. {remedy}",
        )


def write(
    path: pathlib.Path,
    array: Integer[np.ndarray, "x y z"],
    series: dicom.Series,
    names: Mapping[int, str],
) -> None:
    """Writes a mask as a DICOM segmentation that refers to the scan, its patient and its study.

    Args:
      path: the file, which appears whole or not at all.
      array: values of structures, on the grid that `dicom.read_series` gives.
      series: the scan.
      names: of the values, the background first. The others become segments 1, 2, ... in order,
        also where the mask does not hold them.

    Raises:
      ValueError: as `dicom.open_stack`, or there is nothing to refer to the scan by.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    headers, order, _ = dicom.open_stack(series)
    _check_references(series, headers)
    for header in headers:
        for keyword in _COPIED:
            if keyword not in header:  # removed with the patient's name, for one
                setattr(header, keyword, None)
    version = _version()
    frames = np.zeros(array.shape[::-1], np.uint8)
    for number, value in enumerate(list(names)[1:], start=1):
        frames[order] = np.where(value == array.T, number, frames[order])
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=_MAKER, family=codes.CID7162.ArtificialIntelligence, version=version
    )
    segments = [
        highdicom.seg.SegmentDescription(
            number, name, *_code(name), "AUTOMATIC", algorithm_identification=algorithm
        )
        for number, name in enumerate(list(names.values())[1:], start=1)
    ]
    segmentation = highdicom.seg.Segmentation(
        headers,
        frames,
        "BINARY",
        segments,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MAKER,
        software_versions=version,
        device_serial_number="none",
        content_label="SEGMENTATION",
        series_description=f"Segmentation by {_MAKER}",
    )
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of structures in any script
    with whole(path) as partial:
        segmentation.save_as(partial)
