"""Scans that a network was not meant for, by hand."""

import math
import pathlib
import re

import nibabel
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.inference import prediction
from cifp_jax.inference.scans import read_scan
from cifp_jax.scans import dicom, readers
from cifp_jax.scans.expected import Expected
from cifp_jax.scans.volumes import Volume
from tests.support.dicom_files import series

FILE = pathlib.Path("a.nii")
MR = Expected("MR", ((5.0, 10.0), (0.5, 2.0), (0.5, 2.0)), (-100.0, math.inf))


def scan(low, high, values=20):
    return Volume(np.linspace(low, high, values).reshape(-1, 1, 1), np.eye(4), FILE)


@pytest.mark.parametrize(
    ("spacing", "values", "said"),
    [
        ((5, 1, 1), (0, 900), []),
        ((15, 3, 0.34), (-100, 900), []),  # 1.5 times off, and just within
        ((15.1, 1, 1), (0, 900), ["15.1 x 1 x 1 mm, where the network expects 5-10 x 0.5-2 x"]),
        ((5, 1, 0.33), (0, 900), ["5 x 1 x 0.33 mm"]),
        ((5, 1, 1), (-101, 900), ["its values go from -101 to 900, where the network expects"]),
        ((5, 4, 1), (-1024, 900), ["5 x 4 x 1 mm", r"-1024 to 900 \(CT\?\)"]),
    ],
)
def test_doubts_by_hand(spacing, values, said):
    found = MR.doubts(FILE, scan(*values), tuple(map(float, spacing)))
    assert len(found) == len(said)
    for one, part in zip(found, said, strict=True):
        assert re.search(part, one), one


def test_a_mask_in_the_place_of_a_scan_is_doubted():
    (doubt,) = Expected().doubts(FILE, scan(0, 3, values=4), (1.0,) * 3)
    assert doubt == "it has 4 different values alone, as a mask has"
    assert not Expected().doubts(FILE, scan(0, 3, values=17), (1.0,) * 3)


@pytest.mark.parametrize("directions", ["LPS", "RAI", "SLP", "AIR"])
def test_a_scan_lies_as_those_of_la_did_however_it_was_stored(tmp_path, directions):
    """Its slices from below upwards, of voxels of 0.625 mm; the network knows no others."""
    config = default_config()
    config.data.name = "la"
    array = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    straight = nibabel.Nifti1Image(array, 0.625 * np.diag([1, 1, 1, 1.6]))
    way = nibabel.orientations.axcodes2ornt(directions)
    back = nibabel.orientations.ornt_transform(nibabel.io_orientation(np.eye(4)), way)
    nibabel.save(straight.as_reoriented(back.tolist()), tmp_path / "a.nii")
    ready = read_scan([tmp_path / "a.nii"], config)
    assert ready.scan.orientation == directions
    assert not ready.doubts
    np.testing.assert_array_equal(ready.turned, array)
    np.testing.assert_allclose(ready.image, (array - array.mean()) / array.std(), rtol=1e-5)


def test_a_scan_of_larger_voxels_is_brought_to_those_of_la(tmp_path):
    config = default_config()
    config.data.name = "la"
    array = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.25, 0.625, 0.9375, 1])), tmp_path / "a.nii")
    ready = read_scan([tmp_path / "a.nii"], config)
    assert (ready.turned.shape, ready.image.shape) == ((6, 5, 4), (12, 5, 6))
    (doubt,) = ready.doubts  # 1.25 mm is twice as much, which resampling does not make up for
    assert "its voxels are 1.25 x 0.625 x 0.938 mm" in doubt


def test_the_modality_of_a_series(tmp_path):
    series(tmp_path / "ct")
    files = sorted((tmp_path / "ct").iterdir())
    found, _ = dicom.group({f: h for f in files if (h := dicom.read_header(f)) is not None})
    volume = readers.read(found[0])
    assert Expected("MR").doubts(found[0], volume, volume.spacing) == [
        "it is CT, and the network was trained on MR"
    ]
    assert not Expected("CT").doubts(found[0], volume, volume.spacing)
    assert not Expected().doubts(found[0], volume, volume.spacing)


def test_scans_of_ones_own_are_held_against_the_plan():
    """Planned for slices of 1 x 1 mm at any distance: a third of that, or three times, is far."""
    config = default_config()
    config.data.name = "slices"
    config.preparation.spacing = (0.0, 1.0, 1.0)
    expected = prediction.expected(config)
    assert not expected.doubts(FILE, scan(-1000, 3000), (90.0, 3.0, 0.34))
    assert expected.doubts(FILE, scan(0, 1), (90.0, 3.1, 1.0))
    config.preparation.spacing = ()
    assert not prediction.expected(config).doubts(FILE, scan(0, 1), (90.0,) * 3)


def test_an_empty_slice_is_no_sign_of_a_mask():
    """Every n-th voxel would be one of the first slice, where n is the number of slices."""
    array = np.random.default_rng(0).normal(size=(320, 320, 6))
    array[..., 0] = 0
    assert not Expected().doubts(FILE, Volume(array, np.eye(4), FILE), (1.0,) * 3)
