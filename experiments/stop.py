"""The end of a stretch of runs: asked for by a signal, or by the clock."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType

# Of the time that `--minutes` gives, in seconds.
SAVING = 60.0  # kept for the running cell to end its step or its validation, to save, and to exit
LEAST = 120.0  # beyond that, for a start and a compilation; with less left no cell is started


class Stop:
    """Passes the first SIGINT or SIGTERM on to the running cells, which save and end.

    The end of the time does the same, `SAVING` seconds early. A cell that has not ended by then is
    killed: it goes on from the checkpoint before, which is whole.

    Args:
      minutes: from now on; None for no end.

    Raises:
      ValueError: no cell would be started in so little time.
    """

    def __init__(self, minutes: float | None = None) -> None:
        least = (SAVING + LEAST) / 60
        if minutes is not None and minutes < least:
            raise ValueError(f"--minutes={minutes:g} is too short: give at least {least:g}.")
        self.asked = False
        self._end = None if minutes is None else time.monotonic() + 60 * minutes - SAVING
        self._children: list[subprocess.Popen] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        asked_before, self.asked = self.asked, True
        for child in () if asked_before else tuple(self._children):
            child.send_signal(signal.SIGTERM)

    def _left(self) -> float | None:
        """Seconds to the end of the time."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def room(self) -> bool:
        """Whether another cell may be started."""
        left = self._left()
        return not self.asked and (left is None or left >= LEAST)

    def wait(self, child: subprocess.Popen) -> int:
        """The child's exit status; several threads may wait, each for its own."""
        self._children.append(child)
        if self.asked:  # between its start and this call
            child.send_signal(signal.SIGTERM)
        try:
            code = child.wait(self._left())
        except subprocess.TimeoutExpired:
            self(signal.SIGTERM, None)
            try:
                code = child.wait(SAVING)
            except subprocess.TimeoutExpired:
                child.kill()
                code = child.wait()
        self._children.remove(child)
        return code


@contextlib.contextmanager
def stoppable(minutes: float | None = None) -> Iterator[Stop]:
    """A `Stop` that signals reach."""
    stop = Stop(minutes)
    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
