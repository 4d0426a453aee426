"""Files of scans and masks to volumes: NIfTI, NRRD, MetaImage, MGZ, DICOM and HDF5."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import nibabel
import nrrd
import numpy as np

from cifp_jax.files import check_dataset
from cifp_jax.scans import dicom
from cifp_jax.scans.volumes import LPS, MILLIMETERS, Unfit, Volume, check_same_geometry, refuse

_LAS = np.diag([-1.0, 1.0, 1.0, 1.0])
_TO_RAS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS),
    **dict.fromkeys(("left-anterior-superior", "las"), _LAS),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.eye(4)),
}
_SIDES = (0.005, 100.0)  # of a voxel, mm; what lies beyond was given in another unit


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
    oriented = bool(header["sform_code"] or header["qform_code"])
    return Volume(np.asarray(array), affine, path, header, oriented=oriented)


def _check_forms(path: pathlib.Path, header: Any) -> None:
    """Raises ValueError where the two geometries of a NIfTI file contradict each other.

    They may differ, as where one of them leads to an atlas; but if they turn an axis or size a
    voxel differently, programs that take the one and the other mirror or stretch each other's
    masks.
    """
    if not (header["sform_code"] and header["qform_code"]):
        return
    try:
        forms = header.get_sform(), header.get_qform()
    except ValueError:
        return  # of a quaternion that is none; then the sform counts everywhere
    ways = ["".join(nibabel.aff2axcodes(form)) for form in forms]
    sides = [np.linalg.norm(form[:3, :3], axis=0) for form in forms]
    if ways[0] != ways[1] or not np.allclose(*sides, rtol=0.01):
        refuse(
            path,
            f"its sform and its qform contradict each other (axes to {ways[0]} and {ways[1]}, "
            f"voxels of {sides[0].round(3).tolist()} and {sides[1].round(3).tolist()} mm). Copy "
            f"the right one over the other, as `fslorient -copysform2qform` does.",
        )


def _read_analyze(path: pathlib.Path) -> Volume:
    if not isinstance(nibabel.load(path), nibabel.Nifti1Pair):
        refuse(path, "an Analyze file does not say where left and right are. Save it as NIfTI.")
    return _read_nifti(path)


def _read_mgh(path: pathlib.Path) -> Volume:
    image: Any = nibabel.load(path)
    oriented = bool(image.header["goodRASFlag"])
    return Volume(np.asarray(image.dataobj), image.affine, path, oriented=oriented)


def _read_nrrd(path: pathlib.Path) -> Volume:
    array, header = nrrd.read(str(path))
    if any(str(kind).lower().endswith("color") for kind in header.get("kinds", ())):
        refuse(path, "it is a colour image. Save grey values.")
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
    turn = _TO_RAS.get(space)
    oriented = "space" in header and kinds is not None and turn is not None
    return Volume(array, affine if turn is None else turn @ affine, path, oriented=oriented)


def _read_metaimage(path: pathlib.Path) -> Volume:
    import SimpleITK as sitk

    # Named, as ITK would not know it by an ending in capitals.
    image = sitk.ReadImage(str(path), imageIO="MetaImageIO")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        refuse(
            path,
            f"it has {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} "
            f"values in each voxel. Save one value a voxel of a 3D volume; channels as files.",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T, LPS @ affine, path)


def _read_dicom(path: pathlib.Path) -> Volume:
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    headers = {f: header for f in files if (header := dicom.read_header(f)) is not None}
    series, _ = dicom.group(headers)
    if len(series) != 1:
        refuse(path, f"it holds {len(series)} DICOM series, not one. Give each series a folder.")
    return dicom.read_series(series[0] if path.is_dir() else series[0]._replace(path=path))


def _read_hdf5(path: pathlib.Path) -> Volume:
    with h5py.File(path) as file:
        record = file.get("image")
        if not isinstance(record, h5py.Dataset):
            refuse(path, "it has no array 'image'. Prepare this file again.")
        check_dataset(path, record)
        oriented = "affine" in file.attrs
        affine = np.asarray(file.attrs["affine"] if oriented else np.eye(4), float)
        return Volume(record[()], affine, path, prepared=True, oriented=oriented)


_READERS: dict[str, Callable[[pathlib.Path], Volume]] = {
    ".nii.gz": _read_nifti,
    ".nii": _read_nifti,
    ".img": _read_analyze,
    ".nrrd": _read_nrrd,
    ".nhdr": _read_nrrd,
    ".mha": _read_metaimage,
    ".mhd": _read_metaimage,
    ".mgz": _read_mgh,
    ".mgh": _read_mgh,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    **dict.fromkeys(dicom.SUFFIXES, _read_dicom),
}
SUFFIXES = tuple(_READERS)
# Where a scan is one file, or the slices of a series.
Source = pathlib.Path | dicom.Series


def suffix(path: pathlib.Path) -> str:
    """The ending of `SUFFIXES` that a file has, or "" where it has none of them."""
    return next((s for s in SUFFIXES if path.name.lower().endswith(s)), "")


def stem(path: pathlib.Path) -> str:
    """The name of a file without that ending; of a folder, its name."""
    return path.name[: len(path.name) - len(suffix(path))]


def is_slice(path: pathlib.Path) -> bool:
    """Whether a file is a prepared record of one slice, as those that ACDC is trained on."""
    if suffix(path) not in (".h5", ".hdf5"):
        return False
    try:
        with h5py.File(path) as file:
            record = file.get("image")
            return isinstance(record, h5py.Dataset) and record.ndim == 2
    except OSError:
        return False  # said when it is read


def _open(source: Source) -> Volume:
    if isinstance(source, dicom.Series):
        return dicom.read_series(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: this file is missing. Put it there, or name another.")
    known = suffix(source)
    if source.is_dir() or (not known and dicom.read_header(source) is not None):
        return _read_dicom(source)
    if not known:
        refuse(source, f"this kind of file is unknown; known: {', '.join(SUFFIXES)}.")
    return _READERS[known](source)


def read(source: Source) -> Volume:
    """Reads a file of one of `SUFFIXES`, or a DICOM series by its folder or its files.

    Raises:
      FileNotFoundError: there is nothing at that path.
      ValueError: it cannot be read, or holds no volume of three axes, or an affine that is none.
    """
    try:
        volume = _open(source)
    except (Unfit, FileNotFoundError):
        raise
    except MemoryError as error:
        raise Unfit(
            f"{source}: it does not fit in memory by the size that its header names; the header "
            f"may be damaged. Copy it again, or resample it to larger voxels."
        ) from error
    except Exception as error:  # nibabel, nrrd, zlib, HDF5 and ITK each have errors of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Unfit(
            f"{source}: it cannot be read; it may be cut off or damaged ({reason}). Copy it again, "
            f"or leave this scan out."
        ) from error
    path = volume.path
    if volume.array.ndim == 4 and volume.array.shape[3] == 1:
        volume = dataclasses.replace(volume, array=volume.array[..., 0])
    if volume.array.ndim not in (3, 4) or 0 in volume.array.shape:
        refuse(path, f"its shape is {volume.array.shape}; a scan has three axes. Save it as 3D.")
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
        refuse(path, "its affine places all voxels in a plane. Save it with a valid geometry.")
    if not volume.prepared and not all(_SIDES[0] <= s <= _SIDES[1] for s in volume.spacing):
        sides = " x ".join(f"{side:.3g}" for side in volume.spacing)
        refuse(path, f"its voxels are {sides} mm, so its unit may be wrong. Correct its spacing.")
    if volume.header is not None:
        _check_forms(path, volume.header)
    if volume.array.dtype.kind not in "biuf":
        refuse(path, f"its values are {volume.array.dtype}, not numbers. Save grey values.")
    return volume


def read_channels(sources: Sequence[Source], channels: int) -> Volume:
    """Reads a scan whose channels are files of their own, or are all in one.

    Returns:
      A volume of shape (x, y, z) for one channel, else (x, y, z, channels).

    Raises:
      FileNotFoundError, ValueError: as `read`; files of different geometry; a 4D series; another
        number of channels than `channels`.
    """
    volumes = [read(source) for source in sources]
    first = volumes[0]
    if len(volumes) > 1:
        for volume in volumes:
            if volume.array.ndim != 3:
                shape = f"its shape is {volume.array.shape}, and its other channels are files of "
                refuse(volume.path, f"{shape}their own. Save one channel in each.")
            check_same_geometry(first, volume)
        first = dataclasses.replace(first, array=np.stack([v.array for v in volumes], axis=-1))
    found = first.array.shape[3] if first.array.ndim == 4 else 1
    if found < channels:
        refuse(
            first.path,
            f"it is {found} of {channels} channels. Name the files of a case <case>_0000, "
            f"<case>_0001, ..., or leave this scan out.",
        )
    if found > channels:
        refuse(
            first.path,
            f"it holds {found} volumes, where {channels} channel(s) are due. Of a series in time, "
            f"save the frame to segment as a file of its own.",
        )
    return first
