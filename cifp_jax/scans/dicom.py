"""DICOM series and multi-frame files: what belongs together, and whether its slices make a grid.

A series whose slices are not parallel, evenly spaced and stacked straight has no affine. It is
refused rather than flattened, as its mask would lie beside the anatomy.
"""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pydicom
from jaxtyping import Float, Shaped
from pydicom.misc import is_dicom
from pydicom.uid import MediaStorageDirectoryStorage, SegmentationStorage

from cifp_jax.scans.volumes import LPS, Volume, refuse

SUFFIXES = (".dcm", ".ima")  # files without one are known by their marks
_NO_STACKS = ("CR", "DX", "ES", "GM", "IO", "MG", "PX", "RF", "RG", "RTIMAGE", "SM", "XA", "XC")
_UNEVEN = 0.1  # of a side of a voxel: how far a slice may lie from its place
_TILT = 0.5  # degrees between the stack and the normal of its slices that are put up with


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


class _Plane(NamedTuple):
    """Where a slice lies: LPS mm; None where the file does not say."""

    position: Any
    orientation: Any
    spacing: Any
    sides: tuple[int, int]
    frame_of_reference: str


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


def _first(sequences: Sequence[Any], sequence: str, name: str) -> Any:
    """An attribute of a functional group: of the frame itself, or shared by all of them."""
    for groups in sequences:
        for item in groups.get(sequence, ()):
            if name in item:
                return item[name].value
    return None


def _planes(header: pydicom.Dataset) -> list[_Plane]:
    sides = int(header.Rows), int(header.Columns)
    reference = str(header.get("FrameOfReferenceUID", ""))
    names = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if "PerFrameFunctionalGroupsSequence" not in header:
        position, orientation, spacing = (header.get(name) for name in names)
        frames = int(header.get("NumberOfFrames") or 1)
        return [_Plane(position, orientation, spacing, sides, reference)] * frames
    places = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    shared = header.get("SharedFunctionalGroupsSequence", ())
    planes = []
    for own in header.PerFrameFunctionalGroupsSequence:
        position, orientation, spacing = (
            _first((own, *shared), *pair) for pair in zip(places, names, strict=True)
        )
        planes.append(_Plane(position, orientation, spacing, sides, reference))
    return planes


def _thickness(header: pydicom.Dataset) -> float:
    """What a single slice is taken to be thick, mm."""
    shared = header.get("SharedFunctionalGroupsSequence", ())
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = header.get(name) or _first(shared, "PixelMeasuresSequence", name)
        if value:
            return float(value)
    return 1.0


def _check_alike(path: pathlib.Path, planes: Sequence[_Plane]) -> None:
    """Raises ValueError where slices are not cut in the same way."""
    without = sum(None in (p.position, p.orientation, p.spacing) for p in planes)
    if without:
        refuse(
            path,
            f"{without} of its {len(planes)} slices do not say where they lie in the patient. "
            f"Export the original series again.",
        )
    first = planes[0]
    for what, differ in (
        ("sizes", any(p.sides != first.sides for p in planes)),
        ("pixel spacings", any(not np.allclose(p.spacing, first.spacing, 1e-3) for p in planes)),
        (
            "orientations",
            any(not np.allclose(p.orientation, first.orientation, atol=1e-3) for p in planes),
        ),
        ("frames of reference", len({p.frame_of_reference for p in planes}) > 1),
    ):
        if differ:
            refuse(path, f"its slices have different {what}. Export each stack as its own series.")


def _stack(
    path: pathlib.Path, planes: Sequence[_Plane], thickness: float
) -> tuple[list[int], Float[np.ndarray, "4 4"]]:
    """The order of the slices along their normal, and the affine of (x, y, z) to LPS mm.

    Raises:
      ValueError: the slices make no regular grid, and why.
    """
    _check_alike(path, planes)
    across, down = np.reshape(np.array(planes[0].orientation, float), (2, 3))
    normal = np.cross(across, down)
    positions = np.array([p.position for p in planes], float)
    order = np.argsort(positions @ normal, kind="stable").tolist()
    positions = positions[order]
    rows, columns = map(float, planes[0].spacing)  # between rows, between columns
    step = normal * thickness
    if len(planes) > 1:
        gaps = np.diff(positions @ normal)
        typical = float(np.median(gaps))
        doubled = int((gaps < _UNEVEN * typical).sum()) if typical > 0 else len(gaps)
        if doubled:
            refuse(
                path,
                f"{doubled} of its {len(planes)} slices lie where another one does; it may hold "
                f"several echoes, phases or times. Export one of them as a series of its own.",
            )
        if np.abs(gaps - typical).max() > _UNEVEN * typical:
            place = positions[int(np.argmax(np.abs(gaps - typical)))].round(2).tolist()
            refuse(
                path,
                f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart, so some are "
                f"missing or unevenly spaced, first after the slice at {place}. Export the whole "
                f"series again, or resample it to even spacing.",
            )
        step = (positions[-1] - positions[0]) / (len(planes) - 1)
        tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
        if tilt > _TILT:
            shift = np.linalg.norm(step - normal * (step @ normal))
            refuse(
                path,
                f"its slices are shifted by {shift:.3g} mm each (a gantry tilt of {tilt:.1f} "
                f"degrees), so they are no straight stack. Resample it to one (dcm2niix does).",
            )
        places = positions[0] + np.arange(len(planes))[:, None] * step
        if np.linalg.norm(positions - places, axis=1).max() > _UNEVEN * min(rows, columns, typical):
            refuse(path, "its slices do not lie in one line. Resample it to a straight stack.")
    affine = np.eye(4)
    affine[:3] = np.stack([across * columns, down * rows, step, positions[0]], axis=1)
    return order, affine


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
    planes = [plane for header in headers for plane in _planes(header)]
    order, affine = _stack(series.path, planes, _thickness(headers[0]))
    return headers, order, LPS @ affine


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
    slopes = {float(header.get("RescaleSlope", 1)) for header in headers}
    fractional = len(slopes) > 1 or any(slope % 1 for slope in slopes)
    array = _pixels([series.files[i] for i in order], fractional)
    return Volume(array, affine, series.path)
