"""Scans and masks as files: NIfTI, NRRD, DICOM series and HDF5, with the place of every voxel.

Arrays keep the axes of their file, (x, y, z) or (x, y, z, channels). An affine maps voxel indices
to millimetres, to the patient's right-to-left-increasing (RAS+) axes that NIfTI uses; NRRD and
DICOM, whose first two axes point the other way (LPS+), are turned when they are read and written.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import h5py
import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Shaped
from nibabel.nifti1 import Nifti1Extension

from cifp_jax.files import whole, write_record

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse
_TO_RAS = {
    "left-posterior-superior": _LPS,
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "right-anterior-superior": np.eye(4),
}
_MILLIMETERS = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
_COMMENT = "comment"  # kind of a NIfTI header extension


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan or a mask and where it lies.

    Attributes:
      array: (x, y, z) or, for several channels, (x, y, z, c), in the axes of the file.
      affine: voxel index to mm, RAS+.
      path: the file or, of a DICOM series, the folder.
      header: of a NIfTI file, so that a mask gets the same units and codes; else None.
      prepared: the array is a record for training already, as HDF5 files hold them.
    """

    array: Shaped[np.ndarray, "*shape"]
    affine: Float[np.ndarray, "4 4"]
    path: pathlib.Path
    header: Any = None
    prepared: bool = False

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each axis, mm."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    @property
    def orientation(self) -> str:
        """Where each axis points to, the nearest of left, right, ...: e.g. "LPS"."""
        return "".join(nibabel.aff2axcodes(self.affine))


class _Unfit(ValueError):
    """A file that was read and cannot be used, with its name and the remedy."""


def _refuse(path: pathlib.Path, what: str) -> NoReturn:
    raise _Unfit(f"{path}: {what}")


def _read_nifti(path: pathlib.Path) -> Volume:
    image: Any = nibabel.load(path)
    proxy = image.dataobj
    # Whole numbers stay what they are; scaled ones would become 64 bits wide.
    plain = getattr(proxy, "slope", 1) == 1 and getattr(proxy, "inter", 0) == 0
    array = (
        proxy.get_unscaled() if plain else image.get_fdata(dtype=np.float32, caching="unchanged")
    )
    header: Any = nibabel.Nifti1Header.from_header(image.header)
    factor = _MILLIMETERS[header.get_xyzt_units()[0]]
    affine = np.diag([factor, factor, factor, 1.0]) @ image.affine
    return Volume(np.asarray(array), affine, path, header)


def _read_nrrd(path: pathlib.Path) -> Volume:
    array, header = nrrd.read(str(path))
    kinds = header.get("space directions")
    directions = np.diag(header["spacings"]) if kinds is None and "spacings" in header else kinds
    directions = np.eye(array.ndim) if directions is None else np.asarray(directions, float)
    spatial = np.isfinite(directions).all(axis=1)
    if spatial.sum() != 3:
        _refuse(path, f"it has {spatial.sum()} spatial axes, not 3. Save it as one 3D volume.")
    # The channels, if there are any, go last.
    array = np.moveaxis(array, np.flatnonzero(~spatial), range(3, array.ndim))
    affine = np.eye(4)
    affine[:3, :3] = directions[spatial][:, :3].T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    space = str(header.get("space", "right-anterior-superior")).lower()
    short = {"lps": "left-posterior-superior", "las": "left-anterior-superior"}
    turn = _TO_RAS.get(short.get(space, space))
    return Volume(array, affine if turn is None else turn @ affine, path)


def _from_itk(image: sitk.Image, path: pathlib.Path) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, _LPS @ affine, path)


def _read_dicom(path: pathlib.Path) -> Volume:
    if path.is_file():
        return _from_itk(sitk.ReadImage(str(path)), path)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if len(series) != 1:
        _refuse(
            path,
            f"this folder holds {len(series)} DICOM series, not one. Give each series a folder.",
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path), series[0]))
    return _from_itk(reader.Execute(), path)


def _read_hdf5(path: pathlib.Path) -> Volume:
    with h5py.File(path) as file:
        record = file.get("image")
        if not isinstance(record, h5py.Dataset):
            _refuse(path, "it has no array 'image'. Prepare this file again.")
        affine = np.asarray(file.attrs.get("affine", np.eye(4)), float)
        return Volume(record[()], affine, path, prepared=True)


_READERS: dict[str, Callable[[pathlib.Path], Volume]] = {
    ".nii.gz": _read_nifti,
    ".nii": _read_nifti,
    ".nrrd": _read_nrrd,
    ".nhdr": _read_nrrd,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".dcm": _read_dicom,
}
SUFFIXES = tuple(_READERS)


