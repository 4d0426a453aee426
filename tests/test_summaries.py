"""What a report writes, read back."""

import csv
import io
import json
import pathlib

import numpy as np
import pytest
from matplotlib import image as mpimg
from matplotlib.figure import Figure
from rich.console import Console

from cifp_jax.data.sources import Case
from cifp_jax.evaluation.calibration import reliability
from cifp_jax.evaluation.evaluate import Evaluation, Row
from cifp_jax.evaluation.metrics import Score
from cifp_jax.reports import pictures, summaries

EVALUATION = Evaluation(
    (
        Row("a", Score(1, 80.0, 70.0, 3.0, 1.0, False), 2.0),
        Row("a", Score(2, 60.0, 50.0, 5.0, 2.0, False), 2.0),
        Row("b", Score(1, 90.0, 80.0, 1.0, 0.5, False), 4.0),
        Row("b", Score(2, 0.0, 0.0, 99.0, 99.0, True), 4.0),
    ),
    empty="diagonal",
    largest_component=True,
    # One voxel, 0.75 sure of what is right.
    reliability=reliability(np.array([[0.25, 0.75]]), np.array([1])),
)
FACTS = {"list": "test", "checkpoint": "last", "step": 700, "weights": "ema", "reported": True}


def test_csv_and_json(tmp_path: pathlib.Path):
    folder = tmp_path / "last" / "test"
    returned = summaries.write_evaluation(EVALUATION, folder, facts=FACTS)
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
    assert summary == returned
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
    assert (facts["empty"], facts["largest_component"]) == ("diagonal", True)
    assert FACTS.items() <= facts.items()
    assert sorted(p.name for p in folder.iterdir()) == ["cases.csv", "summary.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: pathlib.Path):
    path = tmp_path / "summary.json"
    summaries.write_json(path, {"dice": 1})
    with pytest.raises(TypeError):
        summaries.write_json(path, {"dice": object()})
    assert json.loads(path.read_text()) == {"dice": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_picture_that_breaks_off_leaves_nothing(tmp_path: pathlib.Path, monkeypatch):
    def break_off(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    records = case_of("a")
    with pytest.raises(OSError, match="disk full"):
        pictures.draw_overlays(
            predict, [Case("a", tmp_path / "a.h5")], lambda case: records[case.name], tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_new_figures_remove_the_pictures_of_the_old_ones(tmp_path: pathlib.Path):
    (tmp_path / "a.png").write_bytes(b"of another checkpoint")
    summaries.write_evaluation(EVALUATION, tmp_path, facts=FACTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.csv", "summary.json"]


def printed(draw, *args):
    console = Console(file=io.StringIO(), width=120)
    draw(console, *args)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_show_the_figures():
    summary = summaries.summarise(EVALUATION, FACTS)
    text = printed(summaries.print_table, {"last/test": summary}, "cifp")
    for expected in ("cifp", "last/test (reported)", "700", "57.50 ± 12.50", "85.00 ± 5.00"):
        assert expected in text
    text = printed(summaries.print_comparison, {"supervised": summary, "cifp": summary})
    assert text.count("57.50 ± 12.50") == 2
    assert "2 test cases" in text


def test_normalized_entropy():
    p = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(summary.normalized_entropy(p), [0, 1, 0.5], atol=1e-9)


def test_slices_worth_a_look():
    label, prediction = np.zeros((2, 6, 4, 4), int)
    uncertainty = np.zeros((6, 4, 4))
    label[4] = prediction[4] = 1  # largest foreground
    uncertainty[4], uncertainty[1] = 1, 0.5  # slice 4 is taken already
    prediction[2, 0] = 1  # most errors
    assert pictures.choose_slices(label, prediction, uncertainty) == [1, 2, 4]
    assert pictures.choose_slices(label[:2], prediction[:2], uncertainty[:2]) == [0, 1]


def case_of(name, shape=(5, 24, 20)):
    label = np.zeros(shape, np.uint8)
    label[1:4, 5:12, 5:12] = 1
    label[1:4, 14:18, 5:12] = 2
    image = label + np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return {name: {"image": image.astype(np.float32), "label": label}}


def predict(image):
    logits = np.stack([np.zeros_like(image), image - 0.5, 2 * image - 2.5], axis=-1)
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def drawn(path):
    """A picture that holds something: more than one colour."""
    pixels = mpimg.imread(path)
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50
    return pixels.shape


def test_overlays(tmp_path: pathlib.Path, monkeypatch):
    choose, shapes = pictures.choose_slices, []

    def recorded(label, *others):
        shapes.append(label.shape)
        return choose(label, *others)

    monkeypatch.setattr(summary, "choose_slices", recorded)
    # Slices first, as ACDC has them, and last, as LA has them.
    records = case_of("acdc") | case_of("la", (24, 20, 5))
    cases = [Case(name, pathlib.Path(f"{name}.h5")) for name in records]
    read = lambda case: records[case.name]  # noqa: E731
    pictures.draw_overlays(predict, cases, read, tmp_path / "overlays")
    assert sorted(p.name for p in (tmp_path / "overlays").iterdir()) == ["acdc.png", "la.png"]
    assert shapes == [(5, 24, 20), (5, 24, 20)]
    height, width, _ = drawn(tmp_path / "overlays" / "acdc.png")
    assert height > width  # three slices, one below the other
    drawn(tmp_path / "overlays" / "la.png")


def test_comparison(tmp_path: pathlib.Path):
    records = case_of("acdc") | case_of("la", (24, 20, 5))
    cases = [Case(name, pathlib.Path(f"{name}.h5")) for name in records]
    read = lambda case: records[case.name]  # noqa: E731
    methods = {"supervised": predict, "cifp": predict}
    pictures.draw_comparison(methods, cases, read, tmp_path / "comparison.png")
    height, width, _ = drawn(tmp_path / "comparison.png")
    assert width > height  # five columns, two rows


def test_a_class_that_is_nowhere_or_everywhere_can_be_drawn(tmp_path: pathlib.Path):
    record = {"image": np.ones((2, 8, 8), np.float32), "label": np.ones((2, 8, 8), np.uint8)}
    sure = np.eye(2, dtype=np.float32)[np.zeros((2, 8, 8), int)]
    case = Case("flat$_$", pathlib.Path("flat.h5"))  # no mathematics
    pictures.draw_overlays(lambda _: sure, [case], lambda _: record, tmp_path)
    assert (tmp_path / "flat$_$.png").is_file()
