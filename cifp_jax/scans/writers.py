"""Volumes to files, in the geometry of the scan that they were made from.

NIfTI, NRRD and HDF5, and of three axes MetaImage and MGZ.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import nibabel
import nrrd
import numpy as np
from jaxtyping import Shaped
from nibabel.nifti1 import Nifti1Extension

from cifp_jax.files import whole, write_record
from cifp_jax.scans.readers import suffix
from cifp_jax.scans.volumes import LPS, MILLIMETERS, Volume, refuse

_COMMENT = "comment"  # kind of a NIfTI header extension


def write(
    path: pathlib.Path,
    array: Shaped[np.ndarray, "x y z *c"],
    like: Volume,
    *,
    names: Mapping[int, str] | None = None,
    scale: float | None = None,
) -> None:
    """Writes an array in the geometry of `like`, in the format that the ending of `path` names.

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
        refuse(path, f"{array.shape} is no shape on the grid of {like.path}.")
    kind = suffix(path)
    if kind in (".h5", ".hdf5"):
        write_record(path, {"image": array}, attributes={"affine": like.affine})
    elif kind == ".nrrd":
        affine = LPS @ like.affine
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
    elif kind == ".mha" and array.ndim == 3:
        _write_metaimage(path, array, like)
    elif kind == ".mgz" and array.ndim == 3:
        # FreeSurfer knows no unsigned numbers of 16 bits, and no 64.
        plain: Any = array if array.dtype == np.uint8 else array.astype(np.int32)
        with whole(path) as partial:
            nibabel.save(nibabel.MGHImage(plain, like.affine), partial)
    else:
        refuse(path, f"{array.ndim} axes are not written to such a file. Name it .nii.gz.")


def _write_metaimage(path: pathlib.Path, array: np.ndarray, like: Volume) -> None:
    affine = LPS @ like.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        refuse(path, "MetaImage knows no sheared axes, as the scan has. Write --format=nifti.")
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with whole(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)


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
    factor = MILLIMETERS[header.get_xyzt_units()[0]]
    image = nibabel.Nifti1Image(array, np.diag([*[1 / factor] * 3, 1]) @ like.affine, header)
    image.header.set_slope_inter(scale, None if scale is None else 0)
    if names is not None:
        text = json.dumps({str(value): name for value, name in names.items()})
        image.header.extensions.append(Nifti1Extension(_COMMENT, text.encode()))
    with whole(path) as partial:
        nibabel.save(image, partial)
