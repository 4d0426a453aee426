"""Tables in short stretches: cells stop in good time and go on, folders travel in pieces."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cifp_jax.reports.summaries import PROTOCOL
from experiments import collect, planned_runs, run, stop
from tests.support.runs import write_run

ROOT = pathlib.Path(__file__).parents[1]

# A run of two stretches: asked to stop, it saves; with what was saved, it ends at once.
SCRIPT = """
import pathlib, shutil, signal, sys, time
folder, what, made = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def save(number, frame):
    if what != "deaf":
        (folder / "saved").touch()
        sys.exit(0)
signal.signal(signal.SIGTERM, save)
if what == "bare":
    shutil.copy(pathlib.Path(made) / "config.json", folder)
    (folder / "checkpoints" / "300").mkdir(parents=True)
elif what == "quick" or what == "bare_test" or (folder / "saved").exists():
    shutil.copytree(made, folder, dirs_exist_ok=True)
else:
    (folder / "ready").touch()
    time.sleep(60)
"""


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Cells run `SCRIPT`, in stretches of seconds."""
    write_run(tmp_path / "made")
    monkeypatch.setattr(
        run,
        "command",
        lambda cell, folder: [sys.executable, "-c", SCRIPT, folder, cell.label, tmp_path / "made"],
    )
    monkeypatch.setattr(stop, "SAVING", 0.5)
    monkeypatch.setattr(stop, "LEAST", 0.5)
    return tmp_path


def cells(*labels: str) -> list[planned_runs.Cell]:
    return [planned_runs.Cell(label, label, "", {}) for label in labels]


def stretch(
    folder: pathlib.Path, minutes: float | None, *labels: str, jobs: int = 1
) -> dict[str, str]:
    with stop.stoppable(minutes) as ending:
        places = folder / "runs", folder / "results"
        return run.run_table(cells(*labels), *places, environment={}, stop=ending, jobs=jobs)


def status(folder: pathlib.Path, name: str) -> dict:
    return json.loads((folder / "runs" / name / "status.json").read_text())


def test_the_end_of_the_time_stops_a_cell_that_goes_on_later(made):
    outcome = stretch(made, 3 / 60, "quick", "long", "next")
    assert outcome == {"quick": "done", "long": "stopped", "next": "waiting"}
    first = status(made, "long")
    assert (first["status"], first["exit"]) == ("stopped", 0)
    assert 0.5 < first["seconds"] < 3
    assert not (made / "runs" / "next").exists()
    # Results of stretches before are no longer cells.
    outcome = stretch(made, 10 / 60, "quick", "long")
    assert outcome == {"long": "done"}
    kept = collect.read_results(made / "results")
    assert kept["long"]["seconds"] > first["seconds"]
    assert kept["long"]["reported"]["facts"]["hardware"] == "2 CPU cores"


def test_a_cell_that_does_not_end_in_time_is_killed(made):
    assert stretch(made, 2.5 / 60, "deaf") == {"deaf": "stopped"}
    assert status(made, "deaf")["exit"] == -signal.SIGKILL
    assert status(made, "deaf")["seconds"] < 5


