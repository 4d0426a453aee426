"""Folders of masks: whose they are, and what stands beside the masks."""

import csv
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from cifp_jax import files, predict
from cifp_jax.commands import predict as segmenting
from cifp_jax.training import run_folder
from tests.support.dicom_files import series
from tests.support.intensity_run import VALUES, intensity_run
from tests.support.scans import OBLIQUE, loaded, nifti


@pytest.fixture
def run(tmp_path, monkeypatch):
    return intensity_run(tmp_path / "run", monkeypatch)


def classes(seed, shape=(9, 7, 5)):
    return np.random.default_rng(seed).integers(0, 3, shape)


def scans(folder, *names):
    for i, name in enumerate(names):
        nifti(folder / f"{name}.nii.gz", (100 * classes(i)).astype(np.int16))
    return folder


def call(run, source, output, *flags):
    return predict.main([f"--weights={run}", str(source), str(output), *flags])


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def renamed(run, monkeypatch, variables):
    """Another network in the place of the run's."""
    monkeypatch.setattr(
        run_folder, "load_network", lambda path: (run_folder.load_config(path), variables)
    )


def test_another_network_does_not_add_to_old_masks(run, tmp_path, monkeypatch, capsys):
    folder, out = scans(tmp_path / "in", "a", "b"), tmp_path / "out"
    assert call(run, folder, out) == 0
    before = (out / "a.nii.gz").stat().st_mtime_ns
    assert call(run, folder, out) == 0  # the same network goes on
    renamed(run, monkeypatch, {"params": {"w": np.ones(3)}})
    scans(folder, "a", "b", "c")
    assert call(run, folder, out) == 1
    assert "a.nii.gz: this mask was made by another network" in capsys.readouterr().out
    assert not (out / "c.nii.gz").exists()
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    (folder / "b.nii.gz").unlink()
    assert call(run, folder, out, "--overwrite") == 1
    assert "b.nii.gz: this mask was made by another network and is not" in capsys.readouterr().out
    (out / "b.nii.gz").unlink()
    assert call(run, folder, out, "--overwrite") == 0
    assert (out / "a.nii.gz").stat().st_mtime_ns != before
    assert call(run, folder, out, "--flips") == 1  # other options, other masks


def test_another_scan_of_the_same_name_does_not_get_its_mask(run, tmp_path, capsys):
    """All scans of LA, for one, have the same file name."""
    first, second, out = scans(tmp_path / "in", "a"), tmp_path / "other", tmp_path / "out"
    nifti(second / "a.nii.gz", (100 * classes(5)).astype(np.int16))
    assert call(run, first, out) == 0
    assert call(run, first, out) == 0  # the same one has its mask
    before = (out / "a.nii.gz").read_bytes()
    assert call(run, second, out) == 1
    assert "a.nii.gz: this is the mask of another scan" in capsys.readouterr().out
    assert (out / "a.nii.gz").read_bytes() == before
    assert call(run, second, out, "--overwrite") == 0
    assert (out / "a.nii.gz").read_bytes() != before
    assert call(run, second, out) == 0


def test_no_volume_of_voxels_of_unknown_size(run, tmp_path):
    """The field's HDF5 files do not say how large their voxels are."""
    for name, attributes in {"a": {}, "b": {"affine": np.diag([1.0, 2, 5, 1])}}.items():
        files.write_record(
            tmp_path / f"in/{name}.h5", {"image": classes(0) - 1.0}, attributes=attributes
        )
    assert call(run, tmp_path / "in", tmp_path / "out") == 0
    volumes = {
        row["case"]: row["volume_ml"]
        for row in table(tmp_path / "out/measurements.csv")
        if row["structure"] == "core"
    }
    assert volumes["a"] == ""
    assert float(volumes["b"]) == pytest.approx((classes(0) == 2).sum() * 0.01, rel=1e-5)


def test_masks_are_not_segmented_as_scans(run, tmp_path, capsys):
    folder = scans(tmp_path / "in", "a")
    assert call(run, folder, folder / "masks", "--uncertainty") == 0
    capsys.readouterr()
    assert call(run, folder, tmp_path / "out") == 0
    assert "ignored 1: a folder of masks (masks)" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]


