"""Whether the slices of a DICOM series make a grid, and which.

A series whose slices are not parallel, evenly spaced and stacked straight has no affine. It is
refused rather than flattened, as its mask would lie beside the anatomy.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pydicom
from jaxtyping import Float

from cifp_jax.scans.volumes import LPS, refuse

_UNEVEN = 0.1  # of a side of a voxel: how far a slice may lie from its place
_TILT = 0.5  # degrees between the stack and the normal of its slices that are put up with


class _Plane(NamedTuple):
    """Where a slice lies: LPS mm; None where the file does not say."""

    position: Any
    orientation: Any
    spacing: Any
    sides: tuple[int, int]
    frame_of_reference: str


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


def stack(
    path: pathlib.Path, headers: Sequence[pydicom.Dataset]
) -> tuple[list[int], Float[np.ndarray, "4 4"]]:
    """The order of the slices along their normal, and the affine of (x, y, z) to RAS mm.

    Args:
      path: what messages name.
      headers: of the files of a series, or of one multi-frame file.

    Raises:
      ValueError: the slices make no regular grid, and why.
    """
    planes = [plane for header in headers for plane in _planes(header)]
    _check_alike(path, planes)
    across, down = np.reshape(np.array(planes[0].orientation, float), (2, 3))
    normal = np.cross(across, down)
    positions = np.array([p.position for p in planes], float)
    order = np.argsort(positions @ normal, kind="stable").tolist()
    positions = positions[order]
    rows, columns = map(float, planes[0].spacing)  # between rows, between columns
    step = normal * _thickness(headers[0])
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
    return order, LPS @ affine
