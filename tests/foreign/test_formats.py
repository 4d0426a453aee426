"""Formats beside NIfTI and DICOM, and files that do not say where they lie."""

from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.openers import Opener

from cifp_jax.scans import readers
from cifp_jax.scans.preparation import Preparation
from tests.support.scans import ARRAY, OBLIQUE, nifti

CANONICAL = Preparation(canonical=True)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "A.MHA"])
def test_metaimage(tmp_path, name):
    """ITK writes what nibabel wrote as NIfTI: both readers must place the voxels alike."""
    image = sitk.ReadImage(str(nifti(tmp_path / "a.nii")))
    sitk.WriteImage(image, str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    volume = readers.read(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.oriented


def test_mgz(tmp_path):
    array: Any = ARRAY
    nibabel.save(nibabel.MGHImage(array, OBLIQUE), tmp_path / "a.mgz")
    volume = readers.read(tmp_path / "a.mgz")
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert volume.oriented


def test_pairs_of_header_and_image(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(ARRAY, OBLIQUE), tmp_path / "a.img")
    np.testing.assert_allclose(readers.read(tmp_path / "a.img").affine, OBLIQUE, atol=1e-5)
    nibabel.save(nibabel.AnalyzeImage(ARRAY, np.eye(4)), tmp_path / "b.img")
    with pytest.raises(ValueError, match=r"b\.img: an Analyze file .* left and right.*NIfTI"):
        readers.read(tmp_path / "b.img")


def unplaced(path):
    """Saves the array in a file without an orientation."""
    if path.suffix == ".nrrd":
        nrrd.write(str(path), ARRAY, {"spacings": [1.0, 1.0, 1.0]})
    else:
        image = nibabel.Nifti1Image(ARRAY, np.diag([2, 2, 2, 1.0]))
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
        nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd"])
def test_an_orientation_is_never_guessed(tmp_path, name):
    volume = readers.read(unplaced(tmp_path / name))
    with pytest.raises(ValueError, match=rf"a\{volume.path.suffix}: .*left and right.*set its"):
        CANONICAL.image(volume)
    # Where axes are taken as they lie in the file, none is needed.
    assert Preparation().image(volume).shape == ARRAY.shape


@pytest.mark.parametrize(
    ("qform", "fits"),
    [
        (np.diag([2.0, 2, 2, 1]), True),
        # Shifted and turned a little, as where one of the two leads to an atlas.
        ([[2.0, 0.2, 0, 50], [-0.2, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], True),
        (np.diag([-2.0, 2, 2, 1]), False),
        (np.diag([2.0, 2, 3, 1]), False),
        ([[0.0, 2, 0, 0], [-2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], False),
    ],
)
def test_two_geometries_of_one_file(tmp_path, qform, fits):
    image = nibabel.Nifti1Image(ARRAY, np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.array(qform), code=1, update_affine=False)
    image.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    if fits:
        np.testing.assert_allclose(readers.read(tmp_path / "a.nii").spacing, 2.0)
    else:
        with pytest.raises(ValueError, match=r"a\.nii: its sform and its qform contradict"):
            readers.read(tmp_path / "a.nii")


@pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1)), ("las", (-1, 1)), ("LPS", (-1, -1))])
def test_short_names_of_nrrds_axes(tmp_path, space, signs):
    header = {"space": space, "space directions": np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(str(tmp_path / "a.nrrd"), ARRAY, header)
    volume = readers.read(tmp_path / "a.nrrd")
    assert volume.oriented
    np.testing.assert_array_equal(volume.affine, np.diag([*signs, 1, 1]))


@pytest.mark.parametrize("side", [0.0014, 1400])
def test_voxels_in_another_unit(tmp_path, side):
    """1.4 mm as metres or microns: one such scan would be a single voxel, or fill the disk."""
    path = nifti(tmp_path / "a.nii", ARRAY, np.diag([side, side, 8, 1]))
    with pytest.raises(ValueError, match=r"a\.nii: its voxels are .* unit may be wrong"):
        readers.read(path)
    path = nifti(tmp_path / "b.nii", ARRAY, np.diag([0.0014, 0.0014, 0.008, 1]), "meter")
    np.testing.assert_allclose(readers.read(path).spacing, (1.4, 1.4, 8), rtol=1e-6)


def test_colours(tmp_path):
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.mha"))
    with pytest.raises(ValueError, match=r"a\.mha: it has 3 axes and 3 values in each voxel"):
        readers.read(tmp_path / "a.mha")
    header = {"kinds": ["RGB-color", "domain", "domain", "domain"]}
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((3, 4, 4, 4), np.uint8), header)
    with pytest.raises(ValueError, match=r"a\.nrrd: it is a colour image"):
        readers.read(tmp_path / "a.nrrd")


def test_a_scan_larger_than_memory_is_named(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.float64)
    header.set_sform(np.eye(4), 1)
    with Opener(str(tmp_path / "a.nii.gz"), "wb") as file:
        file.write(header.binaryblock + bytes(1000))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: it .*(memory|cut off).*Copy it again") as e:
        readers.read(tmp_path / "a.nii.gz")
    assert "()" not in str(e.value)
