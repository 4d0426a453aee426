"""Several processes of one run, really started: the same parameters, one set of files, honest ends.

Each has two CPU devices; a single process has four.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from cifp_jax import processes
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.training import build, run_folder
from cifp_jax.training.checkpoint import Checkpoints
from tests.support.processes import Processes

STEPS = 6
SETTINGS = {
    "model.filters": "(2,2,4,4,4)",
    "method.name": "supervised",
    "data.batch_labeled": 4,
    "data.batch_unlabeled": 4,
    "data.labeled": 2,
    "data.patch_size": "(32,32)",
    "training.steps": STEPS,
    "training.log_every": 1,
    "training.evaluate_every": 4,
    "training.checkpoint_every": 2,
    "evaluation.overlays": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    write_phantoms(folder / "ACDC", 2, train=3, validation=3, shape=(40, 40))
    return folder


def flags(folder: pathlib.Path, name: str, settings: dict) -> list[str]:
    """Of a run in `folder/name`."""
    data = "la" if "data.downsample" in settings else "acdc"
    settings = {**SETTINGS, "data.root": folder / data.upper(), **settings}
    return [
        *(f"--config=configs/{data}.py", f"--workdir={folder / name}"),
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def start(folder: pathlib.Path, name: str, count: int, *own: str, **settings) -> Processes:
    """Starts a run in `folder/name`; `own` are flags of the last process alone."""
    shared = flags(folder, name, settings)
    return Processes(folder, count, [shared] * (count - 1) + [[*shared, *own]])


def state_of(workdir: pathlib.Path):
    config = run_folder.load_config(workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.last()
        assert step is not None
        return step, checkpoints.restore(build.make_state(config), step)


def figures_of(workdir: pathlib.Path) -> list[dict]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def check_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """Parameters to 1e-5, and as many rows of the log, with the same figures but for rounding."""
    (step, a), (other_step, b) = state_of(one), state_of(other)
    assert step == other_step
    for name in ("params", "batch_stats", "ema_params", "ema_batch_stats"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
            getattr(a, name),
            getattr(b, name),
        )
    rows, other_rows = figures_of(one), figures_of(other)
    assert [list(row) for row in rows] == [list(row) for row in other_rows]
    for row, other_row in zip(rows, other_rows, strict=True):
        for key, value in row.items():
            np.testing.assert_allclose(value, other_row[key], rtol=1e-3, atol=1e-3, err_msg=key)


def test_two_processes_are_stopped_and_one_goes_on_to_the_same_end(folder):
    whole = start(folder, "whole", 1)
    assert whole.ended() == [0], whole.logs[0].read_text()

    two = start(folder, "two", 2)
    two.until(f"4/{STEPS}")  # a validation comes next
    two.send(1, signal.SIGTERM)  # only one of them is told
    assert two.ended(60) == [os.EX_TEMPFAIL] * 2, [log.read_text() for log in two.logs]
    assert "stopped and saved; the same command goes on" in two.logs[0].read_text()
    assert "step" not in two.logs[1].read_text()  # one of them speaks
    stopped, _ = state_of(folder / "two")
    assert 0 < stopped < STEPS

    one = start(folder, "two", 1)
    assert one.ended() == [0]
    assert f"at step {stopped}" in one.logs[0].read_text()
    check_same(folder / "whole", folder / "two")


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_along_and_the_run_goes_on(folder):
    """Begun by one process, killed in the middle of two, and brought to its end by two."""
    first = start(folder, "killed", 1, **{"training.steps": 2, "training.evaluate_every": 0})
    assert first.ended() == [0]

    two = start(folder, "killed", 2, **{"training.steps": 10_000, "training.evaluate_every": 0})
    two.until("step     9/10000")
    two.send(1, signal.SIGKILL)
    # Where a device of this process waits for one of the other, JAX's watch ends it, with a signal.
    assert two.ended(90)[0] in (1, -signal.SIGABRT)
    log = two.logs[0].read_text()
    assert "resumed" in log
    assert "another process of this run has failed" in log or "another task died" in log

    saved, _ = state_of(folder / "killed")
    assert 2 < saved < 10_000
    two = start(folder, "killed", 2, **{"training.steps": saved + 1})
    assert two.ended() == [0, 0], two.logs[0].read_text()
    assert state_of(folder / "killed")[0] == saved + 1
    report = folder / "killed" / "evaluation" / "last" / "validation" / "cases.csv"
    names = [line.split(",")[0] for line in report.read_text().splitlines()[1:]]
    assert names == sorted(names)
    assert len(set(names)) == 6  # each case once, of both processes


def test_processes_of_different_settings_stop_with_the_setting(folder):
    two = start(folder, "different", 2, "--config.optimizer.learning_rate=0.5")
    assert two.ended(60) == [1, 1]
    for log in two.logs:
        assert (
            "error: the processes differ in config.optimizer.learning_rate: it is 0.01 in process "
            "0 and 0.5 in process 1" in log.read_text()
        )
    assert not (folder / "different").exists()


@pytest.mark.slow
def test_two_processes_with_scans_on_the_device(folder):
    write_phantoms(folder / "LA", 3, train=4, validation=2, shape=(36, 36, 32))
    settings = {
        **{"data.downsample": 2, "data.on_device": True, "data.validation": 2},
        **{"data.patch_size": "(16,16,16)", "evaluation.stride": "(8,8,8)"},
        **{"training.steps": 4, "training.evaluate_every": 2, "method.name": "cifp"},
    }
    for name, count in (("scans_one", 1), ("scans_two", 2)):
        shared = [flags(folder, name, settings)] * count
        run = Processes(folder, count, shared, "tests.support.double_precision")
        assert run.ended(500) == [0] * count, [log.read_text() for log in run.logs]
    check_same(folder / "scans_one", folder / "scans_two")


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        (("host:1", 2, None), "--coordinator, --processes and --process are given together"),
        (("host:1", 2, 2), "--process=2 must be one of 0 to 1"),
        ((None, None, None), "--distributed: no cluster is found"),
    ],
)
def test_processes_that_cannot_be_joined(given, answer):
    with pytest.raises(ValueError, match=answer):
        processes.join(*given)


def test_a_coordinator_that_cannot_be_reached_is_named(folder, monkeypatch):
    code = (
        "from cifp_jax import processes; processes._JOINED_WITHIN = 1; "
        "processes.join('127.0.0.1:9', 2, 1)"
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --coordinator=127.0.0.1:9: not all 2 processes have come")


def test_a_folder_that_one_process_does_not_see_is_refused(tmp_path, monkeypatch):
    # Process 1 has a folder of this name too, on a disk of its own.
    monkeypatch.setattr(processes, "gather", lambda value: [value, value if value == "" else False])
    with pytest.raises(ValueError, match="is not seen by process 1"):
        processes.check_common_folder(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_failure_of_one_process_is_one_of_all(monkeypatch):
    def fail():
        raise OSError("here")

    with pytest.raises(OSError, match="here"):
        processes.together(fail)
    monkeypatch.setattr(processes, "gather", lambda said: [said, "the disk is full"])
    with pytest.raises(processes.AnotherProcessFailed, match="process 1 of 2 says: the disk"):
        processes.together(lambda: 1)
