"""The progress line: speed and time left by a clock that the test holds."""

import io

import pytest
from rich.console import Console

from cifp_jax.training import progress


@pytest.fixture
def clock(monkeypatch):
    """The time, in seconds; tests move it on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def make_line(first=0):
    """A run to 1000 steps of 8 images; what it prints."""
    out = io.StringIO()
    return progress.Progress(Console(file=out, width=200), first, steps=1000, images=8), out


def test_speed_and_time_left(clock):
    line, out = make_line()
    clock[0] += 4
    # 80 images in 4 s; 990 steps at 0.4 s are 396 s.
    assert line.logged(10, 0.5) == {"images_per_second": 20.0}
    assert "step   10/1000  loss 0.5000  20.0 images/s  6:36 left" in out.getvalue()
    clock[0] += 60
    line.validated(10, {"dice": 71.234})
    assert "step   10/1000  validation  dice 71.23" in out.getvalue()
    clock[0] += 2
    # The minute of validation counts for nothing.
    assert line.logged(20, 0.5) == {"images_per_second": 40.0}


def test_a_validation_between_two_lines_takes_its_steps_along(clock):
    """Validation at step 266 and lines every 50 steps, at half a second a step throughout."""
    line, out = make_line(first=250)
    clock[0] += 16 * 0.5 + 60
    line.validated(266, {"dice": 71.0})
    clock[0] += 34 * 0.5
    assert line.logged(300, 0.5) == {"images_per_second": 16.0}
    assert "16.0 images/s  5:50 left" in out.getvalue()  # 700 steps
    clock[0] += 50 * 0.5
    assert line.logged(350, 0.5) == {"images_per_second": 16.0}


def test_the_first_line_of_a_resumed_run_counts_its_own_steps(clock):
    """Of the 50 steps since the line before, 13 were taken by the run that was stopped."""
    line, out = make_line(first=263)
    clock[0] += 37 * 0.5
    assert line.logged(300, 0.5) == {"images_per_second": 16.0}
    assert "5:50 left" in out.getvalue()


def test_a_class_that_vanishes_is_told_once_until_it_comes_back():
    line, out = make_line()
    there = {"lambda": 1.0, "pseudo_share_1": 0.02, "pseudo_share_2": 0.01}
    gone = there | {"pseudo_share_2": 0.0}
    line.watched(50, gone | {"lambda": 0.05})  # hardly learned from yet
    line.watched(100, there)
    assert not out.getvalue()
    for step in (150, 200):
        line.watched(step, gone)
    assert out.getvalue().count("warning") == 1
    assert "step  150/1000  warning: no pseudo label holds class 2 any more" in out.getvalue()
    assert "config.training.init_from" in out.getvalue()
    line.watched(250, there)
    line.watched(300, gone)
    assert out.getvalue().count("warning") == 2


def test_the_first_step_is_said_before_the_first_loss(clock):
    line, out = make_line()
    clock[0] += 75
    line.started(1, 50)
    assert "step    1/1000  compiled in 1:15; the loss comes at step 50" in out.getvalue()
    quiet, out = make_line(first=49)
    quiet.started(50, 50)  # that step has a line of its own
    assert not out.getvalue()
