"""Scans and masks as arrays, with the place of every voxel.

Arrays keep the axes of their file, (x, y, z) or (x, y, z, channels). An affine maps voxel indices
to millimetres, to the patient's right-to-left-increasing (RAS+) axes that NIfTI uses; the first two
axes of NRRD, MetaImage and DICOM point the other way (LPS+) and are turned.
"""

import dataclasses
import pathlib
from typing import Any, NoReturn

import nibabel
import numpy as np
from jaxtyping import Float, Shaped

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # to RAS and back
MILLIMETERS = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan or a mask and where it lies.

    Attributes:
      array: (x, y, z) or, for several channels, (x, y, z, c), in the axes of the file.
      affine: voxel index to mm, RAS+.
      path: the file or, of a DICOM series, the folder.
      header: of a NIfTI file, so that a mask gets the same units and codes; else None.
      prepared: the array is a record for training already, as HDF5 files hold them.
      oriented: the file says how its axes lie in the patient; if not, the affine is a guess.
    """

    array: Shaped[np.ndarray, "*shape"]
    affine: Float[np.ndarray, "4 4"]
    path: pathlib.Path
    header: Any = None
    prepared: bool = False
    oriented: bool = True

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, mm."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def orientation(self) -> str:
        """Where each axis points to, the nearest of left, right, ...: e.g. "LPS"."""
        return "".join(nibabel.aff2axcodes(self.affine))


class Unfit(ValueError):
    """A file that was read and cannot be used, with its name and the remedy."""


def refuse(path: object, what: str) -> NoReturn:
    """Raises `Unfit`: what is wrong with a file, and the remedy."""
    raise Unfit(f"{path}: {what}")


def sampled(values: Shaped[np.ndarray, "n *c"], count: int) -> Shaped[np.ndarray, "m *c"]:
    """Entries of the first axis: all of them, or `count` drawn at random, always alike.

    Every n-th one would be of the same place of every slice, where n divides their size.
    """
    if len(values) <= count:
        return values
    return values[np.random.default_rng(0).integers(len(values), size=count)]


def check_same_geometry(first: Volume, second: Volume) -> None:
    """Raises ValueError where two volumes are not on one grid, to a tenth of the voxel's side."""
    shapes = first.array.shape[:3], second.array.shape[:3]
    remedy = "Resample the second onto the first, or leave this case out."
    if shapes[0] != shapes[1]:
        refuse(
            first.path,
            f"it has the shape {shapes[0]} and {second.path} has {shapes[1]}. {remedy}",
        )
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * (*shapes[0], 1)
    apart = np.linalg.norm(corners @ (first.affine - second.affine).T, axis=1).max()
    if apart > 0.1 * min(first.spacing):
        refuse(
            first.path,
            f"{second.path} lies elsewhere: their corners are up to {apart:.3g} mm apart (affines "
            f"{first.affine[:3].round(3).tolist()} and {second.affine[:3].round(3).tolist()}). "
            f"{remedy}",
        )


def check_oriented(volume: Volume) -> None:
    """Raises ValueError where a file does not say how its axes lie in the patient."""
    if not volume.oriented:
        refuse(
            volume.path,
            "it does not say how its axes lie in the patient (a NIfTI file without qform and "
            "sform, for one), so left and right would be a guess. Take the file that it was made "
            "from, or set its affine.",
        )


def on_grid_of(scan: Volume, mask: Volume, *, partial: bool = False) -> Volume:
    """Turns and mirrors the axes of a mask so that they run as those of its scan.

    Args:
      scan: where the mask was drawn.
      mask: of three axes.
      partial: the mask may cover a part of the scan alone; the rest is 0.

    Raises:
      ValueError: even so the two are not on one grid, the mask has no orientation, or what is drawn
        in it lies outside of the scan.
    """
    check_oriented(mask)
    to_scan = np.linalg.inv(scan.affine)
    turn = nibabel.io_orientation(to_scan @ mask.affine)
    array = nibabel.apply_orientation(mask.array, turn)
    affine = mask.affine @ nibabel.orientations.inv_ornt_aff(turn, mask.array.shape)
    if partial:
        start = np.rint((to_scan @ affine)[:3, 3]).astype(int)
        stop = start + array.shape
        whole = np.zeros(scan.array.shape[:3], array.dtype)
        inside = tuple(
            slice(*np.clip(pair, 0, n)) for *pair, n in zip(start, stop, whole.shape, strict=True)
        )
        own = tuple(
            slice(part.start - first, part.stop - first)
            for part, first in zip(inside, start, strict=True)
        )
        whole[inside] = array[own]
        array, affine = whole, affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ start
    turned = dataclasses.replace(mask, array=array, affine=affine)
    check_same_geometry(scan, turned)
    if lost := np.count_nonzero(mask.array) - np.count_nonzero(array):
        refuse(
            mask.path,
            f"{lost} of its voxels lie outside of {scan.path}. Name the scan that it was drawn on, "
            f"or cut the mask to this one.",
        )
    return turned
