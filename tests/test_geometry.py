"""Resampling against SciPy and values worked out by hand."""

import numpy as np
import pytest
from scipy import ndimage

from cifp_jax.scans import geometry


@pytest.mark.parametrize("shape", [(3, 7, 5), (9, 7, 2), (4, 14, 11), (1, 1, 1)])
def test_linear_is_that_of_scipy(shape):
    array = np.random.default_rng(0).normal(size=(6, 7, 5)).astype(np.float32)
    factors = [m / n for n, m in zip(array.shape, shape, strict=True)]
    expected = np.asarray(ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True))
    np.testing.assert_allclose(geometry.resample_linear(array, shape), expected, atol=1e-5)


def test_labels_by_hand():
    # Centres of 3 voxels in units of 5: 0.83, 2.5, 4.17; of 4 in units of 2: 0.25, 0.75, 1.25, ...
    np.testing.assert_array_equal(geometry.resample_labels(np.arange(5), (3,)), [0, 2, 4])
    np.testing.assert_array_equal(geometry.resample_labels(np.arange(2), (4,)), [0, 0, 1, 1])
    # Two halves of a voxel: the higher class wins, wherever it stands.
    np.testing.assert_array_equal(geometry.resample_labels(np.array([0, 0, 0, 3]), (2,)), [0, 3])
    np.testing.assert_array_equal(geometry.resample_labels(np.array([3, 0, 0, 0]), (2,)), [3, 0])
    # Three of four quarters are no background, but none of them has as much as it.
    quarters = geometry.resample_labels(np.array([[0, 1], [2, 0]]), (1, 1))
    np.testing.assert_array_equal(quarters, [[0]])


def test_labels_that_are_mirrored_are_resized_alike():
    labels = np.random.default_rng(0).integers(0, 4, (12, 9, 7)).astype(np.uint8)
    for shape in ((6, 9, 7), (6, 9, 14)):  # whose shares are exact numbers
        sized = geometry.resample_labels(labels, shape)
        mirrored = geometry.resample_labels(labels[::-1, :, ::-1], shape)
        np.testing.assert_array_equal(mirrored, sized[::-1, :, ::-1])
        assert sized.dtype == np.uint8
    assert geometry.resample_labels(labels, (12, 9, 7)) is labels


@pytest.mark.parametrize("shape", [(6, 5, 4), (13, 4, 7), (3, 5, 5), (6, 2, 9), (2, 2, 2)])
@pytest.mark.parametrize("cuts", [(2, 3), (1, 2, 3, 4, 5), ()])
def test_rows_restored_piece_by_piece(shape, cuts, monkeypatch):
    monkeypatch.setattr(geometry, "_ROWS", 100)
    array = np.random.default_rng(0).random((6, 5, 4, 3)).astype(np.float32)
    found = np.full((*shape, 3), np.nan, np.float32)
    places = []
    for rows, block in geometry.restore_rows(np.split(array, cuts), 6, shape):
        found[rows] = block
        places += range(rows.start, rows.stop)
    assert places == list(range(shape[0]))
    np.testing.assert_allclose(found, geometry.resample_linear(array, shape), atol=1e-6)
