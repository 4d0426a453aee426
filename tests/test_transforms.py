import numpy as np
import pytest

from cifp_jax.data import transforms


def record(shape):
    """An image that numbers its voxels from 1, and a label that follows from the image."""
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    return {"image": image, "label": (image % 3).astype(np.uint8)}


def test_average_down_by_hand():
    image = np.array([[1, 3, 9], [5, 7, 9], [9, 9, 9]], np.float32)
    label = np.array([[2, 1, 0], [2, 0, 0], [0, 0, 0]], np.uint8)
    small = transforms.average_down({"image": image, "label": label}, 2)
    np.testing.assert_array_equal(small["image"], [[4]])
    np.testing.assert_array_equal(small["label"], [[2]])
    assert (small["image"].dtype, small["label"].dtype) == (np.float32, np.uint8)
    with pytest.raises(ValueError, match="averaged down by 4"):
        transforms.average_down({"image": image}, 4)


def outcomes(weak, arrays, patch_size, draws=400):
    return [weak(np.random.default_rng(i), arrays, patch_size) for i in range(draws)]


def test_scan_reaches_the_four_mirror_images_alike():
    # Rotations by k quarter turns, then one flip, of a square whose corners are a b / c d.
    image = np.array([[1, 2], [3, 4]], np.float32)[..., None]
    results = outcomes(transforms.weak_scan, {"image": image}, (2, 2, 1))
    seen = [tuple(r["image"].ravel().astype(int)) for r in results]
    assert set(seen) == {(2, 1, 4, 3), (3, 4, 1, 2), (1, 3, 2, 4), (4, 2, 3, 1)}
    assert min(seen.count(s) for s in set(seen)) > 60


def test_scan_crops_reach_every_place():
    arrays = record((5, 4, 6))
    results = outcomes(transforms.weak_scan, arrays, (3, 2, 4))
    assert {r["image"].shape for r in results} == {(3, 2, 4)}
    assert {v for r in results for v in r["image"].ravel()} == set(arrays["image"].ravel())
    # Each result holds a box of neighbours: X steps are 24 apart, Y 6, Z 1, in some order.
    for r in results[:40]:
        steps = {abs(int(np.diff(r["image"], axis=a).ravel()[0])) for a in (0, 1)}
        assert steps == {24, 6}
        np.testing.assert_array_equal(np.diff(r["image"], axis=2), 1)


def test_scan_pads_short_sides_with_zeros():
    result = transforms.weak_scan(np.random.default_rng(0), record((2, 2, 2)), (4, 4, 5))
    assert result["image"].shape == result["label"].shape == (4, 4, 5)
    # Two of four are centred; of an odd number of missing planes one more lies at the far end.
    assert sorted(result["image"][1:3, 1:3, 1:3].ravel()) == list(range(1, 9))
    assert np.count_nonzero(result["image"]) == 8


def test_slice_draws_what_the_protocol_says():
    arrays = record((16, 16))
    results = outcomes(transforms.weak_slice, arrays, (16, 16))
    untouched = np.mean([np.array_equal(r["image"], arrays["image"]) for r in results])
    whole = np.mean(
        [sorted(r["image"].ravel()) == sorted(arrays["image"].ravel()) for r in results]
    )
    # None at all: 1/4 and the rotations by 0 degrees. A permutation of voxels: that and the turns.
    assert 0.19 < untouched < 0.34
    assert 0.69 < whole < 0.84


def test_slice_turns_by_small_angles_only():
    # A bright line through the centre along H: its direction shows the angle.
    image = np.zeros((101, 101), np.float32)
    image[:, 50] = 1
    angles = []
    for r in outcomes(transforms.weak_slice, {"image": image}, (101, 101)):
        rows, columns = np.nonzero(r["image"])
        if np.ptp(rows) > np.ptp(columns):  # not turned by 90 degrees
            angles.append(np.degrees(np.arctan(np.polyfit(rows, columns, 1)[0])))
    assert max(np.abs(angles)) == pytest.approx(20, abs=0.5)
    assert len(np.unique(np.round(angles))) > 25


@pytest.mark.parametrize(
    ("weak", "shape", "patch_size"),
    [(transforms.weak_scan, (9, 7, 8), (8, 8, 4)), (transforms.weak_slice, (20, 30), (24, 24))],
)
def test_image_and_label_move_together(weak, shape, patch_size):
    arrays = record(shape)
    for array in arrays.values():
        array.flags.writeable = False
    for seed in range(50):
        result = weak(np.random.default_rng(seed), arrays, patch_size)
        assert result["image"].shape == result["label"].shape == patch_size
        np.testing.assert_array_equal(result["label"], (result["image"] % 3).astype(np.uint8))
        alone = weak(np.random.default_rng(seed), {"image": arrays["image"]}, patch_size)
        np.testing.assert_array_equal(alone["image"], result["image"])
    assert result["label"].dtype == np.uint8
    assert result["image"].dtype == np.float32


def test_own_crops_keep_the_orientation_for_half_and_follow_the_label():
    rng = np.random.default_rng(0)
    image = np.arange(12 * 10, dtype=np.float32).reshape(12, 10)
    both = np.stack([image, -image], axis=-1)
    kept = 0
    for _ in range(300):
        out = transforms.weak_crop(rng, {"image": both, "label": image}, (6, 4))
        assert out["image"].shape == (6, 4, 2)
        np.testing.assert_array_equal(out["image"][..., 0], out["label"])
        np.testing.assert_array_equal(out["image"][..., 1], -out["label"])
        steps = [set(np.diff(out["label"], axis=axis).ravel()) for axis in (0, 1)]
        kept += steps == [{10}, {1}]
    assert 120 < kept < 180


def test_a_third_of_the_own_crops_hold_a_small_structure():
    rng = np.random.default_rng(0)
    label = np.zeros((40, 40, 40), np.uint8)
    label[3, 30, 20] = 1
    record = {"image": label.astype(np.float32), "label": label}
    found = [transforms.weak_crop(rng, record, (8, 8, 8))["label"].any() for _ in range(300)]
    assert 75 < sum(found) < 130  # a third, and a few by chance
    small = transforms.weak_crop(rng, record, (48, 16, 44))
    assert small["image"].shape == (48, 16, 44)
