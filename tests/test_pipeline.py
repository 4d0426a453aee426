import itertools
import pathlib

import h5py
import jax
import numpy as np
import pytest

from cifp_jax.data import pipeline, sources, whole_slices
from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.data.sources import Case
from cifp_jax.data.splits import Split
from cifp_jax.data.whole_slices import SliceFrame
from tests.support.steps import assert_same


def write_cases(folder: pathlib.Path, count: int, first: int, labels: bool = True):
    """Slices whose voxels hold 100 times their case's number, plus 0 or 1 at random."""
    cases = []
    for number in range(first, first + count):
        label = np.random.default_rng(number).integers(2, size=(16, 16))
        path = folder / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file["image"] = (100 * number + label).astype(np.float32)
            if labels:
                file["label"] = label.astype(np.uint8)
        cases.append(Case(str(number), path))
    return tuple(cases)


@pytest.fixture
def split(tmp_path):
    """Cases 1 to 5 are labelled; 6 to 12 hold no label at all."""
    labeled, unlabeled = write_cases(tmp_path, 5, 1), write_cases(tmp_path, 7, 6, labels=False)
    return Split(labeled, unlabeled, validation=(), test=())


def make(split, **changes):
    settings = {
        "layout": LAYOUTS["acdc"],
        "classes": 2,
        "patch_size": (16, 16),
        "batch_labeled": 2,
        "batch_unlabeled": 4,
        "seed": 3,
    }
    return pipeline.make_train_iterator(split, **(settings | changes))


