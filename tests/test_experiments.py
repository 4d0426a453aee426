"""Tables of runs: what is run, what is kept of it, and what is made of that."""

import fcntl
import importlib
import json
import pathlib

import pytest
from flax.traverse_util import flatten_dict

from cifp_jax.config import default_config
from cifp_jax.reports.summaries import PROTOCOL
from cifp_jax.training import build
from experiments import collect, planned_runs, published, report, run
from experiments.stop import Stop
from tests.support.runs import CONFIG, FACTS, OVERALL, scripted, write_run


def result(dice: float, seed: int, label: str = "cifp", labeled: int = 7) -> dict:
    overall = OVERALL | {"dice": {"mean": dice, "std": 1.0}}
    return {
        "protocol": PROTOCOL,
        "label": label,
        "seconds": 3600.0 * (seed + 1),
        "config": CONFIG | {"data": {"name": "acdc", "labeled": labeled}},
        "reported": {"facts": FACTS | {"seed": seed}, "overall": overall},
        "checkpoints": {},
        "curve": {"step": [100, 200], "dice": [50.0, dice]},
    }


@pytest.mark.parametrize("table", planned_runs.TABLES)
@pytest.mark.parametrize("budget", planned_runs.BUDGETS)
def test_every_cell_is_a_configuration_that_can_run(table, budget):
    cells = planned_runs.cells(table, budget, (0, 1))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for cell in cells:
        file, variant = cell.config.split(":")
        module = importlib.import_module(f"configs.{pathlib.Path(file).stem}")
        config = module.get_config(variant)
        config.lock()
        config.update_from_flattened_dict(cell.settings)
        config.parallel = "none"
        build.check_config(config)
        # A setting of another method would change nothing.
        given = {k.split(".")[1] for k in cell.settings if k.startswith("methods.")}
        assert given <= {config.method.name}, cell.name


def test_the_tables_hold_every_method_and_the_protocols_numbers():
    from cifp_jax.methods import METHODS

    assert set(planned_runs.METHODS) == set(METHODS)
    assert {c.label for c in planned_runs.cells("smoke", "full", (0,))} == set(METHODS)
    first = [c.name for c in planned_runs.cells("acdc", "full", (0, 1))[:3]]
    assert first == ["acdc7_cifp_seed0", "acdc3_cifp_seed0", "acdc7_supervised_seed0"]
    defaults = flatten_dict(default_config().to_dict(), sep=".")
    for label, settings in planned_runs.ABLATIONS.items():
        assert len(settings) == (label != "default")
        for key, value in settings.items():
            assert value != defaults[key], label


def test_a_run_becomes_one_result_without_paths(tmp_path):
    write_run(tmp_path / "run")
    kept = collect.collect(tmp_path / "run", seconds=5.0)
    assert kept["reported"]["facts"]["checkpoint"] == "best"
    assert kept["curve"] == {"step": [200], "dice": [80.0]}
    assert (kept["label"], kept["seconds"]) == ("cifp", 5.0)
    assert set(kept["checkpoints"]) == {"best/validation", "last/validation"}
    assert "somewhere" not in json.dumps(kept)
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        collect.collect(tmp_path)


def test_results_of_another_protocol_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(result(80.0, 0)))
    assert set(collect.read_results(tmp_path)) == {"a"}
    (tmp_path / "b.json").write_text(json.dumps(result(80.0, 0) | {"protocol": "cifp-jax-0"}))
    with pytest.raises(ValueError, match=r"b.json is of protocol 'cifp-jax-0'"):
        collect.read_results(tmp_path)


SCRIPT = """
import pathlib, shutil, sys
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
print("ran", what)
if what == "bad":
    sys.exit(3)
if what == "good" or (folder / "once").exists():
    shutil.copytree(sys.argv[3], folder, dirs_exist_ok=True)
(folder / "once").touch()
"""


