"""Released networks by name: the table, the cards, and where a name may stand."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from cifp_jax import predict
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.sources import Case
from cifp_jax.data.splits import Split
from cifp_jax.inference import prediction
from cifp_jax.inference import released as released_module
from cifp_jax.inference.released import card, find_weights, released
from cifp_jax.inference.weights import load_weights
from cifp_jax.training import run_folder, scoring
from experiments.collect import load
from experiments.result_tables import RELEASED, RESULTS
from tests.support.runs import small
from tests.support.scans import nifti

ROOT = pathlib.Path(__file__).parents[1]


def test_every_file_has_a_name_and_every_name_a_file():
    files = set((ROOT / "experiments/weights").glob("*.safetensors"))
    assert set(released().values()) == files
    assert set(released()) == set(RELEASED)


@pytest.mark.parametrize("name", RELEASED)
def test_a_card_is_of_the_file_that_the_name_leads_to(name):
    path = find_weights(pathlib.Path(name))
    facts, said = load_weights(path).facts, load(RESULTS / f"{RELEASED[name][0]}.json")["reported"]
    assert facts["step"] == said["facts"]["step"]
    assert facts["method"] == said["facts"]["method"]
    found = card(path)
    assert found is not None
    text = found.read_text(encoding="utf-8")
    assert f"`--weights={name}`" in text
    assert "not a medical device" in text
    assert "research use" in text
    for label in find_layout(facts["data"]["name"]).label_names[1:]:
        assert label in text


def test_a_name_stays_when_its_file_is_replaced(tmp_path, monkeypatch):
    old = released()["acdc-7"]
    shutil.copy(old, tmp_path / "acdc_7_better.safetensors")
    (tmp_path / "names.json").write_text(json.dumps({"acdc-7": "acdc_7_better.safetensors"}))
    monkeypatch.setattr(released_module, "_WEIGHTS", (tmp_path,))
    assert find_weights(pathlib.Path("acdc-7")) == tmp_path / "acdc_7_better.safetensors"
    assert card(tmp_path / "acdc_7_better.safetensors") == ROOT / "docs/models/acdc-7.md"
    assert card(old) is None


def test_what_lies_at_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights(pathlib.Path("la-8")) == released()["la-8"]
    (tmp_path / "la-8").mkdir()
    assert find_weights(pathlib.Path("la-8")) == pathlib.Path("la-8")


def test_an_unknown_name_lists_the_known_ones(tmp_path, capsys):
    nifti(tmp_path / "in/a.nii.gz")
    flags = ["--weights=acdc-70", str(tmp_path / "in"), str(tmp_path / "out")]
    assert predict.main(flags) == 1
    assert "acdc-70: there is no run" in (said := capsys.readouterr().out)
    assert "Released are: acdc-3, acdc-7, acdc-7-supervised, la-8." in said
    assert not (tmp_path / "out").exists()


def test_a_name_is_evaluated(tmp_path):
    """As far as to its header, which names the scans that it was trained on."""
    config = small(tmp_path)
    seen = load_weights(released()["acdc-7"]).facts["training_list"]["labeled"][0]

    split = Split((), (), (), (Case(f"{seen}_frame01", tmp_path / "none"),))
    with pytest.raises(ValueError, match=rf"acdc_7_.*\.safetensors was trained on '{seen}_frame01"):
        scoring.score_weights(config, split, pathlib.Path("acdc-7"), tmp_path)


def test_masks_name_the_structures_of_the_data_set():
    config, _ = run_folder.load_network(pathlib.Path("acdc-7"))
    assert prediction.named_values(config)[3] == "left ventricle"
    config.model.classes = 2  # another set of labels in the same layout
    assert prediction.named_values(config) == {0: "background", 1: "class 1"}


def test_a_scan_of_another_kind_is_warned_of(tmp_path, monkeypatch, capsys):
    """32 x 32 x 3 voxels: one scan as those of ACDC, one in larger voxels with values of CT."""
    image = np.random.default_rng(0).integers(0, 500, (32, 32, 3)).astype(np.int16)
    nifti(tmp_path / "in/like.nii.gz", image, np.diag([1.5, 1.5, 8, 1]))
    nifti(tmp_path / "in/unlike.nii.gz", image - 1000, np.diag([1.5, 4, 8, 1]))
    background = lambda image: np.eye(4, dtype=np.float32)[np.zeros(image.shape, int)]  # noqa: E731
    monkeypatch.setattr(prediction, "make_predictor", lambda _: lambda _: background)
    out = tmp_path / "out"
    assert predict.main(["--weights=acdc-7", str(tmp_path / "in"), str(out)]) == 0
    said = capsys.readouterr().out
    assert "acdc-7: for research, and no medical device; see " in said
    assert "- " + str(tmp_path / "in/unlike.nii.gz") + ": its mask may be wrong: its voxels" in said
    assert "like.nii.gz: its mask" not in said.replace("unlike", "")
    rows = (out / "files.csv").read_text().splitlines()
    assert rows[1].endswith("like,image,")
    assert "its values go from -1000 to -501 (CT?)" in rows[2]
    assert json.loads((out / "labels.json").read_text())["2"] == "myocardium"
