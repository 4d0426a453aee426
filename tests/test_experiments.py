"""Tables of runs: what is run, what is kept of it, and what is made of that."""

import fcntl
import importlib
import json
import pathlib

import pytest
from flax.traverse_util import flatten_dict

from cifp_jax.training import checks
from experiments import collect, planned_runs, published, report, run, seed_groups
from experiments.stop import Stop
from tests.support.runs import CONFIG, result, scripted, write_results, write_run

# Patches of the first form's folders, by data and scale of that day.
FIRST_FORM = {
    "ablation_small": (64, 64),
    "acdc_small": (64, 64),
    "acdc_laptop": (96, 96),
    "la_laptop": (48, 48, 32),
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
        checks.check_config(config)
        # A setting of another method would change nothing.
        given = {k.split(".")[1] for k in cell.settings if k.startswith("methods.")}
        assert given <= {config.method.name}, cell.name


def test_the_tables_hold_every_method_and_the_protocols_numbers():
    from cifp_jax.methods import METHODS

    assert set(planned_runs.METHODS) == set(METHODS)
    assert {c.label for c in planned_runs.cells("smoke", "full", (0,))} == set(METHODS)
    first = [c.name for c in planned_runs.cells("acdc", "full", (0, 1))[:3]]
    assert first == ["acdc7_cifp_seed0", "acdc3_cifp_seed0", "acdc7_supervised_seed0"]
    acdc = importlib.import_module("configs.acdc").get_config()
    defaults = flatten_dict(acdc.to_dict(), sep=".")
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
    started = CONFIG | {"training": {"steps": 300, "init_from": "/somewhere/base"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(started))
    kept = collect.collect(tmp_path / "run")
    assert kept["config"]["training"]["init_from"] == "base"
    assert "somewhere" not in json.dumps(kept)
    with pytest.raises(FileNotFoundError, match="no evaluation"):
        collect.collect(tmp_path)


def test_figures_of_other_networks_and_of_earlier_steps_are_not_a_runs(tmp_path):
    evaluation = tmp_path / "run/evaluation"
    write_run(tmp_path / "run")
    own = collect.collect(tmp_path / "run")
    summary = json.loads((evaluation / "best/validation/summary.json").read_text())
    for folder, changes in (
        ("weights/test", {"checkpoint": "a.safetensors", "step": None, "list": "test"}),
        ("best/test", {"step": summary["facts"]["step"] - 100, "list": "test"}),
    ):
        (evaluation / folder).mkdir(parents=True)
        other = summary | {"facts": summary["facts"] | changes}
        (evaluation / folder / "summary.json").write_text(json.dumps(other))
    assert collect.collect(tmp_path / "run") == own


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
        with pytest.raises(BlockingIOError, match="in use by another `experiments"):
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
    write_results(
        tmp_path,
        a=result(80.0, 0),
        b=result(82.0, 1),
        c=result(84.0, 2),
        d=result(83.0, 0, label="supervised"),
        e=result(50.0, 0, labeled=3),
    )
    report.main([str(tmp_path)])
    text = (tmp_path / "table.md").read_text()
    assert text.index("## acdc, 3 labelled") < text.index("## acdc, 7 labelled")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    # Mean 82, sample standard deviation 2; with the same seed 80 against 83; two hours on average.
    want = "| cifp | 82.00 ± 2.00 | 70.00 ± 0.00 | 3.00 ± 0.00 | 1.00 ± 0.00 | 2 | -3.00 (1) |"
    found = next(line for line in rows if line.startswith("| cifp | 82"))
    assert found.startswith(want)
    assert found.endswith("| 0, 1, 2 | best at 200 | 300 | 2 CPU cores | 120 min |")
    # The better one first, then what is quoted.
    place = rows.index(found)
    order = [line.split(" | ")[0] for line in rows[place - 1 : place + 3]]
    assert order == ["| supervised", "| cifp", "| quoted", "| supervised only"]
    quoted = next(line for line in rows if line.startswith("| OPMatch | 90.50"))
    assert quoted.startswith(
        "| OPMatch | 90.50 | 83.42 | 1.24 | 0.31 | chosen on validation and test"
    )
    assert quoted.endswith(f"| {published.CODE} |")
    assert {p.name for p in tmp_path.glob("*.png")} == {"labels.png", "curves.png", "bars.png"}


def test_methods_are_ranked_on_the_seeds_that_they_share(tmp_path):
    """By hand: `many` has the higher mean of all its seeds, `once` the better run of seed 0."""
    write_results(
        tmp_path,
        a=result(60.0, 0, label="supervised"),
        b=result(70.0, 1, label="supervised"),
        c=result(61.0, 0, label="many"),
        d=result(74.0, 1, label="many"),
        e=result(64.0, 0, label="once"),
        f=result(99.0, 5, label="alone"),
    )
    groups = {one.label: one for one in seed_groups.group(seed_groups.read(tmp_path))}
    assert list(groups) == ["once", "many", "supervised", "alone"]
    base = seed_groups.reference(list(groups.values()))
    assert base.label == "supervised"
    assert seed_groups.differences(groups["many"], base) == [1.0, 4.0]
    assert seed_groups.paired(groups["many"], base) == "+2.50 ± 2.12 (2)"  # 3 / sqrt 2
    assert seed_groups.paired(groups["once"], base) == "+4.00 (1)"
    assert seed_groups.paired(groups["alone"], base) == "no shared seed"
    assert seed_groups.paired(base, base) == "reference"


def test_two_runs_of_one_label_and_seed_are_refused(tmp_path):
    write_results(tmp_path, a=result(60.0, 0), b=result(61.0, 0))
    with pytest.raises(SystemExit, match="both 'cifp' with seed 0: give one of them a `label`"):
        report.main([str(tmp_path)])


def test_a_table_borrows_the_seeds_that_it_lacks(tmp_path):
    write_results(
        tmp_path / "ablation_small", a=result(60.0, 0, label="default"), b=result(1.0, 0, "none")
    )
    write_results(
        tmp_path / "acdc_small", a=result(50.0, 0), b=result(62.0, 1), c=result(9.0, 1, "bcp")
    )
    results = seed_groups.read(tmp_path / "ablation_small")
    assert set(results) == {"a", "b", "acdc_small/b"}
    groups = {one.label: one for one in seed_groups.group(results)}
    assert groups["default"].values("dice") == [60.0, 62.0]
    assert "Runs kept elsewhere: acdc_small/b." in report.table(results)


def test_what_is_borrowed_has_the_settings_of_the_table_and_its_figures():
    """The ablation's default was run once as such: it is the method of the other table."""
    folder = seed_groups.RESULTS / "first_form/ablation_small"
    own = json.loads((folder / "acdc7_default_seed0.json").read_text())
    other = json.loads((folder.parent / "acdc_small/acdc7_cifp_seed0.json").read_text())
    assert own["config"] == other["config"]
    assert own["reported"]["overall"] == other["reported"]["overall"]


def test_result_folders_say_the_variant_that_they_hold():
    for folder in seed_groups.folders():
        name, variant = folder.name.split("_")[:2]
        configs = {name: one["config"] for name, one in collect.read_results(folder).items()}
        if folder.parent.name == "first_form":
            wanted = FIRST_FORM[f"{name}_{variant}"]
            sizes = {tuple(one["data"]["patch_size"]) for one in configs.values()}
            assert sizes == {wanted}, folder.name
            continue
        module = importlib.import_module(f"configs.{'acdc' if name == 'ablation' else name}")
        config = module.get_config(variant)
        for run_name, one in configs.items():
            # A longer run goes on from another's network, and may do so on a finer grid; whole
            # slices are larger at the same resolution.
            if not run_name.endswith("_longer") and "whole_slices" not in run_name:
                assert tuple(one["data"]["patch_size"]) == config.data.patch_size, folder.name
            assert one["augmentation"]["name"] == config.augmentation.name, folder.name
    cell = planned_runs.cells("ablation", "cpu", (0,))[0]
    assert run.folder_name(cell, "ablation") == "ablation_cpu"
    cells = planned_runs.cells("protocol", "cpu", (0,))
    names = {run.folder_name(cell, "protocol") for cell in cells}
    assert names == {"acdc_cpu", "la_cpu"}


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(SystemExit, match="holds no result"):
        report.main([str(tmp_path)])


def test_published_figures_are_percentages_and_distances_with_their_source():
    for methods in published.PUBLISHED.values():
        for row in methods.values():
            assert len(row.figures) in (1, 4)
            assert 40 < row.figures[0] < 95
            assert all(f < 10 for f in row.figures[2:])
            assert row.source
            assert row.checkpoint
    # Read in their code: whose checkpoint the test set chose, and whose it did not.
    assert published.PUBLISHED["la", 8]["AD-MT"].checkpoint == published.BEST_ON_TEST
    assert published.PUBLISHED["la", 8]["CrossMatch"].checkpoint == published.LAST
    assert published.PUBLISHED["acdc", 7]["OPMatch"].checkpoint == published.VALIDATION


def test_every_committed_table_is_that_of_its_results():
    folders = seed_groups.folders()
    assert {"acdc_small", "ablation_small"} <= {folder.name for folder in folders}
    for folder in folders:
        expected = report.table(seed_groups.read(folder))
        assert (folder / "table.md").read_text() == expected, (
            f"{folder}/table.md is older than its results: run `python -m experiments.report`."
        )