def test_a_signal_stops_the_cell_and_those_after_it(made):
    def interrupt() -> None:
        while not (made / "runs" / "long" / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert stretch(made, None, "long", "next") == {"long": "stopped", "next": "waiting"}
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_reaches_both_of_two_cells_at_once(made):
    def interrupt() -> None:
        while not all((made / "runs" / n / "ready").exists() for n in ("long", "long2")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = stretch(made, None, "long", "long2", "next", jobs=2)
    assert outcome == {"long": "stopped", "long2": "stopped", "next": "waiting"}
    thread.join()


def test_a_cell_that_starts_beside_the_signal_is_stopped_too():
    ending = stop.Stop()
    ending(signal.SIGTERM, None)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert ending.wait(child) == -signal.SIGTERM


def test_too_short_a_time_is_refused(capsys):
    with pytest.raises(SystemExit, match="--minutes=2 is too short: give at least 3"):
        run.main(["--table=protocol", "--minutes=2"])
    assert capsys.readouterr().out == ""


def test_a_run_without_anything_to_score_is_trained_once(made, monkeypatch):
    assert stretch(made, None, "bare") == {"bare": "trained"}
    log = made / "runs" / "bare" / "log.txt"
    log.unlink()
    assert stretch(made, None, "bare") == {"bare": "trained"}
    assert not log.exists()
    # With a list of test cases it is started once more, to be scored.
    cell = planned_runs.Cell("bare", "bare_test", "", {"data.test_list": "test.list"})
    places = made / "runs", made / "results"
    outcome = run.run_table([cell], *places, environment={}, stop=stop.Stop())
    assert outcome == {"bare": "done"}


def test_test_cases_are_scored_where_their_list_is(tmp_path):
    (tmp_path / "LA").mkdir()
    (tmp_path / "LA" / "test.list").touch()
    chosen = run.choose("protocol", "full", (0,), "acdc7_cifp,la8_cifp", tmp_path)
    assert [c.settings.get("data.test_list") for c in chosen] == [None, "test.list"]
    assert [c.settings["data.root"].name for c in chosen] == ["ACDC", "LA"]


def test_the_protocol_in_its_order():
    names = [cell.name for cell in planned_runs.cells("protocol", "full", (0, 1))]
    assert names[:7] == [
        *("acdc7_cifp_seed0", "acdc3_cifp_seed0"),
        *("la8_cifp_seed0", "la4_cifp_seed0", "la16_cifp_seed0"),
        *("acdc7_supervised_seed0", "acdc3_supervised_seed0"),
    ]
    assert names[14:16] == ["la16_unimatch_seed0", "acdc7_cifp_seed1"]
    # The same cells as in the tables of one data set, not copies.
    both = {c for t in ("acdc", "la") for c in names_and_settings(t)}
    assert set(names_and_settings("protocol")) < both


def names_and_settings(table: str) -> list[str]:
    return [repr(cell) for cell in planned_runs.cells(table, "full", (0, 1))]


def test_the_protocols_results_stand_in_the_tables_of_their_data(made, monkeypatch, capsys):
    monkeypatch.setattr(run, "RESULTS", made / "results")
    monkeypatch.setattr(planned_runs, "METHODS", ("quick", "deaf", "long"))
    flags = ["--table=protocol", "--budget=full", f"--runs={made / 'runs'}", f"--data={made}"]
    run.main([*flags, "--only=quick", "--minutes=1"])
    found = sorted(str(p.relative_to(made)) for p in made.glob("results/*/*.json"))
    assert found == [
        *(f"results/acdc_full/acdc{n}_quick_seed0.json" for n in (3, 7)),
        *(f"results/la_full/la{n}_quick_seed0.json" for n in (16, 4, 8)),
    ]
    assert "left" not in capsys.readouterr().out
    run.main([*flags, "--only=quick,acdc3_long,la4_long", f"--minutes={2.5 / 60}"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "2 left, the same command goes on: acdc3_long_seed0, la4_long_seed0"


def test_a_result_of_another_protocol_stops_the_table(made):
    stretch(made, None, "quick")
    path = made / "results" / "quick.json"
    path.write_text(path.read_text().replace(PROTOCOL, "cifp-jax-0"))
    with pytest.raises(ValueError, match=r"quick.json is of protocol 'cifp-jax-0'"):
        stretch(made, None, "long")
    assert not (made / "runs" / "long").exists()


def pieces(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    script = ["bash", ROOT / "experiments" / "pieces.sh", *arguments]
    return subprocess.run(script, cwd=folder, capture_output=True, text=True, check=False)


def test_a_folder_travels_in_pieces(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "runs" / "a b").mkdir(parents=True)
    there.mkdir()
    bytes_ = np.random.default_rng(0).bytes(250_000)
    (here / "runs" / "a b" / "state").write_bytes(bytes_)
    (here / "note").write_text("first")
    out = tmp_path / "out"
    assert pieces(here, "pack", str(out), "100K", "runs", "note").returncode == 0
    sizes = [p.stat().st_size for p in sorted(out.glob("piece.*"))]
    assert sizes[:2] == [102_400, 102_400]
    assert len(sizes) == 3
    for _ in range(2):
        assert pieces(there, "unpack", str(out)).returncode == 0
        assert (there / "runs" / "a b" / "state").read_bytes() == bytes_
        assert (there / "note").read_text() == "first"
    # A smaller archive leaves no piece of the larger one.
    assert pieces(here, "pack", str(out), "100K", "note").returncode == 0
    assert sorted(p.name for p in out.iterdir()) == ["SHA256SUMS", "piece.aa"]


def test_pieces_that_are_not_whole_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes(300_000))
    assert pieces(tmp_path, "pack", "out", "100K", "a").returncode == 0
    (tmp_path / "a").unlink()
    piece = tmp_path / "out" / "piece.ab"
    piece.write_bytes(b"x" + piece.read_bytes()[1:])
    wrong = {"damaged": "out: a piece is missing or damaged", "gone": "out: a piece is missing"}
    for answer in wrong.values():
        result = pieces(tmp_path, "unpack", "out")
        assert result.returncode == 1
        assert answer in result.stderr
        assert not (tmp_path / "a").exists()
        piece.unlink(missing_ok=True)
    (tmp_path / "out" / "SHA256SUMS").unlink()
    assert "the archive is not whole" in pieces(tmp_path, "unpack", "out").stderr
    assert "b is missing" in pieces(tmp_path, "pack", "other", "1M", "b").stderr
    assert "give pack OUT SIZE PATH" in pieces(tmp_path, "pack", "out").stderr
