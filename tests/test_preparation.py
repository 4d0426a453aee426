"""Orientation, resolution and normalisation against values worked out by hand."""

import pathlib

import numpy as np
import pytest

from cifp_jax.scans import geometry
from cifp_jax.scans.preparation import Preparation, mask_values
from cifp_jax.scans.volumes import Volume
from tests.support.scans import ARRAY, OBLIQUE


def volume(array, affine=OBLIQUE):
    return Volume(array, affine, pathlib.Path("scan.nii"))


CANONICAL = Preparation(canonical=True)


def test_canonical_there_and_back():
    scan = volume(ARRAY)
    turned = CANONICAL.turned(ARRAY, scan)
    # File axes run to anterior, left, superior; of 2, 3 and 4 voxels.
    assert turned.shape == (3, 2, 4)
    np.testing.assert_array_equal(turned[0, 0], ARRAY[0, 2])  # its right is the file's last left
    np.testing.assert_array_equal(CANONICAL.turned_back(turned, scan), ARRAY)


@pytest.mark.parametrize("canonical", [True, False])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("turn", [OBLIQUE, np.diag([-1.0, 1, 1, 1]), np.diag([1.0, -2, -3, 1])])
def test_labels_at_the_native_spacing_return_voxel_exact(canonical, axes, turn):
    mask = volume(np.random.default_rng(0).integers(0, 3, (4, 3, 5)), turn)
    prepare = Preparation(canonical, axes, label_values=(0, 1, 2))
    label = prepare.label(mask, 3)
    assert label.shape == prepare.shape(mask)
    back = prepare.turned_back(prepare.to_mask(label), mask)
    np.testing.assert_array_equal(back, mask.array)
    # Also where the spacing is given, and happens to be that of the file.
    order = [mask.spacing[i] for i in prepare.source_axes(mask)]
    again = Preparation(canonical, axes, spacing=tuple(order), label_values=(0, 1, 2))
    np.testing.assert_array_equal(again.label(mask, 3), label)


@pytest.mark.parametrize(("thick", "slices"), [(0, "first"), (1, "first"), (1, "last")])
def test_slices_of_a_scan_wherever_they_run(thick, slices):
    """The thickest axis of each scan goes where slices go; the others keep their order."""
    affine = np.diag([8.0 if axis == thick else 1.5 for axis in range(3)] + [1.0])
    scan = volume(ARRAY, affine)
    prepare = Preparation(True, (0, 1, 2), slices)
    others = [axis for axis in range(3) if axis != thick]
    order = [thick, *others] if slices == "first" else [*others, thick]
    turned = prepare.turned(ARRAY, scan)
    np.testing.assert_array_equal(turned, ARRAY.transpose(order))
    np.testing.assert_array_equal(prepare.turned_back(turned, scan), ARRAY)
    sides = np.linalg.norm(prepare.affine(scan)[:3, :3], axis=0)
    assert sides.tolist() == [8.0 if axis == thick else 1.5 for axis in order]
    thin = volume(ARRAY, np.diag([1.5, 1.5, 2.0, 1.0]))  # no slices: by `axes`
    np.testing.assert_array_equal(prepare.turned(ARRAY, thin), ARRAY)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_the_affine_of_a_record_says_where_its_voxels_lie(axes):
    """A ramp of world coordinates, resampled, holds the world coordinates of the record."""
    grid = np.indices((6, 8, 4)).reshape(3, -1)
    world = (OBLIQUE[:3, :3] @ grid + OBLIQUE[:3, 3:]).T.reshape(6, 8, 4, 3)
    scan = volume(world)
    spacing = dict(zip((0, 1, 2), (1.0, 1.0, 14.0), strict=True))
    prepare = Preparation(True, axes, spacing=tuple(spacing[a] for a in axes))
    shape = prepare.shape(scan)
    assert sorted(shape) == [2, 3, 16]  # 8 x 2 mm, 6 x 0.5 mm and 4 x 7 mm
    turned = prepare.turned(world, scan)
    record = geometry.resample_linear(turned, shape)
    affine = prepare.affine(scan)
    inner = tuple(n // 2 for n in shape)
    np.testing.assert_allclose(record[inner], (affine @ (*inner, 1))[:3], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), prepare.spacing, rtol=1e-6)


def test_zero_keeps_the_spacing_of_an_axis():
    shape = Preparation(True, (2, 0, 1), spacing=(0.0, 1.0, 1.0)).shape(volume(ARRAY))
    assert shape == (4, 6, 1)  # slices kept; 3 of 2 mm; 2 of 0.5 mm


def test_normalisation_by_hand():
    scan = volume(np.array([1, 1, 3, 3], np.uint8).reshape(1, 2, 2), np.eye(4))
    np.testing.assert_array_equal(Preparation().image(scan).ravel(), [-1, -1, 1, 1])
    smallest = Preparation(normalization=(("minmax",),))
    np.testing.assert_array_equal(smallest.image(scan).ravel(), [0, 0, 1, 1])
    fixed = Preparation(normalization=(("fixed", 0.0, 2.0, 1.0, 0.5),))
    np.testing.assert_array_equal(fixed.image(scan).ravel(), [0, 0, 2, 2])
    both = volume(np.stack([scan.array] * 2, axis=-1), np.eye(4))
    mixed = Preparation(normalization=(("zscore",), ("minmax",))).image(both)
    np.testing.assert_array_equal(mixed[0, :, :, 0].ravel(), [-1, -1, 1, 1])
    np.testing.assert_array_equal(mixed[0, :, :, 1].ravel(), [0, 0, 1, 1])


def test_scans_that_cannot_be_normalised():
    with pytest.raises(ValueError, match=r"scan\.nii: all its voxels have the value 3"):
        Preparation().image(volume(np.full((2, 2, 2), 3.0)))
    with pytest.raises(ValueError, match=r"scan\.nii: .*NaN or infinite"):
        Preparation().image(volume(np.array([0, np.nan]).reshape(1, 1, 2)))


@pytest.mark.parametrize("array", [ARRAY, ARRAY / 2, np.where(ARRAY % 2, np.nan, 0.0)])
def test_masks_with_values_of_no_class(array):
    with pytest.raises(ValueError, match=r"scan\.nii: as a mask .*\[0, 4, 1\] only"):
        Preparation(label_values=(0, 4, 1)).label(volume(array), 3)


def test_values_stand_for_classes():
    prepare = Preparation(label_values=(0, 4, 1), label_names=("background", "rim", "core"))
    mask = volume(np.array([0, 1, 4, 4]).reshape(1, 2, 2), np.eye(4))
    label = prepare.label(mask, 3)
    np.testing.assert_array_equal(label.ravel(), [0, 2, 1, 1])
    np.testing.assert_array_equal(prepare.to_mask(label), mask.array)
    assert prepare.named(3) == {0: "background", 4: "rim", 1: "core"}
    assert Preparation().named(2) == {0: "background", 1: "class 1"}


@pytest.mark.parametrize(
    "array",
    [
        np.array([[3, 0], [0, 7]], np.uint8),
        np.array([[3, 0], [0, 7]], np.uint64),  # which NumPy 2.0 does not count as they are
        np.array([True, False, True]),
        np.array([1.0, 1.0, 2.5]),
        np.array([-1, 2, 2], np.int16),
        np.array([2**40, 1, 1]),  # too large to count by place
    ],
)
def test_mask_values_are_numpys_unique_ones(array):
    values, counts = mask_values(array)
    expected_values, expected_counts = np.unique(array, return_counts=True)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(counts, expected_counts)
    assert values.dtype == array.dtype
