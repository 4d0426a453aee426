"""HDF5 records read one by one, with a message for each that is damaged."""

import pickle
import time

import h5py
import numpy as np
import pytest

from cifp_jax.data import sources, splits
from cifp_jax.data.sources import Case
from cifp_jax.data.whole_slices import SliceFrame


def write(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return Case("scan7", path)


IMAGE = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
LABEL = (np.arange(24).reshape(2, 3, 4) % 2).astype(np.int64)


def test_reads_what_was_written(tmp_path):
    case = write(tmp_path / "a.h5", image=IMAGE, label=LABEL)
    arrays = sources.read_case(case, classes=2, rank=3)
    assert (arrays["image"].dtype, arrays["label"].dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(arrays["image"], IMAGE)
    np.testing.assert_array_equal(arrays["label"], LABEL)


def test_averages_down(tmp_path):
    case = write(tmp_path / "a.h5", image=IMAGE, label=LABEL)
    arrays = sources.read_case(case, classes=2, rank=3, downsample=2)
    # The mean of voxels 0, 1, 4, 5 and of those 12 further on.
    np.testing.assert_array_equal(arrays["image"], [[[8.5, 10.5]]])
    assert arrays["label"].shape == (1, 1, 2)


def test_shapes_are_read_without_the_voxels(tmp_path):
    case = write(tmp_path / "a.h5", image=IMAGE)
    assert sources.image_shape(case) == sources.scan_shape(case) == (2, 3, 4)
    assert sources.scan_shape(case, downsample=2) == (1, 1, 2)
    case.path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.h5: it cannot be read as HDF5"):
        sources.scan_shape(case)


def test_unlabelled_record_needs_no_label(tmp_path):
    case = write(tmp_path / "a.h5", image=IMAGE)
    assert list(sources.read_case(case, classes=2, rank=3, labels=False)) == ["image"]


NAN = np.where(IMAGE == 5, np.nan, IMAGE)
BAD = {
    "no array 'label'": {"image": IMAGE},
    r"no array 'image' \(it has: label\)": {"label": LABEL},
    "different shapes": {"image": IMAGE, "label": LABEL[:1]},
    "NaN or infinite": {"image": NAN, "label": LABEL},
    "3 axes are due": {"image": IMAGE[0], "label": LABEL[0]},
    r"labels \[0, 2\] are not all among the classes 0 .. 1": {"image": IMAGE, "label": LABEL * 2},
    r"labels \[-1, 0\]": {"image": IMAGE, "label": -LABEL},
    r"labels \[0, 256\]": {"image": IMAGE, "label": LABEL * 256},
    r"labels \[0.0, 0.5\]": {"image": IMAGE, "label": LABEL / 2},
    r"labels \[0.0, nan\]": {"image": IMAGE, "label": np.where(LABEL, np.nan, LABEL)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_record_is_named(tmp_path, message):
    case = write(tmp_path / "bad.h5", **BAD[message])
    with pytest.raises(ValueError, match=rf"bad\.h5: .*{message}.*Prepare .*'scan7' off its list"):
        sources.check_cases([case], classes=2, rank=3)


def test_empty_image_is_refused(tmp_path):
    case = write(tmp_path / "bad.h5", image=np.zeros((2, 0, 3)), label=np.zeros((2, 0, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 0, 3\)"):
        sources.read_case(case, classes=2, rank=3)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.h5: .*missing.*'scan7' off its list"):
        sources.read_case(Case("scan7", tmp_path / "gone.h5"), classes=2, rank=3)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.9])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(0).random((20, 20, 20))
        file.create_dataset("image", data=noise, compression="gzip")
        file.create_dataset("label", data=noise > 0.5, compression="gzip")
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if kept in (0, 100) else int(len(whole) * kept)])
    with pytest.raises(ValueError, match=r"cut\.h5: it cannot be read as HDF5.*Prepare"):
        sources.read_case(Case("scan7", path), classes=2, rank=3)


@pytest.fixture
def counted():
    """A reader of 100-byte records that counts what it reads."""
    reads = []

    def read(case):
        reads.append(case.name)
        return {"image": np.zeros(25, np.float32)}

    return reads, read


def test_cache_reads_once_and_keeps_the_limit(tmp_path, counted):
    reads, read = counted
    cache = sources.ScanCache(250)
    cases = [Case(name, tmp_path / name) for name in "abc"]
    first, second = (sources.CaseSource(cases[i:], read, cache) for i in (0, 1))
    assert (len(first), len(second)) == (3, 2)
    for _ in range(3):
        for i in range(3):
            first[i]
        second[0]
    # a and b fit and are shared by both sources; c is read in each of the three rounds.
    assert reads == ["a", "b", "c", "c", "c"]
    assert cache.nbytes == 200
    with pytest.raises(ValueError, match="read-only"):
        first[0]["image"][0] = 1


def test_cache_starts_empty_in_a_worker(tmp_path, counted):
    cache = sources.ScanCache(250)
    cache.get(Case("a", tmp_path / "a"), counted[1])
    copy, again = pickle.loads(pickle.dumps((cache, cache)))
    assert copy is again
    assert copy.nbytes == 0
    copy.get(Case("a", tmp_path / "a"), counted[1])
    assert counted[0] == ["a", "a"]


@pytest.mark.parametrize(
    ("layout", "labeled", "rank", "classes"), [("la", 8, 3, 2), ("acdc", 7, 2, 4)]
)
def test_real_data_is_sound(data_dir, layout, labeled, rank, classes):
    split = splits.load_split(layout, data_dir / layout.upper(), labeled=labeled)
    begin = time.process_time()
    sources.check_cases(split.labeled + split.unlabeled, classes=classes, rank=rank)
    sources.check_cases(split.validation, classes=classes, rank=3)
    assert time.process_time() - begin < 10


def test_slices_shorter_than_a_crop_along_either_side_are_counted(tmp_path):
    cases = []
    for name, shape in (
        ("low", (4, 9)),
        ("narrow", (9, 5)),
        ("fits", (6, 6)),
        ("volume", (2, 9, 3)),
    ):
        cases.append(sources.Case(name, tmp_path / f"{name}.h5"))
        with h5py.File(cases[-1].path, "w") as file:
            file["image"] = np.zeros(shape, np.float32)
    assert sources.count_smaller(cases, SliceFrame(center_crop=6)) == 3
    assert sources.count_smaller(cases, SliceFrame(center_crop=3)) == 0
    # (4, 9) and (9, 5) become (3, 6) and (6, 3), the volume's (9, 3) (6, 2).
    assert sources.count_smaller(cases, SliceFrame(largest_side=6, center_crop=3)) == 1


def test_spacing_is_that_of_the_affine(tmp_path):
    case = Case("a", tmp_path / "a.h5")
    with h5py.File(case.path, "w") as file:
        file["image"] = np.zeros((2, 2, 2))
    assert sources.spacing(case) is None
    with h5py.File(case.path, "a") as file:
        file.attrs["affine"] = [[0, -2, 0, 5], [0.5, 0, 0, 6], [0, 0, 7, 8], [0, 0, 0, 1]]
    assert sources.spacing(case) == (0.5, 2, 7)
    case.path.write_bytes(b"no file")
    with pytest.raises(ValueError, match=r"a\.h5: it cannot be read as HDF5"):
        sources.spacing(case)
