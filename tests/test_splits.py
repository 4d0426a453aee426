"""Lists of a data set read into labelled, unlabelled, validation and test cases."""

import h5py
import numpy as np
import pytest

from cifp_jax.data import sources, splits


def names(cases):
    return [case.name for case in cases]


@pytest.fixture
def la(tmp_path):
    """Six scans, a to f."""
    for name in "abcdef":
        (tmp_path / name).mkdir()
        (tmp_path / name / "mri_norm2.h5").touch()
    (tmp_path / "train.list").write_text("c\na\n\nb \nf\ne\n")
    (tmp_path / "test.list").write_text("d\n")
    return tmp_path


@pytest.fixture
def acdc(tmp_path):
    """Patients 2, 1 and 3 with 2, 3 and 1 slices; patient 4 for validation."""
    slices = [
        *["patient002_frame01_slice_9", "patient002_frame02_slice_1"],
        *["patient001_frame01_slice_1", "patient001_frame01_slice_2", "patient001_frame02_slice_1"],
        "patient003_frame01_slice_4",
    ]
    (tmp_path / "data/slices").mkdir(parents=True)
    for name in slices:
        (tmp_path / f"data/slices/{name}.h5").touch()
    for name in ("patient004_frame01", "patient004_frame02", "patient005_frame01"):
        (tmp_path / f"data/{name}.h5").touch()
    (tmp_path / "train_slices.list").write_text("\n".join(slices))
    (tmp_path / "val.list").write_text("patient004_frame01\npatient004_frame02\n")
    (tmp_path / "test.list").write_text("patient005_frame01\n")
    return tmp_path


def test_la_in_list_order(la):
    split = splits.load_split("la", la, labeled=2, validation=1, test_list="test.list")
    assert names(split.labeled) == ["c", "a"]
    assert names(split.unlabeled) == ["b", "f"]
    assert names(split.validation) == ["e"]
    assert names(split.test) == ["d"]
    assert split.labeled[0].path == la / "c" / "mri_norm2.h5"


def test_la_without_validation_or_unlabelled(la):
    split = splits.load_split("la", la, labeled=5)
    assert names(split.labeled) == ["c", "a", "b", "f", "e"]
    assert split.unlabeled == split.validation == split.test == ()


def test_acdc_by_patient(acdc):
    split = splits.load_split("acdc", acdc, labeled=2, test_list="test.list")
    assert [n[:10] for n in names(split.labeled)] == ["patient002"] * 2 + ["patient001"] * 3
    assert names(split.unlabeled) == ["patient003_frame01_slice_4"]
    assert names(split.validation) == ["patient004_frame01", "patient004_frame02"]
    assert split.validation[0].path == acdc / "data/patient004_frame01.h5"
    assert split.labeled[0].path == acdc / "data/slices/patient002_frame01_slice_9.h5"
    assert names(split.test) == ["patient005_frame01"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patient099_frame01_slice_15", "patient099"),
        ("patient099_frame02", "patient099"),
        ("my_case_12_slice_3", "my_case_12"),
        ("p1_slice_2_slice_0", "p1"),  # a slice of a file that is named as one
        ("06SR5RBREL16DQ6M8LWS", "06SR5RBREL16DQ6M8LWS"),
        ("sub-01_ses-2_T1w_slice_7", "sub-01"),
        ("sub-01x_T1w", "sub-01x"),
        ("sub-01.b_1", "sub-01.b_1"),
    ],
)
def test_patient_of_a_name(name, expected):
    assert splits.patient(name) == expected


@pytest.mark.parametrize(
    ("labeled", "validation"), [(0, 0), (6, 0), (5, 1), (2, -1), (-1, 3), (1, 5)]
)
def test_numbers_that_the_list_cannot_serve(la, labeled, validation):
    with pytest.raises(ValueError, match=r"train\.list lists 5 patients.*sum at most 5"):
        splits.load_split("la", la, labeled=labeled, validation=validation)


def test_acdc_says_how_many_patients_there_are(acdc):
    with pytest.raises(ValueError, match=r"train_slices\.list lists 3 patients"):
        splits.load_split("acdc", acdc, labeled=4)
    with pytest.raises(ValueError, match=r"val\.list: set it to 0"):
        splits.load_split("acdc", acdc, labeled=1, validation=2)


def test_unknown_layout(la):
    with pytest.raises(ValueError, match="known: la, acdc"):
        splits.load_split("LA", la, labeled=1)


def test_missing_root_and_lists(la):
    with pytest.raises(FileNotFoundError, match=r"nowhere: .*config\.data\.root .*files\.md"):
        splits.load_split("la", la / "nowhere", labeled=1)
    with pytest.raises(FileNotFoundError, match=r"train_slices\.list: .*data\.root"):
        splits.load_split("acdc", la, labeled=1)
    with pytest.raises(FileNotFoundError, match=r"other\.list"):
        splits.load_split("la", la, labeled=1, test_list="other.list")


