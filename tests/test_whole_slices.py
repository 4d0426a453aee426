"""What is seen of whole slices, against SciPy and by hand."""

import functools

import numpy as np
import pytest
from scipy import ndimage

from cifp_jax.data import whole_slices
from cifp_jax.data.whole_slices import SliceFrame

# Every in-plane shape of the ACDC slices and volumes.
ACDC_SHAPES = [
    *[(154, 224), (174, 208), (176, 256), (208, 174), (208, 256), (216, 256), (224, 154)],
    *[(224, 174), (224, 180), (256, 184), (256, 192), (256, 208), (256, 214), (256, 216)],
    *[(256, 224), (256, 232), (256, 240), (256, 248), (256, 256), (288, 184), (288, 264)],
    *[(304, 216), (384, 276), (512, 428)],
]


def numbered(shape):
    """An image that numbers its pixels from 1."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def zoom(array, shape, mode):
    factors = [m / n for m, n in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array, factors, order=0, mode=mode)


@pytest.mark.parametrize("shape", ACDC_SHAPES)
@pytest.mark.parametrize("side", [64, 96, 256])
def test_zoom_is_scipys_there_and_back(shape, side):
    image = numbered(shape)
    small = whole_slices.zoom_nearest(image, (side, side))
    np.testing.assert_array_equal(small, zoom(image, (side, side), "nearest"))
    back = whole_slices.zoom_nearest(small, shape)
    np.testing.assert_array_equal(back, zoom(small, shape, "nearest"))
    # The mode of the field's scripts differs in the last row and column at most.
    inner = (slice(-1), slice(-1))
    np.testing.assert_array_equal(small[inner], zoom(image, (side, side), "constant")[inner])
    np.testing.assert_array_equal(back[inner], zoom(small, shape, "constant")[inner])


def test_zoom_by_hand():
    np.testing.assert_array_equal(whole_slices.zoom_nearest(np.array([5, 6, 7]), (2,)), [5, 7])
    np.testing.assert_array_equal(
        whole_slices.zoom_nearest(np.array([5, 6, 7]), (5,)), [5, 6, 6, 7, 7]
    )
    np.testing.assert_array_equal(whole_slices.zoom_nearest(np.array([5, 6]), (1,)), [5])


def test_zoom_leaves_leading_axes():
    volume = numbered((3, 7, 9))
    zoomed = whole_slices.zoom_nearest(volume, (4, 5))
    assert zoomed.shape == (3, 4, 5)
    np.testing.assert_array_equal(zoomed[1], whole_slices.zoom_nearest(volume[1], (4, 5)))


def test_the_center_of_a_slice_and_of_a_smaller_one():
    image = np.arange(30).reshape(5, 6)
    arrays = {"image": image, "label": image % 2}
    cut = whole_slices.center_crop(arrays, 3)
    np.testing.assert_array_equal(cut["image"], image[1:4, 1:4])
    np.testing.assert_array_equal(cut["label"], image[1:4, 1:4] % 2)
    padded = whole_slices.center_crop(arrays, 8)["image"]
    assert padded.shape == (8, 8)
    np.testing.assert_array_equal(padded[1:6, 1:7], image)
    assert padded.sum() == image.sum()
    assert whole_slices.center_crop(arrays, 0) is arrays


def test_slices_are_resized_linearly_and_their_labels_by_the_largest_share():
    label = np.zeros((8, 8), np.uint8)
    label[:4] = 2
    sized = whole_slices.resize_slices({"image": label * 1.0, "label": label}, (16, 4), "linear")
    np.testing.assert_array_equal(sized["label"][:8], 2)
    np.testing.assert_array_equal(sized["label"][8:], 0)
    # Twice as many rows: those beside the edge lie a quarter of a voxel from it.
    np.testing.assert_allclose(sized["image"][6:10, 0], [2, 1.5, 0.5, 0])


@pytest.mark.parametrize("interpolation", whole_slices.INTERPOLATIONS)
@pytest.mark.parametrize("largest_side", [0, 10, 12])
def test_probabilities_that_do_not_change_come_back_as_they_were(interpolation, largest_side):
    sure = np.eye(3, dtype=np.float32)[np.full((2, 6, 6), 2)]
    back = SliceFrame(largest_side, 8, interpolation).restore(sure, (10, 5))
    assert back.shape == (2, 10, 5, 3)
    np.testing.assert_array_equal(back[:, 1:9, :, 2], 1)
    np.testing.assert_array_equal(back[:, [0, 9], :, 0], 1)


def test_shapes_of_limited_sides_by_hand():
    assert whole_slices.limited_shape((512, 428), 288) == (288, 241)  # 240.75
    assert whole_slices.limited_shape((276, 384), 288) == (207, 288)
    assert whole_slices.limited_shape((288, 184), 288) == (288, 184)
    assert whole_slices.limited_shape((512, 428), 0) == (512, 428)


def test_of_a_fine_slice_as_much_is_seen_as_of_a_coarse_one():
    """A disc that fills the crop of a coarse slice, on a grid that is twice as fine."""
    rows, columns = np.mgrid[:48, :40]
    disc = ((rows - 23.5) ** 2 + (columns - 19.5) ** 2 < 11.5**2).astype(np.uint8)
    frame = SliceFrame(largest_side=24, center_crop=12, interpolation="linear")
    seen = frame.cut({"image": disc * 1.0, "label": disc})
    assert seen["image"].shape == seen["label"].shape == (12, 12)
    assert 0 < seen["image"][:, 0].max() < 1  # its rim lies on that of the crop
    zoom_linearly = functools.partial(ndimage.zoom, order=1, mode="nearest", grid_mode=True)
    smooth = ndimage.gaussian_filter(disc * 1.0, 0.4)
    small = np.asarray(zoom_linearly(smooth, 0.5))
    np.testing.assert_allclose(seen["image"], small[6:18, 4:16], atol=1e-6)
    sure = np.stack([1.0 - seen["image"], seen["image"]], -1).astype(np.float32)
    back = frame.restore(sure[None], disc.shape)[0]
    expected = np.asarray(zoom_linearly(np.pad(seen["image"], ((6, 6), (4, 4))), 2))
    np.testing.assert_allclose(back[..., 1], expected, atol=1e-6)
    np.testing.assert_allclose(back.sum(-1), 1, atol=1e-6)
    # The middle 12 x 12 pixels of the fine slice itself show a third of the disc.
    cut_off = SliceFrame(center_crop=12).cut({"image": disc})["image"]
    assert cut_off.all()
    assert cut_off.sum() < 0.4 * disc.sum()
