"""Summaries and tables of an evaluation given by hand."""

import csv
import io
import json
import pathlib

import numpy as np
from rich.console import Console

from cifp_jax.evaluation.calibration import reliability
from cifp_jax.evaluation.evaluate import Evaluation, Row
from cifp_jax.evaluation.metrics import Score
from cifp_jax.reports import summaries

EVALUATION = Evaluation(
    (
        Row("a", Score(1, 80.0, 70.0, 3.0, 1.0, False), 2.0),
        Row("a", Score(2, 60.0, 50.0, 5.0, 2.0, False), 2.0),
        Row("b", Score(1, 90.0, 80.0, 1.0, 0.5, False), 4.0),
        Row("b", Score(2, 0.0, 0.0, 99.0, 99.0, True), 4.0),
    ),
    empty="diagonal",
    largest_component="class",
    # One voxel, 0.75 sure of what is right.
    reliability=reliability(np.array([[0.25, 0.75]]), np.array([1])),
)
FACTS = {"list": "test", "checkpoint": "last", "step": 700, "weights": "ema", "reported": True}


def test_csv_and_json(tmp_path: pathlib.Path):
    folder = tmp_path / "last" / "test"
    made = summaries.summarize(EVALUATION, FACTS)
    summaries.write_evaluation(EVALUATION, folder, made)
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["class"]) for r in rows] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
    ]
    assert list(rows[0]) == [
        "case", "class", "dice", "jaccard", "hd95", "asd", "missed", "seconds"
    ]  # fmt: skip
    assert float(rows[0]["dice"]) == 80
    assert (rows[3]["missed"], float(rows[3]["hd95"])) == ("1", 99)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == made
    assert summary["classes"]["1"]["dice"] == {"mean": 85, "std": 5}
    assert summary["classes"]["2"]["missed"] == 1
    # Means over classes: 70 and 45.
    assert summary["overall"]["dice"] == {"mean": 57.5, "std": 12.5}
    assert summary["overall"]["missed"] == 1
    assert summary["seconds"] == {"mean": 3, "std": 1}
    assert summary["calibration"]["ece"] == 0.25
    facts = summary["facts"]
    assert facts["protocol"] == summaries.PROTOCOL
    assert facts["cases"] == 2
    assert (facts["empty"], facts["largest_component"]) == ("diagonal", "class")
    assert FACTS.items() <= facts.items()
    assert sorted(p.name for p in folder.iterdir()) == ["cases.csv", "summary.json"]


def test_new_figures_remove_the_pictures_of_the_old_ones(tmp_path: pathlib.Path):
    (tmp_path / "a.png").write_bytes(b"of another checkpoint")
    summaries.write_evaluation(EVALUATION, tmp_path, summaries.summarize(EVALUATION, FACTS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.csv", "summary.json"]


def printed(draw, *args):
    console = Console(file=io.StringIO(), width=120)
    draw(console, *args)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_show_the_figures():
    summary = summaries.summarize(EVALUATION, FACTS)
    text = printed(summaries.print_table, {"last/test": summary}, "cifp")
    for expected in ("cifp", "last/test (reported)", "700", "57.50 ± 12.50", "85.00 ± 5.00"):
        assert expected in text
    text = printed(summaries.print_comparison, {"supervised": summary, "cifp": summary})
    assert text.count("57.50 ± 12.50") == 2
    assert "2 test cases" in text


def test_classes_have_their_names_and_values_in_masks():
    facts = FACTS | {"names": {"0": "background (0)", "1": "rim (2)", "2": "core (255)"}}
    summary = summaries.summarize(EVALUATION, facts)
    rows = printed(summaries.print_table, {"last/test": summary}).splitlines()
    assert ["rim (2)" in row for row in rows if "85.00" in row] == [True]
    assert ["core (255)" in row for row in rows if "30.00 ± 30.00" in row] == [True]
