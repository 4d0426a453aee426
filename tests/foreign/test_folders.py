"""What people keep in folders: every file is used or ignored, and said to be."""

import csv
import json
import pathlib
import shutil

import h5py
import nibabel
import nrrd
import numpy as np
import pytest

from cifp_jax import prepare
from cifp_jax.scans import discovery, fingerprint, raw_folders, readers, volumes, writers
from cifp_jax.scans.raw_folders import RawCase
from cifp_jax.scans.volumes import Volume
from tests.support.dicom_files import STACK, multi_frame, series, shared_file
from tests.support.scans import ANISOTROPIC, OBLIQUE, mask, nifti, scan

SHAPE = (20, 18, 4)


def save(path, array, affine=ANISOTROPIC):
    return nifti(path, array, affine)


def rows(out):
    with (out / "files.csv").open(newline="") as file:
        return {row["file"].rpartition("/")[2]: row for row in csv.DictReader(file)}


def listed(out, name):
    return (out / f"{name}.list").read_text().split()


def cases(folder, **more):
    return sorted(raw_folders.find_scans(folder, **more).cases)


def test_scans_and_masks_in_one_folder(tmp_path, capsys):
    """No scan becomes its own mask, and no mask a scan."""
    folder, out = tmp_path / "all", tmp_path / "out"
    for i in range(3):
        save(folder / f"p{i}.nii.gz", scan(i))
    save(folder / "p0_seg.nii.gz", mask(0))
    save(folder / "p1-label.nii.gz", mask(1))
    assert prepare.main([str(folder), str(out), f"--masks={folder}", "--memory=1"]) == 0
    assert (listed(out, "labelled"), listed(out, "unlabelled")) == (["p0", "p1"], ["p2"])
    counts = "2 labelled, 1 unlabelled, 0 validation, 0 test. Classes:"
    assert f"{out}: {counts}" in capsys.readouterr().out
    found = json.loads((out / "fingerprint.json").read_text())
    assert sorted(found["values"]) == ["0", "1", "2"]
    told = rows(out)
    assert (told["p0_seg.nii.gz"]["case"], told["p0_seg.nii.gz"]["role"]) == ("p0", "mask")
    assert (told["p2.nii.gz"]["use"], told["p2.nii.gz"]["role"]) == ("used", "image")


def test_a_folder_without_a_mask_of_any_scan(tmp_path, capsys):
    save(tmp_path / "scans/p0.nii.gz", scan(0))
    (tmp_path / "masks").mkdir()
    given = [str(tmp_path / "scans"), str(tmp_path / "out")]
    assert prepare.main([*given, f"--masks={tmp_path / 'masks'}"]) == 1
    said = f"{tmp_path / 'masks'}: it holds no mask for any of the 1 scans. That of p0 is called p0"
    assert said in capsys.readouterr().out
    assert prepare.main([*given, f"--masks={tmp_path / 'scans/p0.nii.gz'}"]) == 1
    assert "p0.nii.gz: this is a file. Name the folder" in capsys.readouterr().out


def test_masks_left_among_the_scans_are_no_scans(tmp_path, capsys):
    folder, masks, out = tmp_path / "scans", tmp_path / "masks", tmp_path / "out"
    for i in range(2):
        save(folder / f"p{i}.nii.gz", scan(i))
        save(folder / f"p{i}_seg.nii.gz", mask(i))
    save(masks / "p0.nii.gz", mask(5))
    assert prepare.main([str(folder), str(out), f"--masks={masks}", "--memory=1"]) == 0
    assert (listed(out, "labelled"), listed(out, "unlabelled")) == (["p0"], ["p1"])
    assert "ignored 2: named as a mask" in capsys.readouterr().out
    assert rows(out)["p1_seg.nii.gz"]["use"] == "ignored"
    assert cases(folder) == ["p0", "p1"]  # what `predict` would segment


@pytest.mark.parametrize(
    "name",
    ["p0_seg", "p0-label", "p0.seg", "p0_masks", "p0_seg_1", "mask_p0", "labels/p0", "labels/p0_1"],
)
def test_what_is_named_as_a_mask(tmp_path, name):
    save(tmp_path / "p0.nii.gz", scan(0))
    save(tmp_path / f"{name}.nii.gz", mask(0))
    assert cases(tmp_path) == ["p0"]
    data = raw_folders.read_plain(tmp_path, tmp_path)
    assert [case.name for case in data.cases] == ["p0"]
    # Taken, or said to be nobody's.
    assert (data.cases[0].label is None) == bool(data.problems) == (name == "labels/p0_1")


