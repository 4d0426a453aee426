"""How files in a folder become cases."""

import pathlib
import re

import pytest

from cifp_jax.scans import raw_folders


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def name_of(source):
    return pathlib.Path(str(source)).name


def found(folder, channels):
    cases = raw_folders.find_scans(folder, channels).cases
    return {case: [name_of(path) for path in files] for case, files in cases.items()}


@pytest.mark.parametrize("channels", [2, None])
def test_numbered_channels_are_one_case(tmp_path, channels):
    folder = touch(tmp_path, "a_0001.nii.gz", "a_0000.nii.gz", "b_0000.nrrd", "b_0001.nrrd", "x.md")
    assert found(folder, channels) == {
        "a": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b": ["b_0000.nrrd", "b_0001.nrrd"],
    }


def test_numbered_patients_are_cases_of_their_own(tmp_path):
    folder = touch(tmp_path, "p_0000.nii", "p_0001.nii", "p_0002.nii")
    assert list(found(folder, 1)) == ["p_0000", "p_0001", "p_0002"]
    assert list(found(touch(tmp_path / "one", "p_0001.nii", "p_0002.nii"), None)) == [
        "p_0001",
        "p_0002",
    ]
    assert list(found(touch(tmp_path / "first", "p_0000.nii", "q_0000.nii"), 1)) == ["p", "q"]


def test_a_missing_channel_leaves_the_other_cases_whole(tmp_path):
    folder = touch(tmp_path, "a_0000.nii", "a_0001.nii", "b_0001.nii")
    assert found(folder, 2) == {"a": ["a_0000.nii", "a_0001.nii"], "b": ["b_0001.nii"]}


def test_masks_of_numbered_patients(tmp_path):
    scans = touch(tmp_path / "scans", "p_0000.nii", "p_0001.nii", "p_0002.nii")
    masks = touch(tmp_path / "masks", "p_0000_gt.nrrd", "p_0001_gt.nrrd")
    cases = raw_folders.read_plain(scans, masks).cases
    assert [case.name for case in cases] == ["p_0000", "p_0001", "p_0002"]
    assert [case.label and name_of(case.label) for case in cases] == [
        "p_0000_gt.nrrd",
        "p_0001_gt.nrrd",
        None,
    ]
    touch(masks, "q.nii")
    (problem,) = raw_folders.read_plain(scans, masks).problems
    assert "q.nii: this mask belongs to no scan" in problem


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("image", "label"),
    [("volume-", "segmentation-"), ("image_000", "label_000"), ("IMG-", "mask_")],
)
def test_scans_and_masks_that_share_a_number(tmp_path, image, label, together):
    """As in LiTS: `volume-0` and `segmentation-0`."""
    scans = touch(tmp_path / "scans", *(f"{image}{n}.nii" for n in (0, 1, 10)))
    masks = scans if together else tmp_path / "masks"
    touch(masks, f"{label}1.nii", f"{label}10.nii")
    data = raw_folders.read_plain(scans, masks)
    drawn = {case.name: case.label and name_of(case.label) for case in data.cases}
    assert drawn == {
        f"{image}0": None,
        f"{image}1": f"{label}1.nii",
        f"{image}10": f"{label}10.nii",
    }
    assert not data.problems
    number = re.sub(r"\D", "", label) + "1"
    touch(scans, f"scan.{number}.nii")
    assert "may belong to any of" in raw_folders.read_plain(scans, masks).problems[0]


def test_two_files_of_one_name(tmp_path):
    cases, ignored, problems = raw_folders.find_scans(touch(tmp_path, "a.nii", "a.nii.gz", "b.nii"))
    assert {name: name_of(path) for name, (path,) in cases.items()} == {"a": "a.nii", "b": "b.nii"}
    assert list(ignored) == [tmp_path / "a.nii.gz"]
    assert re.search(r"a\.nii\.gz: .*a\.nii is named alike.*Rename", problems[0])


@pytest.mark.parametrize(
    "name", ["p3 .nii", "\u60a3\u8005\u3000\u4e00.nii", "a\nb.nii", "M\udcfcller.nii"]
)
def test_names_that_no_list_can_hold_are_left_out(tmp_path, name):
    cases, ignored, problems = raw_folders.find_scans(touch(tmp_path, name, "b.nii"))
    assert list(cases) == ["b"]
    assert ignored == {tmp_path / name: "a name that no list can hold"}
    assert problems[0].isprintable()
    assert "Rename it" in problems[0]
