"""The check of the ranking: its folders, choices and table, without training."""

import json

import h5py
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.data import splits
from cifp_jax.reports.summaries import PROTOCOL
from experiments import label_choice
from experiments.seed_groups import RESULTS


@pytest.fixture
def data(tmp_path):
    """Three patients of two slices, whose numbers do not sort as words."""
    folder = tmp_path / "ACDC"
    (folder / "data/slices").mkdir(parents=True)
    names = [f"patient00{p}_frame01_slice_{z}" for p in (1, 2, 3) for z in (10, 9)]
    for name in names:
        with h5py.File(folder / f"data/slices/{name}.h5", "w") as file:
            value = int(name[9]) + int(name.split("_")[-1]) / 10
            file["image"] = np.full((4, 4), value, np.float32)
            file["label"] = np.zeros((4, 4), np.uint8)
    (folder / "data/patient009_frame01.h5").touch()
    (folder / "train_slices.list").write_text("\n".join(names))
    (folder / "val.list").write_text("patient009_frame01\n")
    return folder


def test_the_chosen_patients_are_the_labelled_ones(data, tmp_path):
    for first in (["patient003"], ["patient002", "patient003"]):  # a second time over the first
        root = label_choice.write_root(data, tmp_path / "root", first)
        split = splits.load_split("acdc", root, labeled=len(first))
        assert {splits.patient(case.name) for case in split.labeled} == set(first)
        assert len(split.labeled) + len(split.unlabeled) == 6
    scans = label_choice.unlabeled_scans(root, 2)
    assert list(scans) == ["patient001_frame01"]
    assert [case.name[-2:] for case in scans["patient001_frame01"]] == ["_9", "10"]


def test_the_settings_are_those_of_a_configuration(data, tmp_path):
    cell = label_choice.cell(data, tmp_path, "ranked", ["patient003"], 1, 50)
    config = default_config()
    config.lock()
    config.update_from_flattened_dict({k: v for k, v in cell.settings.items() if k != "data.root"})
    assert (config.data.labeled, config.seed, config.training.steps) == (1, 1, 50)
    assert cell.name == "ranked_seed1"


def scan(case, score, dice):
    return {
        "case": case,
        "score": score,
        "uncertainty": 1 - score,
        "disagreement": score,
        "distance": None,
        "dice": dice,
    }


def test_patients_are_labelled_once_and_draws_stay_the_same():
    names = ["p5_frame01", "p1_frame02", "p5_frame02", "p2_frame01", "p4_frame01", "p3_frame01"]
    rest = ["p1", "p2", "p3", "p4", "p5", "p6"]
    scans = [scan(name, 0.5, 50.0) for name in names]
    chosen = label_choice.choices(scans, rest)
    assert chosen["ranked"] == ["p5", "p1", "p2", "p4"]
    drawn = [chosen[f"random{draw}"] for draw in label_choice.DRAWS]
    assert all(len(set(own)) == 4 and set(own) <= set(rest) for own in drawn)
    assert len({tuple(own) for own in drawn}) == 3
    again = label_choice.choices(scans[::-1], rest)
    assert [again[f"random{draw}"] for draw in label_choice.DRAWS] == drawn


def test_correlation_and_dice_by_hand():
    scans = [scan("a", 0.1, 90.0), scan("b", 0.2, 80.0), scan("c", 0.9, 10.0)]
    assert label_choice.correlations(scans) == pytest.approx(
        {"score": -1.0, "uncertainty": 1.0, "disagreement": -1.0}
    )
    label, truth = np.array([1, 1, 2, 0]), np.array([1, 0, 2, 0])
    # Dice 2/3, 1, and 1 of the class that neither has.
    assert label_choice.true_dice(label, truth) == pytest.approx(100 * (2 / 3 + 2) / 3)


def test_the_table(tmp_path):
    scans = [scan("patient001_frame01", 0.1, 90.0), scan("patient002_frame01", 0.2, 40.0)]
    known = {
        "choices": {"ranked": ["patient002"], "random1": ["patient001"]},
        "spearman": label_choice.correlations(scans),
        "scans": scans,
    }
    (tmp_path / "runs").mkdir()
    (tmp_path / "ranking").mkdir()
    (tmp_path / "ranking/scans.json").write_text(json.dumps(known))
    for label, dice in (("first", 50.0), ("ranked", 61.25)):
        one = {
            "protocol": PROTOCOL,
            "label": label,
            "config": {
                "seed": 0,
                "data": {"patch_size": [32, 48]},
                "training": {"steps": 800},
            },
            "reported": {
                "facts": {"hardware": "one core"},
                "overall": {"dice": {"mean": dice}, "hd95": {"mean": 9.0}, "missed": 2},
            },
        }
        (tmp_path / f"runs/{label}_seed0.json").write_text(json.dumps(one))
    text = label_choice.table(tmp_path)
    assert "supervised, 32 x 48, 8 slices a step, 800 steps" in text
    assert "| first | - | 0 | 50.00 | 9.00 | 2 | - |" in text
    assert "| ranked | 002 | 0 | 61.25 | 9.00 | 2 | 40.0 |" in text
    assert "random1" not in text
    assert "| -1.00 | 1.00 | -1.00 |" in text
    assert "mean is 65.0 %" in text


def test_the_committed_table_is_that_of_its_results():
    folder = RESULTS / "label_choice"
    assert (folder / "table.md").read_text() == label_choice.table(folder)
