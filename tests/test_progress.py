"""The progress line: speed and time left by a clock that the test holds."""

import io

from rich.console import Console

from cifp_jax.training import progress


def test_speed_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    line = progress.Progress(Console(file=out, width=200), first=0, steps=1000, images=80)
    now[0] += 4
    figures = line.logged(10, 0.5)
    # 80 images in 4 s; 990 steps at 0.4 s are 396 s.
    assert figures == {"images_per_second": 20.0}
    assert "20.0 images/s  6:36 left" in out.getvalue()
    now[0] += 60
    line.validated(10, {"dice": 71.234})
    assert "dice 71.23" in out.getvalue()
    now[0] += 2
    # The minute of validation counts for nothing.
    assert line.logged(20, 0.5) == {"images_per_second": 40.0}