@pytest.mark.parametrize("name", ["legend", "segovia_1", "patient_mgt", "p0_labelled", "p0_unmask"])
def test_what_only_sounds_like_a_mask(tmp_path, name):
    save(tmp_path / f"{name}.nii.gz", scan(0))
    assert cases(tmp_path) == [name]


def test_segmentations_of_3d_slicer(tmp_path):
    """`p0.seg.nrrd` holds the box around the segments, on the grid of its scan."""
    label = np.zeros((20, 18, 4), np.uint8)
    label[3:9, 5:11, 1:3] = 1 + (scan(1, (6, 6, 2)) > 250)
    save(tmp_path / "scans/p0.nii.gz", scan(0))
    box = ANISOTROPIC.copy()
    box[:3, 3] = (ANISOTROPIC @ (3, 5, 1, 1))[:3]
    volume = Volume(label[3:9, 5:11, 1:3], box, tmp_path)
    for name, like in {
        "cut/p0.seg.nrrd": volume,
        "cut/p0.nrrd": volume,
        "whole/p0.nrrd": Volume(label, ANISOTROPIC, tmp_path),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        writers.write(tmp_path / name, like.array, like)
    (tmp_path / "cut/p0.nrrd").rename(tmp_path / "p0.nrrd")
    for name in ("cut", "whole"):
        given = [str(tmp_path / "scans"), str(tmp_path / f"{name}_out")]
        assert prepare.main([*given, f"--masks={tmp_path / name}", "--memory=1"]) == 0
    records = []
    for name in ("cut", "whole"):
        with h5py.File(tmp_path / f"{name}_out/volumes/p0.h5") as file:
            records.append(np.asarray(file["label"]))
    np.testing.assert_array_equal(*records)
    case = RawCase("p0", (tmp_path / "scans/p0.nii.gz",), tmp_path / "p0.nrrd")
    with pytest.raises(ValueError, match=r"p0\.nrrd has \(6, 6, 2\)"):  # of others all is due
        fingerprint.read_pair(case, 1, {})


def test_a_box_around_segments_may_reach_beyond_the_scan_and_the_segments_may_not(tmp_path):
    image = Volume(scan(0), ANISOTROPIC, tmp_path / "p0.nii.gz")
    box = ANISOTROPIC.copy()
    box[:3, 3] = (ANISOTROPIC @ (-2, 15, 0, 1))[:3]  # two voxels before the scan, and one behind
    drawn = np.zeros((6, 4, 4), np.uint8)
    drawn[2:4, :3, 1] = 1
    mask = Volume(drawn, box, tmp_path / "p0.seg.nrrd")
    turned = volumes.on_grid_of(image, mask, partial=True).array
    assert np.argwhere(turned).tolist() == [[x, y, 1] for x in (0, 1) for y in (15, 16, 17)]
    drawn[1, :2, 1] = drawn[2, 3, 1] = 1
    with pytest.raises(ValueError, match=r"p0\.seg\.nrrd: 3 of its voxels lie outside of"):
        volumes.on_grid_of(image, mask, partial=True)


def test_segments_of_3d_slicer_are_known_by_their_names(tmp_path, capsys):
    """Slicer numbers segments as they were made, so in each file otherwise."""
    drawn = np.zeros((20, 18, 4), np.uint8)
    drawn[3:9, 5:11, 1:3] = 1 + (scan(1, (6, 6, 2)) > 250)
    for name, values in {"p0": {"liver": 1, "tumour": 2}, "p1": {"tumour": 1, "liver": 2}}.items():
        save(tmp_path / f"scans/{name}.nii.gz", scan(int(name[1])))
        own = np.array([0, values["liver"], values["tumour"]], np.uint8)[drawn]
        file = tmp_path / f"masks/{name}.seg.nrrd"
        file.parent.mkdir(exist_ok=True)
        writers.write(file, own, Volume(own, ANISOTROPIC, file))
        array, header = nrrd.read(str(file))
        for i, (segment, value) in enumerate(values.items()):
            header |= {f"Segment{i}_Name": segment, f"Segment{i}_LabelValue": str(value)}
        nrrd.write(str(file), array, header)
    given = [str(tmp_path / "scans"), str(tmp_path / "out"), f"--masks={tmp_path / 'masks'}"]
    assert prepare.main([*given, "--memory=1"]) == 0
    assert "Classes: background, liver, tumour." in capsys.readouterr().out
    records = []
    for name in ("p0", "p1"):
        with h5py.File(tmp_path / f"out/volumes/{name}.h5") as file:
            records.append(np.asarray(file["label"]))
    np.testing.assert_array_equal(*records)
    assert np.bincount(records[0].ravel()).tolist() == np.bincount(drawn.ravel()).tolist()
    header["Segment1_LabelValue"] = "3"  # so that a value of the mask is nobody's
    nrrd.write(str(file := tmp_path / "masks/p1.seg.nrrd"), array, header)
    assert prepare.main([*given, "--memory=1"]) == 1
    assert f"{file}: its values [2] are those of no segment" in capsys.readouterr().out


@pytest.mark.parametrize("together", [True, False])
def test_folders_of_patients(tmp_path, together):
    """p0/ct and p0/seg belong together, and BIDS' names say their patient already."""
    root, masks = tmp_path / "all", tmp_path / ("all" if together else "all/derivatives")
    save(root / "p0/ct.nii.gz", scan(0))
    save((root if together else masks) / "p0/seg.nii.gz", mask(0))
    save(root / "sub-01/anat/sub-01_T1w.nii.gz", scan(1))
    save(masks / "sub-01/anat/sub-01_dseg.nii.gz", mask(1))
    (root / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    data = raw_folders.read_plain(root, masks)
    assert {case.name: pathlib.Path(str(case.label)).name for case in data.cases if case.label} == {
        "p0_ct": "seg.nii.gz",
        "sub-01_T1w": "sub-01_dseg.nii.gz",
    }
    assert len(data.cases) == 2
    assert not data.problems
    assert [file.name for file in data.ignored] == ["sub-01_T1w.json"]


def test_a_mask_that_may_be_anybodys_is_nobodys(tmp_path):
    for name in ("p0/ct", "p0/mr", "p1/ct"):
        save(tmp_path / f"{name}.nii.gz", scan(0))
    save(tmp_path / "p0/seg.nii.gz", mask(0))
    data = raw_folders.read_plain(tmp_path, tmp_path)
    assert all(case.label is None for case in data.cases)
    assert "seg.nii.gz: this mask may belong to any of p0_ct, p0_mr" in data.problems[0]


def test_dicom_as_archives_export_it(tmp_path):
    """Nested series, two in one folder, multi-frame files, another file first, a copy, a report."""
    series(tmp_path / "study/a")
    (tmp_path / "study/a/000_readme.txt").touch()
    series(tmp_path / "study/b", uid="1.2.3.6", change=lambda image, z: number(image, 6))
    series(tmp_path / "study/b", uid="1.2.3.7", change=lambda image, z: number(image, 7))
    multi_frame(tmp_path / "frames/IM1.dcm")
    multi_frame(tmp_path / "frames/IM2.dcm", uid="1.2.3.8")
    slices = sorted((tmp_path / "study/a").glob("*.dcm"))
    shutil.copy(slices[0], tmp_path / "study/a/zz_copy.dcm")
    shutil.copy(shared_file("test-SR.dcm"), tmp_path / "study/report.dcm")
    shutil.copy(shared_file("SC_rgb_rle.dcm"), tmp_path / "study/photo.dcm")
    save(tmp_path / "study/a/aaa.nii.gz", scan(0))
    found = raw_folders.find_scans(tmp_path)
    assert sorted(found.cases) == [
        *("frames_IM1", "frames_IM2", "study_a", "study_a_aaa", "study_b_6", "study_b_7")
    ]
    assert sorted(discovery.files_of(found.cases["study_a"][0])) == slices
    assert {file.name: why.partition(" (")[0] for file, why in found.ignored.items()} == {
        "000_readme.txt": "no scan of a known kind",
        "zz_copy.dcm": f"a copy of {slices[0].name}",
        "report.dcm": "DICOM without an image",
        "photo.dcm": "a colour image",
    }


def test_a_series_in_several_folders_is_one_scan(tmp_path):
    """Some CDs have so many files a folder, whatever series they are of."""
    for uid, value in (("1.2.3.6", 6), ("1.2.3.7", 7)):
        series(
            tmp_path / "cd/A", uid=uid, change=lambda image, z, value=value: number(image, value)
        )
    (tmp_path / "cd/B").mkdir()
    for file in sorted((tmp_path / "cd/A").iterdir())[3:9]:
        file.rename(tmp_path / "cd/B" / file.name)
    found = raw_folders.find_scans(tmp_path)
    assert sorted(found.cases) == ["cd_6", "cd_7"]
    for (source,) in found.cases.values():
        volume = readers.read(source)
        assert volume.path == tmp_path / "cd"
        np.testing.assert_array_equal(volume.array, STACK)


@pytest.mark.parametrize("shift", [0, 100])
def test_two_patients_with_one_uid_are_two_scans(tmp_path, shift):
    def another(image, z):
        image.PatientID = "P2" if shift else "P1"
        image.ImagePositionPatient = [-10, -20, 30 + 3 * z + shift]

    series(tmp_path / "p0", STACK)
    series(tmp_path / "p1", STACK + 1, change=another)
    found = raw_folders.find_scans(tmp_path)
    arrays = {name: readers.read(source).array for name, (source,) in found.cases.items()}
    np.testing.assert_array_equal(arrays["p0"], STACK)
    np.testing.assert_array_equal(arrays["p1"], STACK + 1)


@pytest.mark.parametrize("uid", ["1.2.3.4.1", ""])
def test_slices_are_no_copies_for_their_uid_alone(tmp_path, uid):
    """Some programs that remove names give every slice one UID, or none: five would be lost."""

    def alike(image, z):
        image.SOPInstanceUID = uid

    series(tmp_path / "p", change=alike)
    found = raw_folders.find_scans(tmp_path)
    assert not found.ignored
    np.testing.assert_array_equal(readers.read(found.cases["p"][0]).array, STACK)


def number(image, value):
    image.SeriesNumber = value


def test_a_folder_that_is_one_series_has_its_name(tmp_path):
    assert cases(series(tmp_path / "scan", ending="")) == ["scan"]
    single = multi_frame(tmp_path / "one.dcm")
    assert cases(single) == ["one"]


def test_odd_entries(tmp_path):
    """Links that lead nowhere or in circles, hidden files, and what belongs to other files."""
    save(tmp_path / "scans/b.nii.gz", scan(0))
    (tmp_path / "scans/a.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (tmp_path / "scans/c").symlink_to(tmp_path / "scans", target_is_directory=True)
    (tmp_path / "scans/.DS_Store").touch()
    nibabel.save(nibabel.Nifti1Pair(scan(1), OBLIQUE), tmp_path / "scans/pair.img")
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere/d.nii.gz", scan(2))
    (tmp_path / "scans/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = raw_folders.find_scans(tmp_path / "scans")
    assert sorted(found.cases) == ["b", "linked_d", "pair"]
    assert {file.name: why for file, why in found.ignored.items()} == {
        ".DS_Store": "a hidden file",
        "a.nii.gz": "a link that leads nowhere",
        "pair.hdr": "belongs to pair.img",
    }


def test_masks_that_were_written_among_the_scans_are_not_read_again(tmp_path):
    save(tmp_path / "a.nii.gz", scan(0))
    save(tmp_path / "out/a.nii.gz", mask(0))
    assert cases(tmp_path, leave_out=[tmp_path / "out"]) == ["a"]


def test_slices_of_prepared_volumes_are_no_scans(tmp_path):
    """ACDC's volumes have a folder of their slices beside them."""
    for name, shape in (("p1.h5", (3, 4, 4)), ("slices/p1_slice_1.h5", (4, 4))):
        (tmp_path / "slices").mkdir(exist_ok=True)
        with h5py.File(tmp_path / name, "w") as file:
            file["image"] = np.zeros(shape)
    found = raw_folders.find_scans(tmp_path)
    assert list(found.cases) == ["p1"]
    assert set(found.ignored.values()) == {"a slice of a prepared volume"}


def test_a_data_set_is_no_folder_of_scans(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"masks among its folders.*imagesTs"):
        raw_folders.find_scans(tmp_path)


def test_a_folder_without_scans_says_what_it_holds(tmp_path):
    shutil.copy(shared_file("rtdose.dcm"), tmp_path / "dose.dcm")
    with pytest.raises(FileNotFoundError, match=r"no scan in this folder.*dose\.dcm .* a dose"):
        raw_folders.find_scans(tmp_path)


def test_a_multi_frame_study_is_prepared(tmp_path):
    """Series and multi-frame files of one place give one record, value for value."""
    series(tmp_path / "scans/a")
    multi_frame(tmp_path / "scans/b.dcm")
    label = (STACK > 0).astype(np.uint8)
    for name in "ab":
        save(tmp_path / f"masks/{name}.nii.gz", label, np.diag([-0.5, -2, 3, 1.0]) + PLACE)
    out = tmp_path / "out"
    flags = [f"--masks={tmp_path / 'masks'}", "--memory=1"]
    assert prepare.main([str(tmp_path / "scans"), str(out), *flags]) == 0
    records = []
    for name in "ab":
        with h5py.File(out / f"volumes/{name}.h5") as file:
            records.append([np.asarray(file[key]) for key in ("image", "label")])
    for one, other in zip(*records, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert discovery.discover(tmp_path / "scans").scans.keys() == {"a", "b"}


PLACE = np.zeros((4, 4))
PLACE[:3, 3] = (10, 20, 30)
