"""Folders of raw scans to arrays, lists and a configuration that trains."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from cifp_jax import files, prepare
from cifp_jax.data import prepared as prepared_room
from cifp_jax.data.sources import read_case
from cifp_jax.inference import prediction
from cifp_jax.training import build, checks
from tests.support.scans import ANISOTROPIC, config_of, dicom, mask, nifti, nnunet, scan


def save(path, array, affine=ANISOTROPIC):
    nifti(path, array, affine)


def listed(out):
    return {p.stem: p.read_text().split() for p in out.glob("*.list")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    assert prepare.main([str(nnunet(root / "raw")), str(root / "out"), "--memory=1"]) == 0
    return root / "out"


def test_nnunet_lists(prepared):
    lists = listed(prepared)
    assert len(lists["validation"]) == 1
    assert sorted(lists["labelled"] + lists["validation"]) == [f"case{i}" for i in range(5)]
    assert lists["unlabelled"] == ["case5", "free"]
    assert lists["train"] == lists["labelled"] + lists["unlabelled"]
    assert lists["test"] == []  # imagesTs has no masks here


def test_records_are_turned_and_normalised(prepared):
    with h5py.File(prepared / "volumes/case2.h5") as file:
        image, label = np.asarray(file["image"]), np.asarray(file["label"])
    # The file runs to anterior, left, superior; the record has slices, right, anterior.
    assert image.shape == (4, 18, 20, 2)
    np.testing.assert_allclose(image.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(image.std(axis=(0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_array_equal(label, np.transpose(mask(2)[:, ::-1], (2, 1, 0)))
    raw = np.transpose(scan(21)[:, ::-1], (2, 1, 0)).astype(float)
    np.testing.assert_allclose(image[..., 1], (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_fingerprint(prepared):
    found = json.loads((prepared / "fingerprint.json").read_text())
    np.testing.assert_allclose(found["median_spacing"], (2, 2, 7), rtol=1e-5)
    assert found["median_shape"] == [18, 20, 4]
    assert (found["cases"], found["labeled"]) == (7, 5)
    assert sum(found["values"].values()) == 5 * 20 * 18 * 4
    assert found["by_case"]["free"]["values"] == {}


def test_the_written_configuration_gives_batches(prepared):
    config = config_of(prepared)
    assert (config.data.name, config.model.classes, config.data.channels) == ("slices", 3, 2)
    assert tuple(config.data.patch_size) == (32, 32)
    assert config.preparation.label_names == ("background", "rim", "core")
    checks.check_config(config)
    split = build.make_split(config)
    assert (len(split.labeled), len(split.unlabeled), len(split.validation)) == (16, 8, 1)
    batch = next(build.make_iterator(config, split))
    size = config.data.batch_labeled
    # 32 x 1.25, up to a multiple of 16: the step turns and resizes what lies around the patch.
    assert batch["labeled"]["image"].shape == (size, 48, 48, 2)
    assert batch["unlabeled"]["image"].shape == (size, 48, 48, 2)
    record = prediction.read_volume(config)(split.validation[0])
    assert record["image"].shape == (4, 18, 20, 2)


def test_bad_cases_are_named_and_the_others_prepared(tmp_path, capsys):
    raw = nnunet(tmp_path / "raw")
    whole = (raw / "imagesTr/case0_0000.nii.gz").read_bytes()
    (raw / "imagesTr/case0_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(raw / "labelsTr/case1.nii.gz", mask(1, shape=(20, 18, 3)))
    save(raw / "labelsTr/case2.nii.gz", mask(2, values=7))
    save(raw / "labelsTr/case3.nii.gz", mask(3) / 2)
    save(raw / "imagesUn/free_0000.nii.gz", np.stack([scan(0)] * 3, axis=-1))
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 1
    printed = capsys.readouterr().out
    for answer in (
        "5 case(s) were left out",
        "case0_0000.nii.gz: it cannot be read",
        "case1_0000.nii.gz: it has the shape (20, 18, 4)",
        "case2.nii.gz: it holds the values [3, 4, 5, 6], which are no labels",
        "case3.nii.gz: a mask holds whole numbers",
        "free_0000.nii.gz: its shape is (20, 18, 4, 3), and its other channels are files",
    ):
        assert answer in printed
    lists = listed(tmp_path / "out")
    assert (lists["labelled"], lists["unlabelled"]) == (["case4"], ["case5"])
    assert len(build.make_split(config_of(tmp_path / "out")).labeled) == 4


def test_a_described_folder_is_no_challenge_whatever_its_scans_are_called(tmp_path):
    """nnU-Net's copy of ACDC keeps the names of the challenge."""
    raw = nnunet(tmp_path / "raw", labeled=1)
    for path in list(raw.rglob("case*.nii.gz")):
        path.rename(path.with_name(path.name.replace("case", "patient001_frame0")))
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 0
    assert listed(tmp_path / "out")["labelled"] == ["patient001_frame00"]