def suffix(path: pathlib.Path) -> str:
    """The ending of `SUFFIXES` that a file has, or "" where it has none of them."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def stem(path: pathlib.Path) -> str:
    """The name of a file without that ending; of a folder, its name."""
    return path.name[: len(path.name) - len(suffix(path))]


def read(path: pathlib.Path) -> Volume:
    """Reads a file of one of `SUFFIXES`, or the DICOM series in a folder.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: it cannot be read, or holds no volume of three axes, or an affine that is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: this file is missing. Put it there, or name another.")
    reader = _read_dicom if path.is_dir() else _READERS.get(suffix(path))
    if reader is None:
        _refuse(path, f"this kind of file is unknown; known: {', '.join(SUFFIXES)}.")
    try:
        volume = reader(path)
    except _Unfit:
        raise
    except Exception as error:  # nibabel, nrrd, zlib, HDF5 and ITK each have errors of their own
        reason = " ".join(str(error).split())
        raise _Unfit(
            f"{path}: it cannot be read; it may be cut off or damaged ({reason}). Copy it again, "
            f"or leave this scan out."
        ) from error
    if volume.array.ndim == 4 and volume.array.shape[3] == 1:
        volume = dataclasses.replace(volume, array=volume.array[..., 0])
    if volume.array.ndim not in (3, 4) or 0 in volume.array.shape:
        _refuse(path, f"its shape is {volume.array.shape}; a scan has three axes. Save it as 3D.")
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        _refuse(path, "its affine places all voxels in a plane. Save it with a valid geometry.")
    if volume.array.dtype.kind not in "biuf":
        _refuse(path, f"its values are {volume.array.dtype}, not numbers. Save grey values.")
    return volume


def check_same_geometry(first: Volume, second: Volume) -> None:
    """Raises ValueError where two volumes are not on one grid, to a tenth of the voxel's side."""
    shapes = first.array.shape[:3], second.array.shape[:3]
    remedy = "Resample the second onto the first, or leave this case out."
    if shapes[0] != shapes[1]:
        _refuse(
            first.path,
            f"it has the shape {shapes[0]} and {second.path} has {shapes[1]}. {remedy}",
        )
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * (*shapes[0], 1)
    apart = np.linalg.norm(corners @ (first.affine - second.affine).T, axis=1).max()
    if apart > 0.1 * min(first.spacing):
        _refuse(
            first.path,
            f"{second.path} lies elsewhere: their corners are up to {apart:.3g} mm apart (affines "
            f"{first.affine[:3].round(3).tolist()} and {second.affine[:3].round(3).tolist()}). "
            f"{remedy}",
        )


def read_channels(paths: Sequence[pathlib.Path], channels: int) -> Volume:
    """Reads a scan whose channels are files of their own, or are all in one.

    Returns:
      A volume of shape (x, y, z) for one channel, else (x, y, z, channels).

    Raises:
      FileNotFoundError, ValueError: as `read`; files of different geometry; a 4D series; another
        number of channels than `channels`.
    """
    volumes = [read(path) for path in paths]
    first = volumes[0]
    if len(volumes) > 1:
        for volume in volumes:
            if volume.array.ndim != 3:
                shape = f"its shape is {volume.array.shape}, and its other channels are files of "
                _refuse(volume.path, f"{shape}their own. Save one channel in each.")
            check_same_geometry(first, volume)
        first = dataclasses.replace(first, array=np.stack([v.array for v in volumes], axis=-1))
    found = first.array.shape[3] if first.array.ndim == 4 else 1
    if first.array.ndim > 4 or found != channels:
        _refuse(
            first.path,
            f"it holds {found} volumes, where {channels} channel(s) are due. Of a series in time, "
            f"save the frame to segment as a file of its own.",
        )
    return first


def write(
    path: pathlib.Path,
    array: Shaped[np.ndarray, "x y z *c"],
    like: Volume,
    *,
    names: Mapping[int, str] | None = None,
    scale: float | None = None,
) -> None:
    """Writes an array in the geometry of `like`: NIfTI, NRRD or HDF5, by the ending of `path`.

    Args:
      path: the file, which appears whole or not at all.
      array: on the grid of `like`.
      like: what it was made from. A NIfTI file's units and codes are taken over.
      names: of label values; kept in a NIfTI header as a comment extension of JSON.
      scale: NIfTI: what the stored whole numbers are multiplied by when they are read.

    Raises:
      ValueError: another grid than that of `like`, or an ending that cannot be written.
    """
    if array.shape[:3] != like.array.shape[:3]:
        _refuse(path, f"{array.shape} is no shape on the grid of {like.path}.")
    kind = suffix(path)
    if kind in (".h5", ".hdf5"):
        write_record(path, {"image": array}, attributes={"affine": like.affine})
    elif kind == ".nrrd":
        affine = _LPS @ like.affine
        directions = [*affine[:3, :3].T, *[np.full(3, np.nan)] * (array.ndim - 3)]
        header = {
            "space": "left-posterior-superior",
            "space directions": np.array(directions),
            "space origin": affine[:3, 3],
        }
        with whole(path) as partial:
            nrrd.write(str(partial), array, header)
    elif kind in (".nii", ".nii.gz"):
        _write_nifti(path, array, like, names, scale)
    else:
        _refuse(path, "only NIfTI, NRRD and HDF5 files are written. Name it .nii.gz.")


def _write_nifti(
    path: pathlib.Path,
    array: np.ndarray,
    like: Volume,
    names: Mapping[int, str] | None,
    scale: float | None,
) -> None:
    header: Any = nibabel.Nifti1Header() if like.header is None else like.header.copy()
    if like.header is None:
        header.set_xyzt_units("mm")
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = b""
    header.extensions.clear()  # those of a scan may hold the patient's name
    factor = _MILLIMETERS[header.get_xyzt_units()[0]]
    image = nibabel.Nifti1Image(array, np.diag([*[1 / factor] * 3, 1]) @ like.affine, header)
    image.header.set_slope_inter(scale, None if scale is None else 0)
    if names is not None:
        text = json.dumps({str(value): name for value, name in names.items()})
        image.header.extensions.append(Nifti1Extension(_COMMENT, text.encode()))
    with whole(path) as partial:
        nibabel.save(image, partial)
