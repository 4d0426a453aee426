"""Tables of the documents are those of the committed figures."""

import json
import pathlib
import re

import pytest

from experiments import (
    comparison_tables,
    figures,
    first_form_tables,
    result_tables,
    seed_groups,
    speed_tables,
)
from experiments.collect import load
from tests.support.runs import result, write_results


@pytest.fixture(scope="module")
def pages():
    return figures.pages()


@pytest.mark.parametrize("name", figures.PAGES)
def test_the_tables_of_a_page_are_up_to_date(pages, name):
    page = pathlib.Path(name)
    assert page.read_text(encoding="utf-8") == pages[page], (
        f"{name} differs from the committed figures: run `python -m experiments.figures`."
    )


def test_every_marked_page_is_kept_up_to_date_and_every_table_stands_somewhere():
    marked: dict[str, set[str]] = {}
    for page in pathlib.Path().rglob("*.md"):
        if page.parts[0] not in (".venv", "runs", "data"):
            names = re.findall(r"^<!-- table: (\S+) -->$", page.read_text("utf-8"), re.MULTILINE)
            if names:
                marked[page.as_posix()] = set(names)
    assert set(marked) == set(figures.PAGES)
    assert set().union(*marked.values()) == set(figures.TABLES)


def test_a_digit_changed_by_hand_is_put_right():
    page = (first_form_tables.FIRST / "README.md").read_text(encoding="utf-8")
    assert page.count("| 78.06 | 65.38 |") == 1
    edited = page.replace("| 78.06 | 65.38 |", "| 88.06 | 65.38 |")
    assert figures.fill(edited) == page != edited
    # What stands outside of the markers is left as it is.
    assert figures.fill("78.06\n<!-- end -->") == "78.06\n<!-- end -->"
    with pytest.raises(ValueError, match="no table 'acdcc'; known: acdc, acdc_cpu, la_cpu, "):
        figures.fill("<!-- table: acdcc -->\n<!-- end -->")


def test_a_table_of_results_by_hand(monkeypatch, tmp_path):
    """Means over seeds of the files, and the difference on the seed that both rows have."""
    write_results(
        tmp_path / "acdc_cpu",
        a=result(80.004, 0, label="supervised"),
        b=result(81.0, 0),
        c=result(83.0, 1),
        d=result(50.0, 0, labeled=3),
        e=result(99.0, 0, label="bcp"),
        f=result(85.0, 0, label="supervised, longer", side=160),
        g=result(84.0, 0, label="cifp, longer"),
    )
    monkeypatch.setattr(result_tables, "RESULTS", tmp_path)
    # Mean 82, sample standard deviation sqrt 2; an hour and two hours.
    assert result_tables.main_table("acdc_cpu", 7).splitlines() == [
        "| labelled | | Dice % | Jaccard % | 95HD | ASD | missed | Dice minus supervised's (seeds) "
        "| checkpoint | steps | time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| 7 | supervised only, 112 x 112 | 80.00 | 70.00 | 3.00 | 1.00 | 2 | reference "
        "| best at 200 | 300 | 60 min |",
        "| 7 | CIFP, 112 x 112 | 82.00 ± 1.41 | 70.00 ± 0.00 | 3.00 ± 0.00 | 1.00 ± 0.00 | 2 "
        "| +1.00 (1) | best at 200 | 300 | 90 min |",
        "| 7 | supervised only, then 160 x 160 | 85.00 | 70.00 | 3.00 | 1.00 | 2 | reference "
        "| best at 200 | 300 | 60 min |",
        "| 7 | CIFP, then 160 x 160 | 84.00 | 70.00 | 3.00 | 1.00 | 2 | -1.00 (1) "
        "| best at 200 | 300 | 60 min |",
    ]