def test_masks_of_nobody_knows_whom(run, tmp_path, capsys):
    folder = scans(tmp_path / "in", "a")
    scans(tmp_path / "out", "a")
    assert call(run, folder, tmp_path / "out") == 1
    assert "give --overwrite" in capsys.readouterr().out


def test_two_commands_share_no_temporary_file(tmp_path):
    path = tmp_path / "a.nii.gz"
    with files.whole(path) as one, files.whole(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_measurements_of_scans(run, tmp_path):
    folder, out = scans(tmp_path / "in", "a", "b"), tmp_path / "out"
    series(folder / "c", np.full((4, 5, 6), 200, np.int16) * (np.indices((4, 5, 6))[0] < 2))
    assert call(run, folder, out, "--jobs=2") == 0
    rows = {(row["case"], row["structure"]): row for row in table(out / "measurements.csv")}
    assert list(rows) == [(c, s) for c in "abc" for s in ("rim", "core")]
    count = int((classes(0) == 2).sum())
    row = rows["a", "core"]
    voxel = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    assert float(row["volume_ml"]) == pytest.approx(count * voxel, rel=1e-5)
    assert (row["value"], float(row["mean_intensity"])) == ("7", 200)
    assert float(row["mean_uncertainty"]) < 1e-3
    # Half of 4 x 5 x 6 voxels of 0.5 x 2 x 3 mm, in one piece; nothing lies between 0 and 200.
    assert float(rows["c", "core"]["volume_ml"]) == pytest.approx(60 * 0.003)
    assert rows["c", "core"]["largest_component_share"] == "1"
    assert (rows["c", "rim"]["volume_ml"], rows["c", "rim"]["mean_intensity"]) == ("0", "")
    nifti(folder / "d.nii.gz", (100 * classes(3)).astype(np.int16))
    assert call(run, folder, out) == 0  # the table grows with the masks
    assert {row["case"] for row in table(out / "measurements.csv")} == set("abcd")


def test_every_file_is_accounted_for(run, tmp_path, capsys):
    folder, out = scans(tmp_path / "in", "a", "a_seg"), tmp_path / "out"
    (folder / "b.nii.gz").write_bytes(b"no scan")
    (folder / "notes.txt").touch()
    assert call(run, folder, out) == 1
    assert "ignored 1: no scan of a known kind (notes.txt)" in capsys.readouterr().out
    used = {row["file"].rpartition("/")[2]: row for row in table(out / "files.csv")}
    assert {name: row["use"] for name, row in used.items()} == {
        "a.nii.gz": "used",
        "a_seg.nii.gz": "ignored",
        "b.nii.gz": "refused",
        "notes.txt": "ignored",
    }
    assert "cannot be read" in used["b.nii.gz"]["reason"]


def test_previews_beside_the_masks(run, tmp_path):
    folder = scans(tmp_path / "in", "a")
    assert call(run, folder, tmp_path / "out", "--preview") == 0
    png = (tmp_path / "out/preview/a.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    np.testing.assert_array_equal(
        np.asarray(loaded(tmp_path / "out/a.nii.gz").dataobj), VALUES[classes(0)]
    )


def test_brackets_in_names_are_kept(run, tmp_path, capsys):
    folder = scans(tmp_path / "in [bold]", "a")
    (folder / "b [red].nii.gz").write_bytes(b"no scan")
    assert call(run, folder, tmp_path / "out") == 1
    assert "in [bold]/b [red].nii.gz: it cannot be read" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_done(run, tmp_path, monkeypatch, capsys):
    folder, read = scans(tmp_path / "in", "a", "b"), segmenting.read_scan

    def interrupted(sources, config):
        if "b.nii.gz" in str(sources[0]):
            raise KeyboardInterrupt
        return read(sources, config)

    monkeypatch.setattr(segmenting, "read_scan", interrupted)
    assert call(run, folder, tmp_path / "out") == 130
    assert "The same command goes on" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]


# What is written of a scan, and what reads it back that has no part in the writing.
FORMATS = {"nrrd": ".nrrd", "metaimage": ".mha", "mgz": ".mgz", "nifti": ".nii.gz"}


