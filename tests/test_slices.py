"""Prediction slice by slice against SciPy."""

import numpy as np
import pytest
from scipy import ndimage, special

from cifp_jax.data.whole_slices import SliceFrame
from cifp_jax.inference.slices import make_slicewise
from tests.support.networks import CLASSES, VARIABLES, by_place


def test_slicewise_is_the_fields_rule():
    # The field resizes the image, takes the argmax, and resizes the label map, all with order 0.
    volume = np.random.default_rng(2).normal(size=(7, 23, 30)).astype(np.float32)
    patch = (16, 24)
    probabilities = make_slicewise(by_place, patch, 3, CLASSES)(VARIABLES, volume)
    expected = []
    for image in volume:
        factors = [p / n for p, n in zip(patch, image.shape, strict=True)]
        small = ndimage.zoom(image, factors, order=0, mode="nearest")
        labels = by_place(VARIABLES, small[None, ..., None])[0].argmax(axis=-1)
        factors = [n / p for p, n in zip(patch, image.shape, strict=True)]
        expected.append(ndimage.zoom(labels, factors, order=0, mode="nearest"))
    assert probabilities.shape == (*volume.shape, CLASSES)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(probabilities.argmax(axis=-1), expected)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)


def test_a_center_crop_comes_back_linearly_with_background_around_it():
    volume = np.random.default_rng(2).normal(size=(3, 20, 9)).astype(np.float32)
    predict_volume = make_slicewise(
        by_place, (6, 6), 2, CLASSES, frame=SliceFrame(center_crop=12, interpolation="linear")
    )
    found = predict_volume(VARIABLES, volume)
    # The middle 12 x 12 pixels: rows 4 to 15, and all 9 columns with 1 and 2 of zeros around them.
    middle = np.pad(volume[:, 4:16], ((0, 0), (0, 0), (1, 2)))
    smooth = ndimage.gaussian_filter(middle, (0, 0.4, 0.4))
    zoom = {"order": 1, "mode": "nearest", "grid_mode": True}
    small = ndimage.zoom(smooth, (1, 0.5, 0.5), **zoom)
    probabilities = special.softmax(by_place(VARIABLES, small[..., None]), axis=-1)
    back = ndimage.zoom(probabilities, (1, 2, 2, 1), **zoom)
    np.testing.assert_allclose(found[:, 4:16], np.asarray(back)[:, :, 1:10], atol=1e-5)
    np.testing.assert_array_equal(found[:, [0, 1, 2, 3, 16, 17, 18, 19]][..., 0], 1)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_slicewise_compiles_once():
    traced = []

    def counted(variables, x):
        traced.append(x.shape)
        return by_place(variables, x)

    predict = make_slicewise(counted, (16, 16), 4, CLASSES)
    for shape in [(3, 20, 16), (9, 16, 31), (4, 16, 16)]:
        predict(VARIABLES, np.zeros(shape, np.float32))
    assert traced == [(1, 16, 16, 1)]  # a batch of 4, one slice for each of the 4 devices


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="classes=1"):
        make_slicewise(by_place, (8, 8), 2, 1)
    with pytest.raises(ValueError, match="Z, H, W"):
        make_slicewise(by_place, (8, 8), 2, CLASSES)(VARIABLES, np.zeros((8, 8), np.float32))
