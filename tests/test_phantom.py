"""Synthetic hearts: their files, that they repeat themselves, and that they are hard enough."""

import time

import numpy as np
import pytest

from cifp_jax.data import phantom, sources, splits


def digest(root):
    """Every array and list under `root`."""
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".h5":
            rank = 2 if "slices" in name else 3
            arrays = sources.read_case(sources.Case(name, path), classes=4, rank=rank)
            found[name] = {k: a.tobytes() for k, a in arrays.items()}
        else:
            found[name] = path.read_text()
    return found


def hearts(count, shape=(64, 64)):
    """Relaxed and contracted slices of patients: images and labels (n, H, W)."""
    slices = [
        record
        for seed in range(count)
        for frame in phantom.short_axis(np.random.default_rng(seed), shape, slices=5)
        for record in frame
    ]
    return [np.stack([s[key] for s in slices]) for key in ("image", "label")]


def atria(count, shape=(48, 48, 32)):
    scans = [phantom.left_atrium(np.random.default_rng(seed), shape) for seed in range(count)]
    return [np.stack([s[key] for s in scans]) for key in ("image", "label")]


@pytest.mark.parametrize(("rank", "layout", "files"), [(2, "acdc", 4), (3, "la", 3)])
def test_written_in_the_layout_and_the_same_again(tmp_path, rank, layout, files):
    shape = (32, 32) if rank == 2 else (24, 24, 16)
    for name in ("one", "two"):
        phantom.write_phantoms(
            tmp_path / name, rank, train=3, validation=2, test=1, seed=5, shape=shape
        )
    first = digest(tmp_path / "one")
    assert first == digest(tmp_path / "two")
    assert sum(not name.endswith(".h5") for name in first) == files  # lists and the marker
    split = splits.load_split(
        layout,
        tmp_path / "one",
        labeled=2,
        validation=0 if rank == 2 else 2,
        test_list="test.list",
    )
    patients = [
        {splits.patient(c.name) for c in cases}
        for cases in (split.labeled, split.unlabeled, split.validation, split.test)
    ]
    assert [len(p) for p in patients] == [2, 1, 2, 1]
    training = sources.read_case(split.labeled[0], classes=4, rank=rank)
    assert training["image"].shape == shape
    volume = sources.read_case(split.test[0], classes=4, rank=3)
    assert volume["image"].shape[-2:] == shape[-2:]


def test_seed_and_number_of_patients(tmp_path):
    def first_slice(name, **changes):
        settings = {"train": 1, "validation": 0, "seed": 0, "shape": (32, 32)} | changes
        phantom.write_phantoms(tmp_path / name, 2, **settings)
        return digest(tmp_path / name)["data/slices/patient001_frame01_slice_0.h5"]

    assert first_slice("a") == first_slice("b", train=2)
    assert first_slice("a") != first_slice("c", seed=1)


def test_is_left_alone_once_written_and_finished_when_cut_off(tmp_path):
    settings = {"train": 2, "validation": 1, "shape": (32, 32)}
    phantom.write_phantoms(tmp_path, 2, **settings)
    whole = digest(tmp_path)
    arrays = [str(value) for name, value in whole.items() if name.endswith(".h5")]
    assert len(set(arrays)) == len(arrays)
    marked = tmp_path / "data/slices/patient001_frame01_slice_0.h5"
    written = marked.stat().st_mtime_ns
    phantom.write_phantoms(tmp_path, 2, **settings)
    assert marked.stat().st_mtime_ns == written
    marked.unlink()
    (tmp_path / "test.list").unlink()
    phantom.write_phantoms(tmp_path, 2, **settings)
    assert digest(tmp_path) == whole


def test_other_data_is_never_overwritten(tmp_path):
    phantom.write_phantoms(tmp_path / "a", 2, train=1, validation=0, shape=(32, 32))
    with pytest.raises(ValueError, match="phantoms of other settings"):
        phantom.write_phantoms(tmp_path / "a", 2, train=2, validation=0, shape=(32, 32))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/train.list").write_text("real\n")
    with pytest.raises(ValueError, match="no phantoms"):
        phantom.write_phantoms(tmp_path / "b", 3, train=1)
    with pytest.raises(ValueError, match="not 4"):
        phantom.write_phantoms(tmp_path / "c", 4, train=1)


@pytest.mark.parametrize(("make", "classes"), [(hearts, 4), (atria, 2)])
def test_brightness_alone_does_not_give_the_classes(make, classes):
    image, label = make(12)
    for k in range(1, classes):
        # The best band of brightness there is for each image and class, found with the truth.
        dice = []
        for voxels, truth in zip(image, label == k, strict=True):
            edges = np.quantile(voxels, np.linspace(0, 1, 41)[1:-1])
            level = np.digitize(voxels, edges)
            hits, size = (np.bincount(level[m], minlength=40).cumsum() for m in (truth, level >= 0))
            bands = [(a, b) for b in range(40) for a in range(-1, b)]
            below = np.array([(hits[a], size[a]) if a >= 0 else (0, 0) for a, _ in bands])
            inside = np.array([(hits[b], size[b]) for _, b in bands]) - below
            dice.append(np.max(2 * inside[:, 0] / (inside[:, 1] + truth.sum())))
        assert np.mean(dice) < 0.55, k


def test_hearts_are_hearts():
    image, label = hearts(12)
    assert image.dtype == np.float32
    assert label.dtype == np.uint8
    assert image.min() == 0
    assert image.max() == 1
    present = np.stack([(label == k).any(axis=(1, 2)) for k in range(4)])
    assert present[[0, 2, 3]].all()
    assert 0.6 < present[1].mean() < 1  # the right ventricle ends above the apex
    for slice_ in label:
        left = slice_ == 3
        grown = np.zeros_like(left)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            grown |= np.roll(left, step, axis)
        # The muscle closes round the left ventricle.
        assert set(np.unique(slice_[grown & ~left])) == {2}
    share = [(label == k).mean() for k in range(4)]
    assert share[0] > 0.75
    assert min(share[1:]) > 0.01


def test_contraction_shrinks_the_left_ventricle():
    for seed in range(8):
        relaxed, contracted = phantom.short_axis(np.random.default_rng(seed), (64, 64), slices=5)
        volumes = [sum(int((s["label"] == 3).sum()) for s in f) for f in (relaxed, contracted)]
        assert volumes[1] < 0.8 * volumes[0]


def test_atria_are_standardised_and_vary():
    image, label = atria(8)
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(image.std(axis=(1, 2, 3)), 1, rtol=1e-5)
    share = label.mean(axis=(1, 2, 3))
    assert (share > 0.02).all()
    assert (share < 0.3).all()
    assert share.max() > 1.5 * share.min()


def test_fast_enough_for_a_demo(tmp_path):
    begin = time.process_time()
    phantom.write_phantoms(tmp_path / "2d", 2, train=10, validation=2)
    phantom.write_phantoms(tmp_path / "3d", 3, train=6, validation=2)
    assert time.process_time() - begin < 6
