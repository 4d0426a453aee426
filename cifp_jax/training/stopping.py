"""A run that is asked to end (SIGINT, SIGTERM), and does so where nothing is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax.experimental import multihost_utils

from cifp_jax import processes


class Stopped(Exception):
    """A run has ended before its end; the message says how it goes on."""


class Signals:
    """What a run has been asked for; use it as a context manager, which catches the signals."""

    def __init__(self) -> None:
        self._caught = self._interrupts = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if processes.several():
            # JAX catches SIGTERM itself there.
            catch = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            self._previous = {signal.SIGINT: signal.signal(signal.SIGINT, catch)}
        else:
            both = (signal.SIGINT, signal.SIGTERM)
            self._previous = {s: signal.signal(s, self._catch) for s in both}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: Any) -> None:
        del number
        if self._interrupts or self._caught:
            raise KeyboardInterrupt
        self._caught = True

    def stop(self, step: int) -> bool:
        """Whether the run ends here; ask it once a step.

        Of several processes all get the same answer at the same step, whichever was signalled.
        """
        if processes.several():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._caught

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Inside, a signal raises KeyboardInterrupt at once; for work that is done again later.

        Several processes finish it instead, as each waits for what the others do.
        """
        if self._caught:
            raise KeyboardInterrupt
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False