def test_decathlon_with_channels_in_one_file(tmp_path):
    raw = tmp_path / "raw"
    for i in range(3):
        both = np.stack([scan(i, (40, 36, 34)), scan(i + 9, (40, 36, 34))], axis=-1)
        save(raw / f"imagesTr/brain_{i:03}.nii.gz", both, np.eye(4))
        if i:
            save(raw / f"labelsTr/brain_{i:03}.nii.gz", mask(i, (40, 36, 34), 2), np.eye(4))
    description = {"modality": {"0": "FLAIR", "1": "T1"}, "labels": {"0": "out", "1": "in"}}
    (raw / "dataset.json").write_text(json.dumps(description))
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=64"]) == 0
    config = config_of(tmp_path / "out")
    assert (config.data.name, config.model.classes) == ("volumes", 2)
    assert tuple(config.data.patch_size) == (48, 48, 48)
    assert config.evaluation.report == "last"  # two labelled cases: none is set aside
    split = build.make_split(config)
    record = read_case(split.unlabeled[0], classes=2, rank=3, labels=False, channels=2)
    assert record["image"].shape == (40, 36, 34, 2)


def test_plain_folders_of_any_format_and_values(tmp_path):
    images, masks = tmp_path / "scans", tmp_path / "masks"
    dicom(images / "a", slices=4)
    for name in ("patient_0001", "patient_0002"):
        save(images / f"{name}.nii.gz", scan(1, (2, 3, 4)), np.diag([0.5, 2, 7, 1]))
    save(masks / "patient_0001_seg.nii.gz", 255 * mask(1, (2, 3, 4), 2), np.diag([0.5, 2, 7, 1]))
    assert prepare.main([str(images), str(tmp_path / "out"), f"--masks={masks}"]) == 0
    lists = listed(tmp_path / "out")
    assert (lists["labelled"], lists["unlabelled"]) == (["patient_0001"], ["a", "patient_0002"])
    config = config_of(tmp_path / "out")
    assert tuple(config.preparation.label_values) == (0, 255)
    with h5py.File(tmp_path / "out/volumes/patient_0001.h5") as file:
        assert set(np.unique(np.asarray(file["label"]))) == {0, 1}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda raw: (raw / "dataset.json").unlink(), "no dataset.json"),
        (lambda raw: (raw / "dataset.json").write_text("{"), "no valid JSON"),
        (lambda raw: [p.unlink() for p in (raw / "labelsTr").iterdir()], "None of the cases has a"),
        (lambda raw: save(raw / "labelsTr/other.nii.gz", mask(0)), "this mask has no image in"),
        (lambda raw: save(raw / "imagesUn/case0_0000.nii.gz", scan(0)), "stands in another folder"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, change, answer, capsys):
    raw = nnunet(tmp_path / "raw", labeled=1)
    for path in (raw / "imagesUn").iterdir():
        path.unlink()
    change(raw)
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 1
    assert answer in capsys.readouterr().out


