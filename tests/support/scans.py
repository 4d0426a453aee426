"""Scans as files: oblique ones, series and whole raw folders."""

import json
import locale
import runpy
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

# A quarter turn about z, tilted by 0.3 radians about x; voxels of 0.5 x 2 x 7 mm.
TILT = np.array([[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TILT @ np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ np.diag([0.5, 2, 7])
OBLIQUE[:3, 3] = (10, -20, 30)
# Slices 7 mm apart; in the plane 2 x 2 mm.
ANISOTROPIC = OBLIQUE @ np.diag([4.0, 1, 1, 1])
ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def loaded(path) -> Any:
    """What nibabel makes of a file, by itself."""
    return nibabel.load(path)


def nifti(path, array: Any = ARRAY, affine=OBLIQUE, unit="mm"):
    """Writes a file, with its folder, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def dicom(folder, slices=3, series="1.2.3"):
    """A series of the first slices of `ARRAY`, in voxels of 0.5 x 2 x 7 mm."""
    folder.mkdir(exist_ok=True, parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    for z in range(slices):
        image = sitk.GetImageFromArray(ARRAY[:, :, z].T.copy())
        image.SetSpacing((0.5, 2.0))
        tags = {"0020|000e": series, "0020|000d": "1.2", "0008|0060": "MR"}
        tags["0020|0032"] = f"10\\20\\{30 + 7 * z}"
        tags["0020|0037"] = "1\\0\\0\\0\\1\\0"
        tags["0008|0018"] = f"{series}.{z + 1}"
        tags["0020|0013"] = str(z + 1)
        tags["0018|0050"] = "7"
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        # Named against their order, which is that of their places.
        writer.SetFileName(str(folder / f"{series}_{9 - z}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # ITK leaves that of C behind when it writes


def scan(seed, shape=(20, 18, 4)):
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def mask(seed, shape=(20, 18, 4), values=3):
    return np.random.default_rng(seed).integers(0, values, shape).astype(np.uint8)


def nnunet(root, labeled=5):
    """Two channels, three classes; the last of imagesTr and one in imagesUn have no mask."""
    for i in range(labeled + 1):
        for channel in range(2):
            nifti(
                root / f"imagesTr/case{i}_{channel:04}.nii.gz",
                scan(10 * i + channel),
                ANISOTROPIC,
            )
        if i < labeled:
            nifti(root / f"labelsTr/case{i}.nii.gz", mask(i), ANISOTROPIC)
    for name in ("imagesUn/free", "imagesTs/new"):
        for channel in range(2):
            nifti(root / f"{name}_{channel:04}.nii.gz", scan(100 + channel), ANISOTROPIC)
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "rim": 1, "core": 2},
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def config_of(out):
    """The configuration that `prepare` wrote into a folder."""
    return runpy.run_path(str(out / "config.py"))["get_config"]()
