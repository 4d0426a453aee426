"""Files of scans and masks to volumes: NIfTI, NRRD, MetaImage, MGZ, DICOM and HDF5."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk

from cifp_jax.scans.volumes import LPS, MILLIMETERS, Unfit, Volume, check_same_geometry, refuse

_TO_RAS = {
    "left-posterior-superior": LPS,
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "right-anterior-superior": np.eye(4),
}


def _read_nifti(path: pathlib.Path) -> Volume:
    image: Any = nibabel.load(path)
    proxy = image.dataobj
    # Whole numbers stay what they are; scaled ones would become 64 bits wide.
    plain = getattr(proxy, "slope", 1) == 1 and getattr(proxy, "inter", 0) == 0
    array = (
        proxy.get_unscaled() if plain else image.get_fdata(dtype=np.float32, caching="unchanged")
    )
    header: Any = nibabel.Nifti1Header.from_header(image.header)
    factor = MILLIMETERS[header.get_xyzt_units()[0]]
    affine = np.diag([factor, factor, factor, 1.0]) @ image.affine
    return Volume(np.asarray(array), affine, path, header)


def _read_nrrd(path: pathlib.Path) -> Volume:
    array, header = nrrd.read(str(path))
    kinds = header.get("space directions")
    directions = np.diag(header["spacings"]) if kinds is None and "spacings" in header else kinds
    directions = np.eye(array.ndim) if directions is None else np.asarray(directions, float)
    spatial = np.isfinite(directions).all(axis=1)
    if spatial.sum() != 3:
        refuse(path, f"it has {spatial.sum()} spatial axes, not 3. Save it as one 3D volume.")
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
    return Volume(sitk.GetArrayFromImage(image).T, LPS @ affine, path)


def _read_dicom(path: pathlib.Path) -> Volume:
    if path.is_file():
        return _from_itk(sitk.ReadImage(str(path)), path)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
    if len(series) != 1:
        refuse(
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
            refuse(path, "it has no array 'image'. Prepare this file again.")
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
        refuse(path, f"this kind of file is unknown; known: {', '.join(SUFFIXES)}.")
    try:
        volume = reader(path)
    except Unfit:
        raise
    except Exception as error:  # nibabel, nrrd, zlib, HDF5 and ITK each have errors of their own
        reason = " ".join(str(error).split())
        raise Unfit(
            f"{path}: it cannot be read; it may be cut off or damaged ({reason}). Copy it again, "
            f"or leave this scan out."
        ) from error
    if volume.array.ndim == 4 and volume.array.shape[3] == 1:
        volume = dataclasses.replace(volume, array=volume.array[..., 0])
    if volume.array.ndim not in (3, 4) or 0 in volume.array.shape:
        refuse(path, f"its shape is {volume.array.shape}; a scan has three axes. Save it as 3D.")
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        refuse(path, "its affine places all voxels in a plane. Save it with a valid geometry.")
    if volume.array.dtype.kind not in "biuf":
        refuse(path, f"its values are {volume.array.dtype}, not numbers. Save grey values.")
    return volume


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
                refuse(volume.path, f"{shape}their own. Save one channel in each.")
            check_same_geometry(first, volume)
        first = dataclasses.replace(first, array=np.stack([v.array for v in volumes], axis=-1))
    found = first.array.shape[3] if first.array.ndim == 4 else 1
    if first.array.ndim > 4 or found != channels:
        refuse(
            first.path,
            f"it holds {found} volumes, where {channels} channel(s) are due. Of a series in time, "
            f"save the frame to segment as a file of its own.",
        )
    return first
