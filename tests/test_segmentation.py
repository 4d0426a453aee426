"""Slab by slab is the same as all at once."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage, special

from cifp_jax.inference import segmentation as room
from cifp_jax.inference.segmentation import normalized_entropy, segment, slabs
from cifp_jax.inference.sliding_window import make_sliding_window, window_starts
from cifp_jax.scans import geometry
from tests.support.networks import CLASSES, VARIABLES, by_place


@pytest.mark.parametrize(
    ("length", "patch", "stride", "most"),
    [
        (50, 8, 4, 20),
        (50, 8, 3, 1),
        (23, 8, 8, 16),
        (9, 8, 4, 9),
        (17, 1, 1, 5),
        (600, 112, 56, 300),
    ],
)
def test_slabs_hold_every_window_of_their_rows(length, patch, stride, most):
    starts = window_starts(length, patch, stride)
    done = 0
    for read, own in slabs(length, patch, stride, most):
        assert own.start == done
        done = own.stop
        touching = [s for s in starts if s < own.stop and s + patch > own.start]
        assert read.start <= touching[0]
        assert touching[-1] + patch <= read.stop
        inside = window_starts(read.stop - read.start, patch, stride)
        assert [read.start + s for s in inside] == [
            s for s in starts if read.start <= s and s + patch <= read.stop
        ]
        assert read.stop - read.start <= max(most, 3 * patch)
    assert done == length


def test_a_scan_smaller_than_a_window_is_one_slab():
    assert slabs(5, 8, 4, 1) == [(slice(0, 5), slice(0, 5))]


@pytest.mark.parametrize("shape", [(30, 9, 8), (43, 9, 5), (11, 18, 8)])
def test_equal_to_all_at_once(shape, monkeypatch):
    image = np.random.default_rng(0).normal(size=(30, 9, 8)).astype(np.float32)
    windows = make_sliding_window(by_place, (8, 8, 8), (4, 4, 4), 4, CLASSES, gaussian=True)
    whole = windows(VARIABLES, image)
    factors = [*(m / n for n, m in zip(image.shape, shape, strict=True)), 1]
    expected = np.asarray(ndimage.zoom(whole, factors, order=1, mode="nearest", grid_mode=True))
    monkeypatch.setattr(room, "_NUMBERS", 14 * 9 * 8 * CLASSES)
    read, shares = [], []

    def predict(part):
        read.append(len(part))
        return windows(VARIABLES, part)

    found = segment(
        predict,
        image,
        shape=shape,
        classes=CLASSES,
        patch=8,
        stride=4,
        uncertainty=True,
        probabilities=True,
        advance=shares.append,
    )
    assert max(read) < 20  # of 30
    np.testing.assert_allclose(sum(shares), 1)
    assert found.uncertainty is not None
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities / room.LEVELS, expected, atol=2e-5)
    certain = np.sort(expected, axis=-1)
    certain = certain[..., -1] - certain[..., -2] > 1e-4
    np.testing.assert_array_equal(found.label[certain], expected.argmax(axis=-1)[certain])
    entropy = -special.xlogy(expected, expected).sum(axis=-1) / np.log(CLASSES)
    np.testing.assert_allclose(found.uncertainty, entropy, atol=1e-4)


def test_memory_does_not_grow_with_the_scan(monkeypatch):
    """Of 8 classes on 400 rows, all probabilities at once would be 20 MB."""
    monkeypatch.setattr(room, "_NUMBERS", 10 * 40 * 40 * 8)
    monkeypatch.setattr(geometry, "_ROWS", 10 * 40 * 40 * 8)

    def predict(part):
        return np.full((*part.shape, 8), 0.125, np.float32)

    image = np.zeros((400, 40, 40), np.float32)
    tracemalloc.start()
    segment(predict, image, shape=(410, 41, 40), classes=8, patch=1, stride=1, uncertainty=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_normalized_entropy():
    p = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(normalized_entropy(p), [0, 1, 0.5], atol=1e-9)