def read_back(path):
    """Array (x, y, z) and RAS affine by ITK, for MGZ by nibabel."""
    if path.suffix == ".mgz":
        image = loaded(path)
        return np.asarray(image.dataobj), image.affine
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def test_masks_come_in_the_format_of_their_scans(run, tmp_path):
    folder, out = scans(tmp_path / "in", "a"), tmp_path / "out"
    image = sitk.ReadImage(str(folder / "a.nii.gz"))
    for name in ("b.nrrd", "c.mha", "d.mhd"):
        sitk.WriteImage(image, str(folder / name))
    original: Any = loaded(folder / "a.nii.gz")
    array: Any = np.asarray(original.dataobj)
    made = nibabel.MGHImage(array, original.affine)
    nibabel.save(made, folder / "e.mgz")
    series(folder / "g")
    assert call(run, folder, out) == 0
    masks = {p.name for p in out.iterdir() if p.name.endswith((*FORMATS.values(), ".dcm"))}
    wanted = {"a.nii.gz", "b.nrrd", "c.mha", "d.mha", "e.mgz", "g.nii.gz"}
    assert masks == wanted
    for name in wanted - {"g.nii.gz"}:
        array, affine = read_back(out / name)
        np.testing.assert_array_equal(array, VALUES[classes(0)])
        np.testing.assert_allclose(affine, OBLIQUE, atol=1e-4)
    assert call(run, folder, out) == 0  # nothing is left to do


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_that_is_asked_for(run, tmp_path, form):
    out = tmp_path / "out"
    assert call(run, scans(tmp_path / "in", "a"), out, f"--format={form}") == 0
    array, affine = read_back(out / f"a{FORMATS[form]}")
    np.testing.assert_array_equal(array, VALUES[classes(0)])
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-4)


def test_metaimage_knows_no_shear(run, tmp_path, capsys):
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    nifti(tmp_path / "in/a.nii.gz", (100 * classes(0)).astype(np.int16), sheared)
    assert call(run, tmp_path / "in", tmp_path / "out", "--format=metaimage") == 1
    assert "a.mha: MetaImage knows no sheared axes" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.mha"))


def test_what_another_network_left_does_not_count_as_done(run, tmp_path, monkeypatch, capsys):
    """Whether the command is stopped, a scan cannot be read, or maps are not asked for."""
    folder, out = scans(tmp_path / "in", "a", "b", "c"), tmp_path / "out"
    assert call(run, folder, out, "--uncertainty") == 0
    renamed(run, monkeypatch, {"params": {"w": np.ones(3)}})
    segmented = segmenting.Segmenter.segment

    def stopped(segmenter, name, *rest):
        if name == "b":
            raise KeyboardInterrupt
        segmented(segmenter, name, *rest)

    monkeypatch.setattr(segmenting.Segmenter, "segment", stopped)
    assert call(run, folder, out, "--overwrite") == 130
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["a.nii.gz"]
    assert not list((out / "uncertainty").iterdir())
    monkeypatch.setattr(segmenting.Segmenter, "segment", segmented)
    capsys.readouterr()
    (folder / "c.nii.gz").write_bytes(b"no scan")
    assert call(run, folder, out) == 1
    assert "1 of 3 scans have a mask already" in capsys.readouterr().out
    assert {row["case"] for row in table(out / "measurements.csv")} == {"a", "b"}


def test_scans_that_come_one_at_a_time_stay_in_the_table(run, tmp_path):
    out = tmp_path / "out"
    for name in "ab":
        assert call(run, scans(tmp_path / name, name), out) == 0
    assert {row["case"] for row in table(out / "measurements.csv")} == {"a", "b"}
    (out / "a.nii.gz").unlink()
    assert call(run, tmp_path / "b", out) == 0
    assert {row["case"] for row in table(out / "measurements.csv")} == {"b"}


def test_files_that_a_killed_command_left_are_no_masks(run, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".12345678.a.nii.gz").touch()
    assert call(run, scans(tmp_path / "in", "b"), out) == 0
    (out / "network.json").write_text("{")
    assert call(run, tmp_path / "in", out) == 1
    assert "network.json: this is no valid JSON" in capsys.readouterr().out
