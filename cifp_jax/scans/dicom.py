"""DICOM series and multi-frame files: what belongs together, and what it holds."""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pydicom
from jaxtyping import Float, Shaped
from pydicom.misc import is_dicom
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from cifp_jax.scans.dicom_grid import stack
from cifp_jax.scans.volumes import Volume, refuse

SUFFIXES = (".dcm", ".ima")  # files without one are known by their marks
_NO_STACKS = ("CR", "DX", "ES", "GM", "IO", "MG", "PX", "RF", "RG", "RTIMAGE", "SM", "XA", "XC")


class Series(NamedTuple):
    """The files of a series, or one multi-frame file.

    Attributes:
      path: the folder, or the one file; what messages name.
      files: of the slices, in any order.
      uid: SeriesInstanceUID.
      number: SeriesNumber, "" where there is none.
    """

    path: pathlib.Path
    files: tuple[pathlib.Path, ...]
    uid: str
    number: str

    def __str__(self) -> str:
        return str(self.path)


def read_header(path: pathlib.Path) -> pydicom.Dataset | None:
    """What a file says of itself, without its pixels; None where it is no DICOM file."""
    try:
        named = path.suffix.lower() in SUFFIXES
        if not (named or is_dicom(path)):
            return None
        header = pydicom.dcmread(path, stop_before_pixels=True, force=named)
        known = "SOPClassUID" in header or "MediaStorageSOPClassUID" in header.file_meta
        return header if known else None
    except Exception:  # a damaged file may fail anywhere
        return None


def is_segmentation(header: pydicom.Dataset) -> bool:
    """Whether a file holds a DICOM segmentation."""
    return header.get("SOPClassUID") == SegmentationStorage


def modality(series: Series) -> str:
    """What a series was made by, "MR" for one; "" where it does not say."""
    header = read_header(series.files[0])
    return "" if header is None else str(header.get("Modality", ""))


def why_no_scan(header: pydicom.Dataset) -> str:
    """Why a file is no part of a scan; "" where it is one."""
    made_by, colors = header.get("Modality", ""), header.get("PhotometricInterpretation", "")
    if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return "a directory of DICOM files"
    if is_segmentation(header):
        return "a DICOM segmentation, which is a mask"
    if made_by == "RTDOSE":
        return "a dose"
    if "Rows" not in header:
        return f"DICOM without an image (modality {made_by or 'unknown'})"
    if header.get("SamplesPerPixel", 1) != 1 or not colors.startswith("MONOCHROME"):
        return f"a colour image ({colors or 'no photometric interpretation'})"
    if made_by in _NO_STACKS:
        return f"no scan in slices (modality {made_by})"
    if "LOCALIZER" in header.get("ImageType", ()):
        return "a localizer"
    return ""


def group(
    headers: Mapping[pathlib.Path, pydicom.Dataset],
) -> tuple[list[Series], dict[pathlib.Path, str]]:
    """Puts the files of a folder together by their series; a multi-frame file is a scan of its own.

    Returns:
      The series, and the files that are copies of others, with the reason to leave them out.
    """
    seen: dict[tuple[str, ...], pathlib.Path] = {}
    copies: dict[pathlib.Path, str] = {}
    slices: dict[str, list[pathlib.Path]] = defaultdict(list)
    found: list[Series] = []
    for path, header in headers.items():
        # Not the UID alone: some programs that remove names give all slices the same one.
        instance = (
            str(header.get("SOPInstanceUID") or path),
            *(str(header.get(name, "")) for name in ("ImagePositionPatient", "InstanceNumber")),
        )
        if instance in seen:
            copies[path] = f"a copy of {seen[instance].name}"
            continue
        seen[instance] = path
        uid = str(header.get("SeriesInstanceUID", ""))
        if int(header.get("NumberOfFrames") or 1) > 1:
            found.append(Series(path, (path,), uid, ""))
        else:
            slices[uid].append(path)
    for uid, files in slices.items():
        number = headers[files[0]].get("SeriesNumber")
        folder = files[0].parent
        found.append(Series(folder, tuple(files), uid, "" if number is None else str(number)))
    return found, copies


def _pixels(files: Sequence[pathlib.Path], fractional: bool) -> Shaped[np.ndarray, "x y z"]:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    if fractional:  # or the type would be that of the first slice, and cut off the others'
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return sitk.GetArrayFromImage(reader.Execute()).T


def open_stack(
    series: Series,
) -> tuple[list[pydicom.Dataset], list[int], Float[np.ndarray, "4 4"]]:
    """The headers of a series, the order of its slices along their normal, and their affine.

    Returns:
      A header for each file, in their order; for each z the number of the file, or of the frame;
      voxel (x, y, z) to RAS mm.

    Raises:
      ValueError: the slices make no regular grid, or a file is a mask, in colour or no image.
    """
    headers: list[pydicom.Dataset] = []
    for file in series.files:
        header = read_header(file)
        if header is None:
            refuse(file, "it is no whole DICOM file. Copy it again.")
        if why := why_no_scan(header):
            refuse(file, f"it is {why}. Name a scan.")
        # ITK and highdicom would turn such values over, Hounsfield units too.
        if header.PhotometricInterpretation == "MONOCHROME1":
            refuse(series.path, "its greys are inverted (MONOCHROME1). Export it as MONOCHROME2.")
        headers.append(header)
    return headers, *stack(series.path, headers)


def read_series(series: Series) -> Volume:
    """Reads the slices of a series, or a multi-frame file, in Hounsfield units where it is a CT.

    Raises:
      ValueError: as `open_stack`.
    """
    headers, order, affine = open_stack(series)
    if len(order) > len(headers):
        import highdicom

        image = highdicom.imread(series.files[0])
        volume = image.get_volume(dtype=np.float32, apply_real_world_transform=False)
        # Its axes are (z, y, x), and it runs against the normal.
        return Volume(volume.array[::-1].T, affine, series.path)
    rules = {
        (float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0)))
        for header in headers
    }
    fractional = len(rules) > 1 or any(number % 1 for rule in rules for number in rule)
    array = _pixels([series.files[i] for i in order], fractional)
    return Volume(array, affine, series.path)
