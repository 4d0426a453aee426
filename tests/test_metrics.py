"""Figures against values worked out by hand, and against medpy's."""

import pathlib

import h5py
import numpy as np
import pytest
from scipy import ndimage

from cifp_jax.evaluation import metrics

CUBE = (slice(3, 7), slice(3, 7), slice(3, 7))


def mask(*boxes, shape=(12, 14, 16)):
    volume = np.zeros(shape, bool)
    for box in boxes:
        volume[box] = True
    return volume


def shifted(box, axis, by):
    moved = list(box)
    moved[axis] = slice(box[axis].start + by, box[axis].stop + by)
    return tuple(moved)


def test_equal_masks_are_perfect():
    cube = mask(CUBE)
    assert metrics.dice(cube, cube) == metrics.jaccard(cube, cube) == 1
    assert metrics.hd95_and_asd(cube, cube) == (0, 0)


def test_a_cube_shifted_by_one_voxel():
    # 4 x 4 x 4 cubes that share 3 x 4 x 4 = 48 of 64 voxels. The surface has 64 - 8 = 56 voxels.
    # Of the prediction's, the 16 of the leading face stick out by 1, and the inner 2 x 2 of the
    # trailing face lie inside the label's cube, 1 from its trailing face: 20 distances of 1.
    label, prediction = mask(CUBE), mask(shifted(CUBE, 0, 1))
    assert metrics.dice(prediction, label) == pytest.approx(2 * 48 / 128)
    assert metrics.jaccard(prediction, label) == pytest.approx(48 / 80)
    hd95, asd = metrics.hd95_and_asd(prediction, label)
    assert hd95 == 1
    assert asd == pytest.approx(20 / 56)


def test_two_voxels_by_hand():
    # Voxels 3 and 4 apart along two axes: the one distance is 5; with spacing (2, 1), sqrt(52).
    label, prediction = np.zeros((2, 9, 9), bool)
    label[1, 1], prediction[4, 5] = True, True
    assert metrics.hd95_and_asd(prediction, label) == (5, 5)
    expected = (pytest.approx(52**0.5), pytest.approx(52**0.5))
    assert metrics.hd95_and_asd(prediction, label, (2.0, 1.0)) == expected


def test_asd_is_directed_and_95hd_is_not():
    # The prediction is one voxel of the label's two, which are 6 apart: from the prediction 0, from
    # the label 0 and 6. The 95th percentile of (0, 0, 6) lies 0.9 of the way from 0 to 6.
    label, prediction = np.zeros((2, 5, 9), bool)
    label[2, 1] = label[2, 7] = prediction[2, 1] = True
    assert metrics.hd95_and_asd(prediction, label) == (pytest.approx(5.4), 0)
    assert metrics.hd95_and_asd(label, prediction) == (pytest.approx(5.4), 3)


def test_a_mask_at_the_edge_of_the_volume_has_its_surface_there():
    # A volume that is full is all inside but for its outermost layer; the single voxel in its
    # middle is 2 away from that.
    full, center = np.ones((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    center[2, 2, 2] = True
    assert metrics.hd95_and_asd(center, full)[1] == 2


@pytest.mark.parametrize(("empty", "distance"), [("diagonal", 13.0), ("literature", 0.0)])
def test_missed_class_false_find_and_absent_class(empty, distance):
    label, prediction = np.zeros((2, 3, 4, 12), np.uint8)  # diagonal: sqrt(9 + 16 + 144) = 13
    label[1, 1, 1] = 1
    prediction[1, 1, 1] = 2
    missed, invented, absent = metrics.score(prediction, label, 4, empty=empty)
    assert missed == (1, 0, 0, distance, distance, True)
    assert invented == (2, 0, 0, distance, distance, False)
    assert absent == (3, 100, 100, 0, 0, False)


def test_diagonal_is_the_default_and_scales_with_the_spacing():
    label, prediction = np.zeros((2, 3, 4), np.uint8)
    label[1, 1] = 1
    assert metrics.score(prediction, label, 2)[0].hd95 == 5
    assert metrics.score(prediction, label, 2, spacing=(2.0, 2.0))[0].hd95 == 10


def test_scores_are_percentages_per_class():
    label, prediction = np.zeros((2, 8, 8), np.uint8)
    label[:2, :2], label[4:, 4:] = 1, 2
    prediction[:2, :1], prediction[4:, 4:] = 1, 2
    one, two = metrics.score(prediction, label, 3)
    assert (one.dice, one.jaccard) == (pytest.approx(200 / 3), 50)
    assert two == (2, 100, 100, 0, 0, False)


def test_wrong_input_is_named():
    label = np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"'nearest'.*diagonal, literature"):
        metrics.score(label, label, 2, empty="nearest")
    with pytest.raises(ValueError, match="shape"):
        metrics.score(label, label[1:], 2)
    with pytest.raises(ValueError, match="empty mask"):
        metrics.hd95_and_asd(label > 0, label == 0)


def same_as_medpy(prediction, label, spacing=None):
    binary = pytest.importorskip("medpy.metric.binary")
    ours = (
        metrics.dice(prediction, label),
        metrics.jaccard(prediction, label),
        *metrics.hd95_and_asd(prediction, label, spacing),
    )
    theirs = (
        binary.dc(prediction, label),
        binary.jc(prediction, label),
        binary.hd95(prediction, label, spacing),
        binary.asd(prediction, label, spacing),
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def disturbed(label, rng):
    """A prediction as networks make them: moved, grown or shrunk, with specks and holes."""
    moved = np.roll(label, rng.integers(-4, 5, label.ndim), range(label.ndim))
    change = (ndimage.binary_dilation, ndimage.binary_erosion)[rng.integers(2)]
    changed = change(moved, iterations=int(rng.integers(1, 3)))
    return (changed if changed.any() else moved) ^ (rng.random(label.shape) < 5e-4)


@pytest.mark.parametrize("shape", [(40, 30), (24, 31, 19)])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_medpy_on_blobs(shape, seed):
    rng = np.random.default_rng(seed)
    # Blobs of smoothed noise, some of which run over the edge of the volume.
    label = ndimage.gaussian_filter(rng.normal(size=shape), 3) > 0.05
    same_as_medpy(disturbed(label, rng), label)
    same_as_medpy(disturbed(label, rng), label, tuple(rng.uniform(0.5, 3, len(shape))))


def test_equal_to_medpy_far_apart():
    same_as_medpy(mask(shifted(CUBE, 2, 8)), mask(CUBE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "classes"), [("LA/*/mri_norm2.h5", 2), ("ACDC/data/*.h5", 4)], ids=["LA", "ACDC"]
)
def test_equal_to_medpy_on_real_label_maps(data_dir: pathlib.Path, files, classes):
    paths = sorted(data_dir.glob(files))
    assert paths, f"{data_dir} holds no {files}"
    rng = np.random.default_rng(0)
    for path in paths[:: max(1, len(paths) // 4)]:
        with h5py.File(path) as file:
            volume = np.asarray(file["label"])
        for k in range(1, classes):
            same_as_medpy(disturbed(volume == k, rng), volume == k)
