"""Files of every kind, oblique and anisotropic, there and back."""

import dataclasses
import json

import h5py
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from cifp_jax.scans import readers, volumes, writers
from cifp_jax.scans.volumes import Volume
from tests.support.scans import ARRAY, OBLIQUE, dicom, loaded, nifti


def test_nifti(tmp_path):
    volume = readers.read(nifti(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(volume.spacing, (0.5, 2, 7), rtol=1e-6)
    assert volume.orientation == "ALS"  # x runs to anterior, y from right to left, z upwards


def test_scaled_nifti(tmp_path):
    image = nibabel.Nifti1Image(ARRAY, np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(readers.read(tmp_path / "a.nii").array, ARRAY * 0.5 + 3)


def test_units_are_kept_and_spacing_is_in_millimetres(tmp_path):
    microns = np.diag([1000, 1000, 1000, 1]) @ OBLIQUE
    volume = readers.read(nifti(tmp_path / "a.nii.gz", affine=microns, unit="micron"))
    np.testing.assert_allclose(volume.spacing, (0.5, 2, 7), rtol=1e-6)
    writers.write(tmp_path / "mask.nii.gz", ARRAY.astype(np.uint8), volume)
    header = loaded(tmp_path / "mask.nii.gz").header
    assert header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(header.get_zooms(), (500, 2000, 7000), rtol=1e-6)


def test_a_mask_has_the_geometry_of_its_scan_and_names(tmp_path):
    scan = nifti(tmp_path / "a.nii.gz")
    source = loaded(scan)
    source.set_sform(OBLIQUE, code=1)
    source.set_qform(OBLIQUE, code=1)
    source.header["descrip"] = b"Jane Doe"
    nibabel.save(source, scan)
    volume = readers.read(scan)
    names = {0: "background", 3: "tumour"}
    writers.write(tmp_path / "m.nii.gz", (ARRAY % 2 * 3).astype(np.uint8), volume, names=names)
    mask = loaded(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), ARRAY % 2 * 3)
    np.testing.assert_array_equal(mask.affine, loaded(scan).affine)
    assert (mask.header["sform_code"], mask.header["qform_code"]) == (1, 1)
    assert mask.get_data_dtype() == np.uint8
    assert json.loads(mask.header.extensions[0].get_content()) == {"0": "background", "3": "tumour"}
    assert b"Jane" not in bytes(mask.header.binaryblock)


def test_stored_whole_numbers_with_a_scale(tmp_path):
    like = readers.read(nifti(tmp_path / "a.nii.gz"))
    stored = np.full((*ARRAY.shape, 2), 65535, np.uint16)
    writers.write(tmp_path / "p.nii.gz", stored, like, scale=1 / 65535)
    np.testing.assert_allclose(loaded(tmp_path / "p.nii.gz").get_fdata(), 1, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.h5"])
def test_written_is_read(tmp_path, name):
    like = Volume(ARRAY, OBLIQUE, tmp_path)
    writers.write(tmp_path / name, ARRAY, like)
    volume = readers.read(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.prepared == (name == "a.h5")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_nrrd_and_nifti_agree_through_another_reader(tmp_path):
    """ITK reads both formats by itself: it must see the same places."""
    like = Volume(ARRAY, OBLIQUE, tmp_path)
    for name in ("a.nii.gz", "a.nrrd"):
        writers.write(tmp_path / name, ARRAY, like)
    one, two = (sitk.ReadImage(str(tmp_path / n)) for n in ("a.nii.gz", "a.nrrd"))
    for index in ((0, 0, 0), (1, 2, 3)):
        place = np.array(one.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(place, two.TransformIndexToPhysicalPoint(index), atol=1e-4)
        # ITK's x and y run to the left and to the back.
        np.testing.assert_allclose(place * (-1, -1, 1), (OBLIQUE @ (*index, 1))[:3], atol=1e-4)


def test_nrrd_of_several_channels_has_them_last(tmp_path):
    array = np.stack([ARRAY, ARRAY + 100], axis=-1)
    writers.write(tmp_path / "a.nrrd", array, Volume(ARRAY, OBLIQUE, tmp_path))
    np.testing.assert_array_equal(readers.read(tmp_path / "a.nrrd").array, array)
    first = {"space": "left-posterior-superior", "kinds": ["list", "space", "space", "space"]}
    first["space directions"] = np.array([[np.nan] * 3, [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    nrrd.write(str(tmp_path / "b.nrrd"), np.moveaxis(array, -1, 0), first)
    volume = readers.read(tmp_path / "b.nrrd")
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing == (2, 2, 2)
    assert volume.orientation == "LPS"


def test_dicom_series(tmp_path):
    dicom(tmp_path / "scan")
    volume = readers.read(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, ARRAY[:, :, :3])
    np.testing.assert_allclose(volume.spacing, (0.5, 2, 7))
    assert volume.orientation == "LPS"
    np.testing.assert_allclose(volume.affine[:3, 3], (-10, -20, 30))
    dicom(tmp_path / "scan", series="1.2.4")
    with pytest.raises(ValueError, match=r"scan: .*2 DICOM series.*a folder"):
        readers.read(tmp_path / "scan")


def test_damaged_files_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    for name in ("a.nii.gz", "a.nii", "a.nrrd", "a.h5"):
        path = tmp_path / name
        if name.startswith("a.nii"):
            nifti(path, noise)
        else:
            writers.write(path, noise, Volume(noise, np.eye(4), path))
        whole = path.read_bytes()
        for kept in (0, 20, len(whole) // 2):
            path.write_bytes(whole[:kept])
            with pytest.raises(ValueError, match=rf"{name}: .*(Copy it again|Prepare)"):
                readers.read(path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"a\.jpg: .*known: \.nii\.gz"):
        readers.read(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"b\.nii: .*missing"):
        readers.read(tmp_path / "b.nii")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["scan"] = ARRAY
    with pytest.raises(ValueError, match=r"c\.h5: it has no array 'image'"):
        readers.read(tmp_path / "c.h5")


def test_shapes_that_are_no_scan(tmp_path):
    with pytest.raises(ValueError, match=r"a\.nii: its shape is \(2, 3\).*three axes"):
        readers.read(nifti(tmp_path / "a.nii", ARRAY[:, :, 0]))
    header = loaded(nifti(tmp_path / "c.nii")).header
    header["srow_z"] = 0
    nibabel.save(nibabel.Nifti1Image(ARRAY, None, header), tmp_path / "b.nii")
    with pytest.raises(ValueError, match=r"b\.nii: its affine"):
        readers.read(tmp_path / "b.nii")


def test_colours_and_complex_numbers_are_no_scan(tmp_path):
    colors = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, array in (("a.nii", colors), ("b.nii", np.ones((4, 4, 4), np.complex64))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}: its values are .*not numbers"):
            readers.read(tmp_path / name)


def test_channels(tmp_path):
    one, two = nifti(tmp_path / "a.nii"), nifti(tmp_path / "b.nii", ARRAY * 2)
    both = readers.read_channels([one, two], 2)
    np.testing.assert_array_equal(both.array[..., 1], 2 * ARRAY)
    together = nifti(tmp_path / "c.nii", both.array)
    np.testing.assert_array_equal(readers.read_channels([together], 2).array, both.array)
    with pytest.raises(ValueError, match=r"c\.nii: it holds 2 volumes.*1 channel.*frame"):
        readers.read_channels([together], 1)


def test_geometry_is_compared_by_corners(tmp_path):
    volume = Volume(ARRAY, OBLIQUE, tmp_path / "image.nii")
    near, far = OBLIQUE.copy(), OBLIQUE.copy()
    near[:3, 3] += 0.02
    far[:3, 3] += 2.0
    mask = dataclasses.replace(volume, path=tmp_path / "mask.nii")
    volumes.check_same_geometry(volume, dataclasses.replace(mask, affine=near))
    with pytest.raises(ValueError, match=r"image\.nii: .*mask\.nii.* 3\.46 mm.*Resample"):
        volumes.check_same_geometry(volume, dataclasses.replace(mask, affine=far))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*mask\.nii has \(2, 3, 3\)"):
        volumes.check_same_geometry(volume, dataclasses.replace(mask, array=ARRAY[:, :, :3]))
    with pytest.raises(ValueError, match="grid of"):
        writers.write(tmp_path / "x.nii", ARRAY[:1], volume)


def test_a_missing_channel_is_no_series_in_time(tmp_path):
    with pytest.raises(ValueError, match=r"a\.nii: it is 1 of 2 channels.*<case>_0001"):
        readers.read_channels([nifti(tmp_path / "a.nii")], 2)
