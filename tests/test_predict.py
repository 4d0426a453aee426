"""Scans to masks in their own geometry, by a network that reads the class off the intensity."""

import json

import h5py
import numpy as np
import pytest

from cifp_jax import predict, prepare
from cifp_jax.inference import embedding, prediction
from cifp_jax.reports.summaries import reported_summary
from cifp_jax.scans import readers
from cifp_jax.scans.volumes import Volume
from cifp_jax.scans.writers import write
from cifp_jax.training import build, loop, run_folder
from tests.support.intensity_run import VALUES, intensity_run
from tests.support.scans import OBLIQUE, config_of, dicom, loaded, nifti, nnunet


@pytest.fixture
def run(tmp_path, monkeypatch):
    return intensity_run(tmp_path / "run", monkeypatch)


def change(run, **preparation):
    config = json.loads((run / "config.json").read_text())
    config["preparation"].update(preparation)
    (run / "config.json").write_text(json.dumps(config))


def classes(seed, shape=(9, 7, 5)):
    return np.random.default_rng(seed).integers(0, 3, shape)


def call(run, source, output, *flags):
    return predict.main([f"--weights={run}", str(source), str(output), *flags])


@pytest.mark.parametrize("spacing", [(), (2.0, 0.5, 7.0)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_native_spacing_gives_voxel_exact_masks(run, tmp_path, axes, spacing):
    change(run, axes=axes, spacing=[spacing[i] for i in axes] if spacing else [])
    (tmp_path / "in").mkdir()
    truth = classes(0)
    scan = nifti(tmp_path / "in/a.nii.gz", (100 * truth).astype(np.int16))
    write(tmp_path / "in/b.nrrd", (100 * truth).astype(np.int16), Volume(truth, OBLIQUE, scan))
    assert call(run, tmp_path / "in", tmp_path / "out", "--uncertainty", "--probabilities") == 0
    mask = loaded(tmp_path / "out/a.nii.gz")
    for array, affine in (
        (np.asarray(mask.dataobj), mask.affine),
        ((other := readers.read(tmp_path / "out/b.nrrd")).array, other.affine),
    ):
        np.testing.assert_array_equal(array, VALUES[truth])
        np.testing.assert_allclose(affine, OBLIQUE, atol=1e-5)
    assert mask.header.get_xyzt_units()[0] == "mm"
    names = {"0": "background", "2": "rim", "7": "core"}
    assert json.loads(mask.header.extensions[0].get_content()) == names
    assert json.loads((tmp_path / "out/labels.json").read_text()) == names
    uncertainty = loaded(tmp_path / "out/uncertainty/a.nii.gz")
    np.testing.assert_allclose(uncertainty.affine, OBLIQUE, atol=1e-5)
    assert uncertainty.get_fdata().max() < 1e-3
    probabilities = loaded(tmp_path / "out/probabilities/a.nii.gz").get_fdata()
    np.testing.assert_allclose(probabilities, np.eye(3)[truth], atol=1e-4)


@pytest.mark.parametrize("dimension", [2, 3])
def test_masks_come_back_voxel_exact_through_prepare_and_predict(tmp_path, monkeypatch, dimension):
    """A network that knows the prepared labels by heart gives back the masks that were prepared.

    It knows a scan only where `predict` prepares it just as `prepare` did.
    """
    turns = (
        OBLIQUE,
        OBLIQUE @ np.diag([-1, 1, -1, 1]),
        np.diag([-2, -0.5, 7, 1]),
        np.diag([2, 0.5, 7, 1])[:, [2, 0, 1, 3]],
        np.diag([7, 2, 0.5, 1]),  # its slices run across another axis of the patient
    )
    truth = {}
    for i, affine in enumerate(turns):
        truth[f"case{i}"] = VALUES[classes(i, (9, 7, 5))]
        for folder, array in (("scans", classes(i + 9, (9, 7, 5))), ("masks", truth[f"case{i}"])):
            (tmp_path / folder).mkdir(exist_ok=True)
            nifti(tmp_path / folder / f"case{i}.nii.gz", array.astype(np.int16), affine)
    out, run = tmp_path / "out", tmp_path / "run"
    flags = [f"--masks={tmp_path / 'masks'}", f"--dimension={dimension}", "--validation=0"]
    assert prepare.main([str(tmp_path / "scans"), str(out), "--memory=1", *flags]) == 0
    run.mkdir()
    (run / "config.json").write_text(config_of(out).to_json_best_effort())
    known = {}
    for path in (out / "volumes").iterdir():
        with h5py.File(path) as file:
            image, label = np.asarray(file["image"]), np.asarray(file["label"])
        known[image.shape, image.tobytes()] = np.eye(3, dtype=np.float32)[label]
    monkeypatch.setattr(run_folder, "load_network", lambda path: (run_folder.load_config(path), {}))
    by_heart = lambda image: known[image.shape, image.tobytes()]  # noqa: E731
    monkeypatch.setattr(prediction, "make_predictor", lambda _: lambda _: by_heart)
    assert call(run, tmp_path / "scans", tmp_path / "again") == 0
    for name, values in truth.items():
        mask, drawn = (loaded(tmp_path / f"{d}/{name}.nii.gz") for d in ("again", "masks"))
        np.testing.assert_array_equal(np.asarray(mask.dataobj), values)
        np.testing.assert_array_equal(mask.affine, drawn.affine)


def test_another_spacing_and_back(run, tmp_path):
    """A ball in 2 x 0.5 x 7 mm voxels, segmented on 1 mm, returns on its own grid."""
    change(run, spacing=[1.0, 1.0, 1.0])
    affine = OBLIQUE @ np.diag([1, 1, 0.3, 1])
    grid = np.indices((60, 20, 20)) - np.array([30, 10, 10]).reshape(3, 1, 1, 1)
    distance = np.linalg.norm(np.tensordot(affine[:3, :3], grid, 1), axis=0)
    ball = distance < 10
    scan = nifti(tmp_path / "ball.nii.gz", (200 * ball).astype(np.int16), affine)
    assert call(run, scan, tmp_path / "out") == 0
    mask = loaded(tmp_path / "out/ball.nii.gz")
    assert mask.shape == ball.shape
    wrong = (np.asarray(mask.dataobj) == 7) != (distance < 10)
    assert not wrong[np.abs(distance - 10) > 2].any()
    assert wrong.mean() < 0.1


def test_dicom_and_prepared_arrays(run, tmp_path):
    dicom(tmp_path / "in/series")
    record = classes(1).astype(np.float32) - 1  # normalised already
    with h5py.File(tmp_path / "in/record.h5", "w") as file:
        file["image"] = record
        file.attrs["affine"] = OBLIQUE
    assert call(run, tmp_path / "in", tmp_path / "out") == 0
    mask = loaded(tmp_path / "out/series.nii.gz")
    np.testing.assert_allclose(mask.header.get_zooms(), (0.5, 2, 7))
    np.testing.assert_allclose(mask.affine[:3, 3], (-10, -20, 30))
    mask = loaded(tmp_path / "out/record.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), VALUES[classes(1)])
    np.testing.assert_allclose(mask.affine, OBLIQUE, atol=1e-5)


def test_prepared_arrays_that_are_damaged(run, tmp_path, capsys):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.where(np.arange(60).reshape(3, 4, 5) == 7, np.nan, 1.0)
    assert predict.main([f"--weights={run}", str(tmp_path / "a.h5"), str(tmp_path / "out")]) == 1
    assert "a.h5: it holds voxels that are NaN" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_bad_scans_are_listed_the_others_done_and_done_ones_kept(run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcd":
        nifti(folder / f"{name}.nii.gz", (100 * classes(0)).astype(np.int16))
    (folder / "b.nii.gz").write_bytes(b"no scan")
    nifti(folder / "c.nii.gz", np.zeros((4, 4, 4, 5), np.int16))
    assert call(run, folder, tmp_path / "out") == 1
    printed = capsys.readouterr().out
    assert "2 of 4 scans could not be segmented" in printed
    assert "b.nii.gz: it cannot be read" in printed
    assert "c.nii.gz: it holds 5 volumes, where 1 channel(s) are due" in printed
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.nii.gz")}
    assert sorted(kept) == ["a.nii.gz", "d.nii.gz"]
    nifti(folder / "b.nii.gz", (100 * classes(0)).astype(np.int16))
    nifti(folder / "c.nii.gz", (100 * classes(0)).astype(np.int16))
    assert call(run, folder, tmp_path / "out") == 0
    assert "2 of 4 scans have a mask already" in capsys.readouterr().out
    assert all((tmp_path / "out" / n).stat().st_mtime_ns == t for n, t in kept.items())
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


def test_maps_are_added_to_masks_that_are_there(run, tmp_path):
    (tmp_path / "in").mkdir()
    nifti(tmp_path / "in/a.nii.gz", (100 * classes(0)).astype(np.int16))
    assert call(run, tmp_path / "in", tmp_path / "out") == 0
    assert call(run, tmp_path / "in", tmp_path / "out", "--uncertainty") == 0
    made = tmp_path / "out/uncertainty/a.nii.gz"
    before = made.stat().st_mtime_ns
    assert call(run, tmp_path / "in", tmp_path / "out", "--uncertainty") == 0
    assert made.stat().st_mtime_ns == before


def test_an_error_of_the_network_names_the_scan(run, tmp_path, monkeypatch, capsys):
    def fail(image):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(prediction, "make_predictor", lambda _: lambda _: fail)
    assert call(run, nifti(tmp_path / "a.nii"), tmp_path / "out") == 1
    assert "a.nii: RuntimeError('out of memory')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "source", "output", "answer"),
    [
        ("nowhere", "a.nii", "out", "nowhere: there is no run, no file of weights"),
        ("run", "gone", "out", "gone: there is no such file or folder"),
        ("run", "run", "out", "run: there is no scan in this folder"),
        ("run", "a.nii", ".", "masks would lie among the scans"),
    ],
)
def test_wrong_input(run, tmp_path, capsys, weights, source, output, answer):
    nifti(tmp_path / "a.nii")
    paths = [tmp_path / name for name in (weights, source, output)]
    assert call(*paths) == 1
    assert answer in capsys.readouterr().out


def test_ranking_goes_on_with_what_is_missing(run, tmp_path, monkeypatch, capsys):
    """Of three scans one fails at first; two are twins, so one of them comes last."""
    seen = []

    def describe(image, middle):
        seen.append(image.shape)
        return np.array([image.mean(), 0], np.float32)

    monkeypatch.setattr(embedding, "make_describer", lambda _: lambda _: describe)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    # Between the classes, the network is unsure: everywhere, and nowhere.
    unsure, sure = np.full((9, 7, 5), 52, np.int16), np.full((9, 7, 5), 100, np.int16)
    unsure[4, 3, 2] = sure[4, 3, 2] = 101  # a scan of one value is none
    nifti(folder / "sure.nii.gz", sure)
    nifti(folder / "twin.nii.gz", unsure)
    (folder / "unsure.nii.gz").write_bytes(b"no scan")
    assert call(run, folder, out) == 1
    assert not (out / "ranking.csv").exists()
    assert call(run, folder, out, "--rank") == 1
    rows = (out / "ranking.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["case", "twin", "sure"]
    assert not (out / "uncertainty").exists()
    assert len(seen) == 2  # masks without a score are made again
    nifti(folder / "unsure.nii.gz", unsure)
    capsys.readouterr()
    assert call(run, folder, out, "--rank") == 0
    printed = capsys.readouterr().out
    assert "2 of 3 scans have a mask and a score already" in printed
    assert "label first: twin, sure, unsure" in printed
    assert len(seen) == 3
    rows = [row.split(",") for row in (out / "ranking.csv").read_text().splitlines()[1:]]
    assert [float(row[4]) for row in rows] == [0, 0, 0]  # it treats mirror images alike
    assert float(rows[0][3]) == float(rows[2][3]) > 0.3 > float(rows[1][3])
    assert float(rows[2][5]) == 0
    assert (out / "ranking.png").is_file()


def test_of_scans_that_cannot_be_read_none_is_named_first(run, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii.gz").write_bytes(b"no scan")
    assert call(run, tmp_path / "in", tmp_path / "out", "--rank") == 1
    assert "label first" not in capsys.readouterr().out


def test_mirror_images_are_averaged_or_compared(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(run, tmp_path, tmp_path / "out", "--rank", "--flips")
    assert "Give one of the two" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [2, 3])
def test_from_a_folder_to_masks(tmp_path, dimension, capsys):
    """prepare, train for a step and predict, with real networks; the run alone is kept."""
    raw, out = nnunet(tmp_path / "raw"), tmp_path / "out"
    assert prepare.main([str(raw), str(out), "--memory=1", f"--dimension={dimension}"]) == 0
    config = config_of(out)
    config.parallel = "none"
    config.model.filters = (2, 2, 2, 2, 2)
    config.data.batch_labeled = config.data.batch_unlabeled = 2
    config.training.update({"steps": 1, "log_every": 1})
    config.evaluation.overlays = 1
    summaries = loop.train(config, build.make_split(config), tmp_path / "run")
    assert reported_summary(summaries)["facts"]["cases"] == 1
    assert len(list((tmp_path / "run/evaluation").rglob("*.png"))) == 1
    for path in (out / "volumes").iterdir():
        path.unlink()
    flags = ("--flips", "--uncertainty")
    assert call(tmp_path / "run", raw / "imagesTs", tmp_path / "masks", *flags) == 0
    scan, mask = (
        loaded(raw / "imagesTs/new_0000.nii.gz"),
        loaded(tmp_path / "masks/new.nii.gz"),
    )
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
    uncertainty = loaded(tmp_path / "masks/uncertainty/new.nii.gz").get_fdata()
    assert 0 < uncertainty.max() <= 1
    assert call(tmp_path / "run", raw / "imagesTs", tmp_path / "ranked", "--rank") == 0
    (row,) = (tmp_path / "ranked/ranking.csv").read_text().splitlines()[1:]
    _, case, *parts, distance = row.split(",")
    assert (case, distance) == ("new", "")
    score, uncertainty, disagreement = map(float, parts)
    assert 0 < uncertainty <= 1
    assert 0 <= disagreement <= 1  # 0 where one step of training has found one class only
    assert score == pytest.approx((uncertainty + disagreement) / 2, abs=2e-6)