def test_what_fails_late_leaves_the_prepared_data_as_they_were(tmp_path, capsys):
    raw, out = nnunet(tmp_path / "raw", labeled=2), tmp_path / "out"
    assert prepare.main([str(raw), str(out), "--memory=1"]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    flags = ("--memory=1", "--dimension=2", "--validation=9")
    assert prepare.main([str(raw), str(out), *flags]) == 1
    assert "--validation=9 leaves none" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_interrupted_command_changes_nothing(tmp_path, monkeypatch, capsys):
    raw, out = nnunet(tmp_path / "raw", labeled=1), tmp_path / "out"
    assert prepare.main([str(raw), str(out), "--memory=1"]) == 0

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(files, "write_record", interrupted)
    assert prepare.main([str(raw), str(out), "--memory=1"]) == 130
    assert "is as it was" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_folders_of_scans_and_masks_that_are_wrong(tmp_path, capsys):
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    for name in "ab":
        save(scans / f"{name}.nii.gz", scan(1))
    save(masks / "a.nii.gz", mask(1))
    (masks / "b.txt").touch()

    def answer(*arguments):
        prepare.main([*map(str, arguments), "--memory=1"])
        return capsys.readouterr().out

    out = tmp_path / "out"
    assert "ignored 1: no scan of a known kind (b.txt)" in answer(scans, out, f"--masks={masks}")
    assert "none: this folder is missing" in answer(scans, out, f"--masks={tmp_path / 'none'}")
    assert "none: this folder is missing" in answer(tmp_path / "none", out)
    colon = answer(scans, tmp_path / "a:b", f"--masks={masks}")
    assert "a:b: what follows a colon" in colon
    with pytest.raises(SystemExit):
        prepare.main([str(scans), str(out), "--memory=-1"])


def test_a_full_disk(tmp_path, monkeypatch, capsys):
    raw = nnunet(tmp_path / "raw", labeled=1)
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(prepared_room, "shutil", SimpleNamespace(disk_usage=lambda _: usage))
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 1
    assert "Free some, or name another folder" in capsys.readouterr().out
    assert prepare.main([str(raw), str(tmp_path / "out"), "--validation=9"]) == 1


def test_the_command_reads_the_written_configuration(prepared, tmp_path):
    """The rest of the command is another test's: this run stops before it writes."""
    flags = (f"--config={prepared / 'config.py'}", "--config.model.name=none")
    result = subprocess.run(
        [sys.executable, "-m", "cifp_jax.main", *flags, f"--workdir={tmp_path / 'run'}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "config.model.name is 'none'; known: unet, vnet" in result.stderr
    assert result.returncode != 0


def test_frames_of_a_patient_stay_together(tmp_path):
    images, masks, shape = tmp_path / "scans", tmp_path / "masks", (6, 6, 4)
    for i in range(6):
        for frame in (1, 2):
            save(images / f"p{i}_frame{frame:02}.nii.gz", scan(i, shape))
        save(masks / f"p{i}_frame01.nii.gz", mask(i, shape))
    flags = [f"--masks={masks}", "--validation=2"]
    assert prepare.main([str(images), str(tmp_path / "out"), *flags]) == 0
    lists = listed(tmp_path / "out")
    assert (len(lists["labelled"]), len(lists["validation"])) == (4, 2)
    # The other frames of the two validation patients are in no list.
    assert lists["unlabelled"] == [n.replace("frame01", "frame02") for n in lists["labelled"]]
    split = build.make_split(config_of(tmp_path / "out"))
    assert (len(split.labeled), len(split.unlabeled), len(split.validation)) == (16, 16, 2)


def test_where_no_mask_can_be_used_the_reasons_are_told(tmp_path, capsys):
    """A film of many frames comes first by its name, and is no image of as many channels."""
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    save(scans / "a.nii.gz", np.stack([scan(1)] * 5, -1))
    for name in "bc":
        save(scans / f"{name}.nii.gz", scan(1))
        save(masks / f"{name}.nii.gz", mask(1), np.diag([1.0, 1, 1, 1]))
    flags = (f"--masks={masks}", "--memory=1")
    assert prepare.main([str(scans), str(tmp_path / "out"), *flags]) == 1
    printed = capsys.readouterr().out
    assert "none of the 2 masks can be used" in printed
    for name in "bc":
        assert re.search(rf"- .*{name}\.nii\.gz", printed), printed
    assert not (tmp_path / "out").exists()


def test_a_file_whose_name_is_no_utf8_is_listed(tmp_path, capsys):
    raw = nnunet(tmp_path / "raw", labeled=2)
    (raw / "imagesTr/M\udcfcller.txt").touch()
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 0
    assert r"M\udcfcller.txt" in (tmp_path / "out/files.csv").read_text()
    assert r"M\udcfcller.txt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("described", "answer"),
    [
        ([], "it names no labels"),
        ({"labels": {"background": 0, "heart": 1}, "channel_names": ["MRI"]}, "its channels are"),
        ({"labels": {"background": 0, "heart": 1}, "modality": "MRI"}, "its channels are"),
    ],
)
def test_a_description_that_cannot_be_meant(tmp_path, capsys, described, answer):
    raw = nnunet(tmp_path / "raw", labeled=1)
    (raw / "dataset.json").write_text(json.dumps(described))
    assert prepare.main([str(raw), str(tmp_path / "out"), "--memory=1"]) == 1
    assert f"dataset.json: {answer}" in capsys.readouterr().out
