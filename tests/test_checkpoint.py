"""State, place in the data and figures are saved together; the last two and the best are kept."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from cifp_jax.training.checkpoint import Checkpoints, DamagedError, put_back
from tests.support.states import make_state

# Orbax leaves coroutines behind where a reading fails. They are swept up here, and not in whichever
# test comes next.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _swept():
    yield
    gc.collect()


def save(folder, *steps: int) -> None:
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), {"next": step})


def kept(folder) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def test_the_last_two_and_the_best_are_kept_with_their_progress(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.last() is None
        assert checkpoints.best() is None
        with pytest.raises(FileNotFoundError):
            checkpoints.resume(make_state(0))
        for step, dice in ((1, 50.0), (2, 70.0), (3, 60.0), (4, None), (5, None)):
            figures = None if dice is None else {"dice": dice}
            checkpoints.save(make_state(step), {"next": [step]}, figures)
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.last(), checkpoints.best()) == (5, 2)
        assert kept(folder) == [2, 4, 5]
        restored = checkpoints.restore(make_state(0), 2)
        assert checkpoints.resume(make_state(0))[1]["next"] == [5]
    jax.tree.map(np.testing.assert_array_equal, restored.params, make_state(2).params)
    assert restored.rng == make_state(2).rng


def test_a_step_saved_again_takes_the_place_of_the_first(tmp_path):
    save(tmp_path, 1, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(2), {"next": 3}, {"dice": 1.0})
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.last(), checkpoints.best()) == (2, 2)
        assert checkpoints.resume(make_state(0))[1]["next"] == 3


@pytest.mark.parametrize("whole", [False, True])
def test_a_step_saved_again_is_there_whenever_the_process_was_killed(whole, tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "2").rename(tmp_path / "2.before")
    if whole:  # killed after the other one was written
        save(tmp_path, 2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.last() == (2 if whole else 1)
    put_back(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        assert resume(checkpoints) == (2, 2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_what_a_run_adds_after_a_save_is_not_in_it(tmp_path, monkeypatch):
    """Orbax writes in a thread of its own; a run goes on and adds to what it gave."""
    added = threading.Event()
    dumps = json.dumps

    def late(*arguments, **options):
        if threading.current_thread() is not threading.main_thread():
            added.wait(10)
        return dumps(*arguments, **options)

    monkeypatch.setattr(json, "dumps", late)
    with Checkpoints(tmp_path) as checkpoints:
        pending = [{"loss": [1.0, 1.0]}]
        checkpoints.save(make_state(1), {"pending": pending})
        pending.append({"loss": [2.0, 1.0]})
        added.set()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume(make_state(0))[1]["pending"] == [{"loss": [1.0, 1.0]}]


def test_the_reported_checkpoint_is_the_best_where_there_is_one(tmp_path):
    folder = tmp_path / "checkpoints"
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(FileNotFoundError, match="holds no checkpoint: train it first"),
    ):
        checkpoints.reported("best")
    assert not folder.exists()  # to look for one leaves nothing behind
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(1), {})
        assert checkpoints.reported("best") == 1
        checkpoints.save(make_state(2), {}, {"dice": 50.0})
        checkpoints.save(make_state(3), {})
        assert (checkpoints.reported("best"), checkpoints.reported("last")) == (2, 3)


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    shutil.rmtree(folder / "1" / "state")
    with Checkpoints(folder) as checkpoints:
        for read in (lambda: checkpoints.restore(make_state(0), 1), lambda: resume(checkpoints)):
            with pytest.raises(DamagedError, match=r"/1 is damaged .*Remove that folder"):
                read()
    assert kept(folder) == [1]  # not removed: there is nothing better


def resume(checkpoints: Checkpoints):
    state, progress, damaged = checkpoints.resume(make_state(0))
    return int(state.step), progress["next"], [str(error) for error in damaged]


def _files(folder) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_whatever_is_flipped_or_cut_off_the_state_is_right_or_the_one_before(tmp_path):
    """One bit of each file, in its middle; half of each file; each file away."""
    save(tmp_path / "whole", 1, 2)
    outcomes = []
    for name in _files(tmp_path / "whole" / "2"):
        for number, damage in enumerate((_flip, _halve, lambda path: path.unlink())):
            folder = tmp_path / f"{len(outcomes)}_{number}"
            shutil.copytree(tmp_path / "whole", folder)
            damage(folder / "2" / name)
            with Checkpoints(folder) as checkpoints:
                state, progress, damaged = checkpoints.resume(make_state(0))
            step = int(state.step)
            outcomes.append(step)
            assert step == progress["next"]
            assert len(damaged) == 2 - step
            jax.tree.map(np.testing.assert_array_equal, state.params, make_state(step).params)
            assert kept(folder) == list(range(1, step + 1))
    assert outcomes.count(1) > 3


def test_another_place_in_the_data_is_noticed_too(tmp_path):
    save(tmp_path, 1, 2)
    file = tmp_path / "2" / "progress" / "metadata"
    file.write_text(file.read_text().replace('"next": 2', '"next": 3'))
    with Checkpoints(tmp_path) as checkpoints:
        step, place, damaged = resume(checkpoints)
    assert (step, place) == (1, 1)
    assert len(damaged) == 1
    assert "not those that were saved" in damaged[0]


def _flip(path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _halve(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_checkpoint_of_another_network_is_refused_with_its_place(tmp_path):
    save(tmp_path / "checkpoints", 1)
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(
            ValueError, match=r"/1 does not fit .*: batch_stats/0/norm/mean .*2.*3.* here"
        ),
    ):
        checkpoints.restore(make_state(0, features=3), 1)


# A disk that fills up, played by the largest file that the process may write.
FULL = """
import pathlib, resource, sys
from cifp_jax import host
from cifp_jax.training.checkpoint import Checkpoints
from tests.support.states import make_state
host.quiet()
try:
    with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        for step in map(int, sys.argv[2:]):
            checkpoints.save(make_state(step), {"next": step + 1})
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("steps", [("2", "3"), ("1",)])  # others, and the same once more
def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(steps, tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), *steps],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stdout.startswith(f"{folder}: a checkpoint could not be written (")
    assert "the same command goes on" in done.stdout
    assert "orbax" not in done.stderr  # its threads log the same error by the hundred lines
    with Checkpoints(folder) as checkpoints:
        assert resume(checkpoints) == (1, 1, [])
    assert kept(folder) == [1]