def numbers(batch, stream):
    """The cases of a batch. A turned slice's corners are zero, its centre never."""
    return [int(image[8, 8, 0] // 100) for image in batch[stream]["image"]]


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def test_slices_that_the_step_augments_are_only_cropped_and_resized(split):
    frame = SliceFrame(center_crop=12, interpolation="linear")
    batch = next(make(split, patch_size=(8, 8), frame=frame, weak_slices=False))
    for name, cases in (("labeled", split.labeled), ("unlabeled", split.unlabeled)):
        images = [
            whole_slices.resize_slices(
                whole_slices.center_crop(
                    {"image": sources.read_case(case, classes=2, rank=2, labels=False)["image"]}, 12
                ),
                (8, 8),
                "linear",
            )["image"]
            for case in cases
        ]
        for image in batch[name]["image"]:
            assert any(np.array_equal(image[..., 0], one) for one in images)
    assert batch["labeled"]["label"].shape == (2, 8, 8)


def test_batch_is_as_agreed(split):
    batch = next(make(split))
    found = jax.tree.map(lambda a: (a.shape, a.dtype.name), batch)
    assert found == {
        "labeled": {
            "image": ((2, 16, 16, 1), "float32"),
            "label": ((2, 16, 16), "int32"),
            "index": ((2,), "int32"),
        },
        "unlabeled": {"image": ((4, 16, 16, 1), "float32"), "index": ((4,), "int32")},
    }
    np.testing.assert_array_equal(
        batch["labeled"]["image"][..., 0] % 100, batch["labeled"]["label"]
    )


@pytest.mark.parametrize(("stream", "size", "cases"), [("labeled", 2, 5), ("unlabeled", 4, 7)])
def test_every_case_once_an_epoch_in_a_new_order(split, stream, size, cases):
    batches = take(make(split), 8 * cases)
    drawn = [n for b in batches for n in numbers(b, stream)]
    epochs = [tuple(drawn[i : i + cases]) for i in range(0, len(drawn), cases)]
    first = 1 if stream == "labeled" else 6
    assert all(sorted(e) == list(range(first, first + cases)) for e in epochs)
    assert len(set(epochs)) > len(epochs) / 2
    index = np.concatenate([b[stream]["index"] for b in batches])
    np.testing.assert_array_equal(index, np.arange(8 * cases * size))


def test_augmentation_changes_with_the_epoch(split):
    one = Split(split.labeled[:1], split.unlabeled, (), ())
    seen = {b["labeled"]["image"].tobytes() for b in take(make(one, batch_labeled=1), 20)}
    assert len(seen) > 5


def test_set_smaller_than_a_batch(split):
    few = Split(split.labeled[:2], split.unlabeled, (), ())
    batch = next(make(few, batch_labeled=6))
    drawn = numbers(batch, "labeled")
    assert [sorted(drawn[i : i + 2]) for i in (0, 2, 4)] == [[1, 2]] * 3


def test_all_labelled_stand_in_without_labels(split):
    batch = next(make(Split(split.labeled, (), (), ())))
    assert set(numbers(batch, "unlabeled")) <= {1, 2, 3, 4, 5}
    assert list(batch["unlabeled"]) == ["image", "index"]


def test_same_seed_same_batches_whatever_the_cache(split):
    first = take(make(split), 6)
    assert_same(first, take(make(split, cache_bytes=0), 6))
    other = take(make(split, seed=4), 6)
    assert [numbers(b, "unlabeled") for b in first] != [numbers(b, "unlabeled") for b in other]


def test_streams_are_shuffled_apart(split):
    same = Split(split.labeled, split.labeled, (), ())
    batches = take(make(same, batch_unlabeled=2), 50)
    alike = np.mean([numbers(b, "labeled") == numbers(b, "unlabeled") for b in batches])
    assert alike < 0.3


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one(split, processes):
    whole = take(make(split, batch_labeled=4), 4)
    parts = [
        take(make(split, batch_labeled=4, process_index=i, process_count=processes), 4)
        for i in range(processes)
    ]
    joined = [
        jax.tree.map(lambda *blocks: np.concatenate(blocks), *step)
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_state_restores_exactly(split):
    iterator = make(split)
    take(iterator, 3)
    state = iterator.get_state()
    expected = take(iterator, 5)
    iterator.set_state(state)
    assert_same(expected, take(iterator, 5))
    fresh = make(split)
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert_same(expected, take(fresh, 5))


def test_names_are_those_of_the_batch(split):
    """Also of several processes, whose shares make up the batch, and beyond the first epoch."""
    shares = [make(split, process_index=i, process_count=2) for i in range(2)]
    for number in range(6):
        batches = [next(iterator) for iterator in shares]
        for stream in ("labeled", "unlabeled"):
            seen = [str(n) for batch in batches for n in numbers(batch, stream)]
            for iterator in (make(split), *shares):
                assert iterator.names(number)[stream] == seen


@pytest.mark.slow
def test_worker_processes_change_nothing(split):
    expected = take(make(split), 5)
    iterator = make(split, workers=2)
    assert_same(expected[:3], take(iterator, 3))
    state = iterator.get_state()
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)
    in_process = make(split)
    in_process.set_state(state)
    assert_same(expected[3:], take(in_process, 2))


def test_bad_file_is_named_when_its_turn_comes(split):
    split.labeled[2].path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3\.h5: it cannot be read as HDF5"):
        take(make(split), 3)


def test_scans(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.arange(20 * 20 * 12, dtype=np.float32).reshape(20, 20, 12)
        file["label"] = np.zeros((20, 20, 12), np.uint8)
    split = Split((Case("scan", path),), (Case("scan", path),), (), ())
    batch = next(make(split, layout=LAYOUTS["la"], patch_size=(8, 6, 4), downsample=2))
    assert batch["labeled"]["image"].shape == (2, 8, 6, 4, 1)
    assert batch["labeled"]["label"].shape == (2, 8, 6, 4)


def test_what_is_drawn_without_the_scans(tmp_path):
    cases = []
    for i, shape in enumerate([(11, 9, 4), (8, 8, 5), (8, 12, 2)]):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["image"] = np.zeros(shape, np.float32)
        cases.append(Case(str(i), tmp_path / f"{i}.h5"))
    split = Split(tuple(cases[:1]), tuple(cases[1:]), (), ())
    settings = {"layout": LAYOUTS["la"], "patch_size": (8, 8, 4), "on_device": True}
    drawn = take(make(split, **settings), 30)
    found = jax.tree.map(lambda a: (a.shape, a.dtype.name), drawn[0]["unlabeled"])
    one = ((4,), "int32")
    rest = {"case": one, "quarter_turns": one, "mirrored_axis": one, "index": one}
    assert found == rest | {"start": ((4, 3), "int32")}
    all_drawn = jax.tree.map(lambda *a: np.concatenate(a), *drawn)
    # The starts that leave room for the crop, and no others, of each of the scans.
    for stream, case, last in [
        ("labeled", 0, (3, 1, 0)),
        ("unlabeled", 1, (0, 0, 1)),
        ("unlabeled", 2, (0, 4, 0)),
    ]:
        start = all_drawn[stream]["start"][all_drawn[stream]["case"] == case]
        for axis, most in enumerate(last):
            assert set(start[:, axis]) == set(range(most + 1))
    assert set(all_drawn["labeled"]["case"]) == {0}
    assert set(all_drawn["unlabeled"]["case"]) == {1, 2}
    assert set(all_drawn["labeled"]["quarter_turns"]) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="serves a layout of turned_crops, not of crops"):
        make(split, **settings | {"layout": LAYOUTS["volumes"]})


@pytest.mark.parametrize("changes", [{"batch_labeled": 0}, {"process_count": 3}])
def test_batches_that_cannot_be_shared_out(split, changes):
    with pytest.raises(ValueError, match="evenly to"):
        make(split, **changes)


def test_patch_of_another_rank(split):
    with pytest.raises(ValueError, match=r"\(4,\) must have 2 sides"):
        make(split, patch_size=(4,))


@pytest.mark.parametrize("layout", ["acdc", "slices"])
def test_slices_are_resized_whole_or_cut_at_their_spacing(tmp_path, layout):
    """A checkerboard of ones and zeros: a crop keeps it, halving the sides does not."""
    path = tmp_path / "board.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.indices((16, 16)).sum(axis=0) % 2
        file["label"] = np.zeros((16, 16), np.uint8)
    split = Split((Case("board", path),), (Case("board", path),), (), ())
    batches = take(make(split, layout=LAYOUTS[layout], patch_size=(8, 8)), 10)
    images = np.concatenate([batch["unlabeled"]["image"] for batch in batches])[..., 0]
    is_board = [(np.diff(i, axis=0) != 0).all() and (np.diff(i) != 0).all() for i in images]
    assert all(is_board) if layout == "slices" else not any(is_board)
