"""Tables in short stretches: cells stop in good time and go on."""

import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from cifp_jax.reports.summaries import PROTOCOL
from experiments import collect, planned_runs, run, stop
from tests.support.runs import scripted

# Ends as its name says: "long" saves when it is asked to stop, and ends at once when it goes on.
SCRIPT = """
import pathlib, shutil, signal, sys
folder, what, made = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if what == "bare":
    shutil.copy(pathlib.Path(made) / "config.json", folder)
    (folder / "checkpoints" / "300").mkdir(parents=True)
elif what == "quick" or what == "bare_test" or (folder / "saved").exists():
    shutil.copytree(made, folder, dirs_exist_ok=True)
else:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    (folder / "ready").write_text("asks for somebody who reads it")
    signal.sigwait([signal.SIGTERM])
    (folder / "saved").touch()
"""


PAUSE = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Cells run `SCRIPT`."""
    monkeypatch.setattr(run, "command", scripted(SCRIPT, tmp_path / "made"))
    return tmp_path


class Clock:
    """Seconds that pass where the test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Played:
    """A process on a `Clock`: `SCRIPT`'s "quick" and "long", and "deaf", which does not listen.

    To its end it takes 10 seconds, "half" of a stretch of five minutes takes 130; saving takes 5.
    """

    def __init__(self, arguments: list, clock: Clock):
        folder, self.label, self.made = arguments[-3:]
        self.folder, self.clock = pathlib.Path(folder), clock
        self.left, self.code = math.inf, 0
        if self.label == "quick" or (self.folder / "saved").exists():
            self.left = 10.0
        elif self.label == "half":
            self.left = 130.0
        self.finishes = self.left < math.inf

    def wait(self, timeout: float | None = None) -> int:
        passed = min(self.left, math.inf if timeout is None else timeout)
        assert passed < math.inf, "nobody would end this wait"
        self.clock.now += passed
        self.left -= passed
        if self.left:
            raise subprocess.TimeoutExpired(self.label, passed)
        if self.finishes and not self.code:
            shutil.copytree(self.made, self.folder, dirs_exist_ok=True)
        return self.code

    def send_signal(self, number: int) -> None:
        assert number == signal.SIGTERM
        if self.label == "long":
            (self.folder / "saved").touch()
            self.left = 5.0

    def kill(self) -> None:
        self.left, self.code = 0.0, -signal.SIGKILL


@pytest.fixture
def played(made, monkeypatch):
    """Cells are `Played`, so that minutes pass at once and to the second."""
    clock = Clock()
    start = lambda arguments, **_: Played(arguments, clock)  # noqa: E731
    monkeypatch.setattr(stop, "time", clock)
    monkeypatch.setattr(run, "time", clock)
    monkeypatch.setattr(run, "subprocess", SimpleNamespace(Popen=start, STDOUT=subprocess.STDOUT))
    return made


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


def test_the_end_of_the_time_stops_a_cell_that_goes_on_later(played):
    outcome = stretch(played, 10, "quick", "long", "next")
    assert outcome == {"quick": "done", "long": "stopped", "next": "waiting"}
    # Asked a minute before the end, ten seconds of which were those of "quick"; then it saved.
    assert status(played, "long") == {"status": "stopped", "exit": 0, "seconds": 530 + 5}
    assert not (played / "runs" / "next").exists()
    # Results of stretches before are no longer cells.
    outcome = stretch(played, 10, "quick", "long")
    assert outcome == {"long": "done"}
    kept = collect.read_results(played / "results")
    assert kept["long"]["seconds"] == 530 + 5 + 10
    assert kept["long"]["reported"]["facts"]["hardware"] == "2 CPU cores"


def test_no_cell_is_started_in_the_last_minutes(played):
    assert stretch(played, 5.2, "half", "quick") == {"half": "done", "quick": "done"}
    for file in (played / "results").iterdir():
        file.unlink()
    # 130 of 300 seconds are gone, and a minute is kept: less than two are left.
    assert stretch(played, 5, "half", "quick") == {"half": "done", "quick": "waiting"}


def test_a_cell_that_does_not_end_in_time_is_killed(played):
    assert stretch(played, 10, "deaf", "next") == {"deaf": "stopped", "next": "waiting"}
    assert status(played, "deaf") == {"status": "stopped", "exit": -signal.SIGKILL, "seconds": 600}


def test_a_process_that_does_not_listen_is_killed(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stop, "time", clock)
    ending = stop.Stop(10)
    clock.now += 600
    monkeypatch.setattr(stop, "SAVING", 0.0)
    # The child is born with SIGTERM held back.
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        child = subprocess.Popen(PAUSE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
    assert ending.wait(child) == -signal.SIGKILL
    assert ending.asked


def interrupt_when_ready(folder: pathlib.Path, number: int, *names: str) -> None:
    """Sends this process a signal once all cells of these names wait for theirs."""
    pipes = [folder / "runs" / name / "ready" for name in names]
    for pipe in pipes:
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)

    def interrupt() -> None:
        for pipe in pipes:
            pipe.read_text()  # until its cell has written
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()


def test_a_signal_stops_the_cell_and_those_after_it(made):
    before = signal.getsignal(signal.SIGTERM)
    interrupt_when_ready(made, signal.SIGTERM, "long")
    assert stretch(made, None, "long", "next") == {"long": "stopped", "next": "waiting"}
    assert (made / "runs" / "long" / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_reaches_both_of_two_cells_at_once(made):
    interrupt_when_ready(made, signal.SIGINT, "long", "long2")
    outcome = stretch(made, None, "long", "long2", "next", jobs=2)
    assert outcome == {"long": "stopped", "long2": "stopped", "next": "waiting"}
    assert all((made / "runs" / name / "saved").exists() for name in ("long", "long2"))


def test_a_cell_that_starts_beside_the_signal_is_stopped_too():
    ending = stop.Stop()
    ending(signal.SIGTERM, None)
    assert ending.wait(subprocess.Popen(PAUSE)) == -signal.SIGTERM


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


def test_the_protocols_results_stand_in_the_tables_of_their_data(played, monkeypatch, capsys):
    monkeypatch.setattr(run, "RESULTS", played / "results")
    monkeypatch.setattr(planned_runs, "METHODS", ("quick", "deaf", "long"))
    flags = ["--table=protocol", "--budget=full", f"--runs={played / 'runs'}", f"--data={played}"]
    run.main([*flags, "--only=quick", "--minutes=10"])
    found = sorted(str(p.relative_to(played)) for p in played.glob("results/*/*.json"))
    assert found == [
        *(f"results/acdc_full/acdc{n}_quick_seed0.json" for n in (3, 7)),
        *(f"results/la_full/la{n}_quick_seed0.json" for n in (16, 4, 8)),
    ]
    assert "left" not in capsys.readouterr().out
    run.main([*flags, "--only=quick,acdc3_long,la4_long", "--minutes=10"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "2 left, the same command goes on: acdc3_long_seed0, la4_long_seed0"


def test_a_result_of_another_protocol_stops_the_table(made):
    stretch(made, None, "quick")
    path = made / "results" / "quick.json"
    path.write_text(path.read_text().replace(PROTOCOL, "cifp-jax-0"))
    with pytest.raises(ValueError, match=r"quick.json is of protocol 'cifp-jax-0'"):
        stretch(made, None, "long")
    assert not (made / "runs" / "long").exists()