def test_the_table_of_an_ablation_by_hand(monkeypatch, tmp_path):
    """Differences are of equal seeds, at the last and at the best checkpoint."""

    def both(last, best, seed, label):
        rules = {"last/validation": last, "best/validation": best}
        figures = {name: {"dice": {"mean": dice}} for name, dice in rules.items()}
        return result(best, seed, label=label) | {"checkpoints": figures}

    write_results(
        tmp_path / "ablation_cpu",
        a=both(80.0, 81.0, 0, "default"),
        b=both(82.0, 83.0, 1, "default"),
        c=both(79.0, 81.0, 0, "gamma=0"),
        d=both(79.0, 80.0, 1, "gamma=0"),
    )
    monkeypatch.setattr(comparison_tables, "RESULTS", tmp_path)
    assert comparison_tables.ablation("ablation_cpu", 7).splitlines()[2:] == [
        "| default | 0, 1 | 81.00 ± 1.41 | reference | 82.00 ± 1.41 | reference |",
        "| gamma=0 | 0, 1 | 79.00 ± 0.00 | -2.00 ± 1.41 | 80.50 ± 0.71 | -1.50 ± 2.12 |",
    ]

    # From networks of the runs' own seeds, supervised training beside CIFP.
    for seed, (network, alone, cifp) in {0: (70.0, 71.0, 75.0), 1: (72.0, 73.0, 74.0)}.items():
        write_results(
            tmp_path / "own",
            **{
                f"acdc3_network_seed{seed}": both(network, network + 1, seed, "supervised"),
                f"acdc3_supervised_alone_seed{seed}": both(alone, alone, seed, "supervised alone"),
                f"acdc3_default_seed{seed}": both(cifp, cifp + 2, seed, "default"),
            },
        )
    starts = {seed: (f"own/acdc3_network_seed{seed}", "own") for seed in (0, 1)}
    monkeypatch.setattr(comparison_tables, "NETWORKS", {3: starts})
    assert comparison_tables.own_networks().splitlines()[2:] == [
        "| 3 | 0 | 70.00 (71.00) | 71.00 (71.00) | 75.00 (77.00) | +4.00 (+6.00) |",
        "| 3 | 1 | 72.00 (73.00) | 73.00 (73.00) | 74.00 (76.00) | +1.00 (+3.00) |",
        "| 3 | mean | | | | +2.50 ± 2.12 (+4.50 ± 2.12) |",
    ]

    # Another form is compared with its own switches and with supervised training.
    write_results(
        tmp_path / "ablation_cpu",
        e=both(78.0, 78.0, 0, "criterion=ce_dice"),
        f=both(77.0, 77.5, 0, "criterion=ce_dice, gamma=0"),
        g=both(76.0, 76.0, 0, "supervised alone"),
    )
    rows = comparison_tables.ablation("ablation_cpu", 7, "criterion=ce_dice").splitlines()[2:]
    assert sorted(rows) == [
        "| criterion=ce_dice | 0 | 78.00 | reference | 78.00 | reference |",
        "| criterion=ce_dice, gamma=0 | 0 | 77.00 | -1.00 | 77.50 | -0.50 |",
        "| supervised alone | 0 | 76.00 | -2.00 | 76.00 | -2.00 |",
    ]
    labels = [
        line.split(" | ")[0] for line in comparison_tables.ablation("ablation_cpu", 7).splitlines()
    ]
    assert sorted(labels[2:]) == [
        "| criterion=ce_dice",
        "| default",
        "| gamma=0",
        "| supervised alone",
    ]


def test_the_table_of_ratios_by_hand(monkeypatch, tmp_path):
    """Of the newest measurements, by kind of CPU."""

    def row(work, ratio, ours, other):
        sides = {"cifp_jax": {"seconds": ours}, "pytorch": {"seconds": other}}
        return {"work": work, "ratio": ratio, **sides}

    files = {
        "step_avx512": [row("x", 0.75, [1.0, 3.0], [2.0, 4.0]), row("y", 0.4, [2.0], [5.0])],
        "step_avx2": [row("x", 1.0, [1.0], [1.0])],
        "step_amx": [row("y", 1.5, [3.0], [2.0])],
        "inference_avx512": [row("z", 0.8, [4.0], [5.0])],
        "inference_avx2": [row("z", 0.5, [3.0], [6.0])],
        "evaluation_avx512": [row("20 scans", 0.5, [4.0], [8.0])],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(speed_tables, "SPEED", tmp_path)
    assert speed_tables.now().splitlines()[2:] == [
        "| x | 0.75 (0.50 to 0.75) | 1.00 (1.00) | |",
        "| y | 0.40 (0.40) | | 1.50 (1.50) |",
        "| z | 0.80 (0.80) | 0.50 (0.50) | |",
        "| 20 scans | 0.50 (0.50) | | |",
    ]


def test_the_sentence_on_speed_is_of_the_newest_measurements(monkeypatch, tmp_path):
    works = ("V-Net supervised, x", "U-Net supervised, x", "V-Net CIFP, y", "U-Net CIFP, y")
    files = {
        "step_avx512": dict(zip(works, (0.8, 0.7, 0.3, 0.4), strict=True)),
        "inference_avx512": {"V-Net, 200x2": 0.5, "U-Net, 10x2": 0.6},
        "evaluation_avx512": {"20 scans of LA": 0.55},
        "step_avx2": dict(zip(works, (0.81, 0.71, 0.31, 0.41), strict=True)),
        "inference_avx2": {"V-Net, 200x2": 0.51, "U-Net, 10x2": 0.61},
        "step_amx": {"V-Net supervised, x": 1.2, "U-Net CIFP, y": 0.45},
    }
    for name, found in files.items():
        rows = [{"work": work, "ratio": ratio} for work, ratio in found.items()]
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(speed_tables, "SPEED", tmp_path)
    words = " ".join(speed_tables.speed().split())
    for part in (
        "takes 0.80 and 0.81 (V-Net), 0.70 and 0.71 (U-Net)",
        "a step of CIFP 0.30 and 0.31, 0.40 and 0.41",
        "prediction 0.50 and 0.51, 0.60 and 0.61",
        "LA's scans 0.55.",
        "steps took 0.45 to 1.20",
    ):
        assert part in words
    assert speed_tables.between(0.6, 1.1) == "0.60 to 1.10"
    assert speed_tables.between(0.671, 0.674) == "0.67"


def test_recorded_figures_say_when_and_on_what_they_were_measured():
    for folder in (seed_groups.RESULTS, first_form_tables.FIRST, speed_tables.SPEED):
        content = load(folder / "recorded.json")
        assert content["note"]
        for name, one in content["tables"].items():
            assert one["what"], name
            assert one["date"], name
            assert one["hardware"] or name == "carried"
            assert all(len(row) == len(one["columns"]) for row in one["rows"]), name