def test_list_that_names_a_missing_case(la):
    (la / "f" / "mri_norm2.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.list, line 5: 'f' has no file .*f/mri_no"):
        splits.load_split("la", la, labeled=1)


def test_duplicates_and_empty_lists(la):
    (la / "train.list").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"train\.list, line 3: 'a' stands on line 1"):
        splits.load_split("la", la, labeled=1)
    (la / "train.list").write_text("\n \n")
    with pytest.raises(ValueError, match=r"train\.list: this list is empty"):
        splits.load_split("la", la, labeled=1)


def test_sets_must_not_share_a_case(la):
    (la / "test.list").write_text("d\ne\n")
    with pytest.raises(ValueError, match="'e' of the test cases and 'e' of the validation cases"):
        splits.load_split("la", la, labeled=1, validation=1, test_list="test.list")
    with pytest.raises(ValueError, match="'e' of the test cases and 'e' of the training cases"):
        splits.load_split("la", la, labeled=1, test_list="test.list")


@pytest.mark.parametrize("listing", ["val.list", "test.list"])
def test_sets_must_not_share_a_patient(acdc, listing):
    (acdc / "data/patient001_frame02.h5").touch()
    (acdc / listing).write_text("patient001_frame02\n")
    with pytest.raises(ValueError, match=r"'patient001_frame02' of .*'patient001_.*same patient"):
        splits.load_split("acdc", acdc, labeled=1, test_list="test.list")


@pytest.mark.parametrize(("patients", "slices"), [(1, 32), (3, 68), (7, 136), (14, 256)])
def test_acdc_slices_of_the_literature(data_dir, patients, slices):
    split = splits.load_split("acdc", data_dir / "ACDC", labeled=patients)
    listed = (data_dir / "ACDC/train_slices.list").read_text().split()
    assert names(split.labeled) == listed[:slices]
    assert names(split.unlabeled) == listed[slices:]
    assert (len(listed), len(split.validation)) == (1312, 20)


def test_la_numbers(data_dir):
    split = splits.load_split("la", data_dir / "LA", labeled=8, validation=10)
    listed = (data_dir / "LA/train.list").read_text().split()
    assert names(split.labeled) == listed[:8]
    assert names(split.validation) == listed[70:]
    assert len(split.unlabeled) == 62


@pytest.fixture
def own(tmp_path):
    (tmp_path / "volumes").mkdir()
    for name, slices in (("a", 2), ("b", 3), ("c", 1)):
        with h5py.File(tmp_path / f"volumes/{name}.h5", "w") as file:
            file["image"] = np.arange(slices * 4 * 4 * 2, dtype=np.float32).reshape(-1, 4, 4, 2)
            file["label"] = np.ones((slices, 4, 4), np.uint8)
    for listing, lines in (("labelled", "a\n"), ("unlabelled", "b\nc\n"), ("validation", "")):
        (tmp_path / f"{listing}.list").write_text(lines)
    return tmp_path


def test_own_volumes_and_their_slices(own):
    split = splits.load_split("volumes", own, labeled=1)
    assert (names(split.labeled), names(split.unlabeled)) == (["a"], ["b", "c"])
    assert split.validation == ()
    split = splits.load_split("slices", own, labeled=1)
    assert names(split.labeled) == ["a_slice_0", "a_slice_1"]
    assert names(split.unlabeled)[2:] == ["b_slice_2", "c_slice_0"]
    record = sources.read_case(split.unlabeled[2], classes=2, rank=2, channels=2)
    np.testing.assert_array_equal(record["image"].ravel(), np.arange(64, 96))
    assert record["label"].shape == (4, 4)
    with pytest.raises(ValueError, match="2 axes and one of 3 channels"):
        sources.read_case(split.unlabeled[2], classes=2, rank=2, channels=3)


def test_more_labelled_cases_than_masks(own):
    with pytest.raises(
        ValueError, match=r"labelled\.list lists 1 patients.*cannot give 2 labelled"
    ):
        splits.load_split("slices", own, labeled=2)
    (own / "unlabelled.list").write_text("")
    assert splits.load_split("volumes", own, labeled=1).unlabeled == ()
    (own / "labelled.list").write_text("")
    with pytest.raises(ValueError, match=r"labelled\.list: this list is empty"):
        splits.load_split("volumes", own, labeled=1)


def test_an_unlabelled_frame_of_a_labelled_patient_stays_unlabelled(own):
    for old, new in (("a", "p_frame01"), ("b", "p_frame02"), ("c", "q_frame01")):
        (own / f"volumes/{old}.h5").rename(own / f"volumes/{new}.h5")
    (own / "labelled.list").write_text("p_frame01\n")
    (own / "unlabelled.list").write_text("p_frame02\n")
    split = splits.load_split("volumes", own, labeled=1)
    assert (names(split.labeled), names(split.unlabeled)) == (["p_frame01"], ["p_frame02"])
    (own / "labelled.list").write_text("p_frame01\nq_frame01\n")
    split = splits.load_split("volumes", own, labeled=1)
    assert names(split.unlabeled) == ["q_frame01", "p_frame02"]