def test_cells_run_once_and_a_failing_one_stops_no_other(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "command", scripted(SCRIPT, tmp_path / "made"))
    cells = [planned_runs.Cell(name, name, "", {}) for name in ("bad", "good", "half")]
    runs, results = tmp_path / "runs", tmp_path / "results"
    outcome = run.run_table(cells, runs, results, environment={}, stop=Stop())
    # "half" ends without an evaluation, as a stopped run does.
    assert outcome == {"bad": "failed", "good": "done", "half": "failed"}
    assert json.loads((runs / "bad" / "status.json").read_text())["exit"] == 3
    assert (runs / "bad" / "log.txt").read_text() == "ran bad\n"
    first = json.loads((runs / "half" / "status.json").read_text())["seconds"]
    kept = json.loads((results / "good.json").read_text())
    assert kept["seconds"] > 0
    assert set(collect.read_results(results)) == {"good"}

    outcome = run.run_table(cells, runs, results, environment={}, stop=Stop())
    assert outcome == {"bad": "failed", "half": "done"}
    kept = json.loads((results / "half.json").read_text())
    assert kept["seconds"] > first
    assert (runs / "half" / "log.txt").read_text() == "ran half\nran half\n"


def test_a_folder_in_use_is_left_alone(tmp_path):
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="in use by another"):
            run.run_table([], tmp_path, tmp_path / "results", environment={}, stop=Stop())
    assert run.run_table([], tmp_path, tmp_path / "results", environment={}, stop=Stop()) == {}


def test_cells_are_chosen_by_name():
    cells = run.choose("la", "full", (0,), "cifp,la16_sup", pathlib.Path("data"))
    assert [c.name for c in cells] == [
        *(f"la{n}_cifp_seed0" for n in (8, 4, 16)),
        "la16_supervised_seed0",
    ]
    assert "--config.data.root=data/LA" in run.command(cells[0], pathlib.Path("x"))
    with pytest.raises(ValueError, match="there are: la8_cifp_seed0, "):
        run.choose("la", "full", (0,), "cipf", pathlib.Path("data"))


def test_an_unknown_table_names_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        run.main(["--table=brats"])
    assert "'acdc', 'la', 'protocol', 'ablation', 'smoke'" in capsys.readouterr().err.replace(
        '"', "'"
    )


def test_the_table_by_hand(tmp_path):
    for name, one in {
        "a": result(80.0, 0),
        "b": result(82.0, 1),
        "c": result(84.0, 2),
        "d": result(83.0, 0, label="supervised"),
        "e": result(50.0, 0, labeled=3),
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    report.main([str(tmp_path)])
    text = (tmp_path / "table.md").read_text()
    assert text.index("## acdc, 3 labelled") < text.index("## acdc, 7 labelled")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    # Mean 82, sample standard deviation 2; two hours on average.
    want = "| cifp | 82.00 ± 2.00 | 70.00 ± 0.00 | 3.00 ± 0.00 | 1.00 ± 0.00 | 2 | 0, 1, 2 |"
    found = next(line for line in rows if line.startswith("| cifp | 82"))
    assert found.startswith(want)
    assert found.endswith("| best at 200 | 300 | 2 CPU cores | 2.0 h |")
    # The better one first, then what is quoted.
    order = [line.split(" | ")[0] for line in rows[rows.index(found) - 1 :][:3]]
    assert order == ["| supervised", "| cifp", "| *supervised only, quoted*"]
    assert "| *OPMatch, quoted* | 90.50 | 83.42 | 1.24 | 0.31 |" in text
    assert {p.name for p in tmp_path.glob("*.png")} == {"labels.png", "curves.png", "bars.png"}


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(SystemExit, match="holds no result"):
        report.main([str(tmp_path)])


def test_published_figures_are_percentages_and_distances():
    for methods in published.PUBLISHED.values():
        for figures in methods.values():
            assert len(figures) in (1, 4)
            assert 40 < figures[0] < 95
            assert all(f < 10 for f in figures[2:])


def test_every_committed_result_can_stand_in_a_table():
    folders = {path.parent for path in report.RESULTS.glob("*/*.json")}
    assert len(folders) >= 4
    assert all(report.table(collect.read_results(folder)) for folder in folders)
