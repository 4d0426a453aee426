"""A run that is asked to end (SIGINT, SIGTERM), and does so where nothing is lost."""

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax.experimental import multihost_utils

from cifp_jax import processes

# Exit status of a run that a signal has stopped: the same command goes on. sysexits.h calls it a
# temporary failure, and schedulers can be told to start such a job again.
RESUME = os.EX_TEMPFAIL
_ASKED_EVERY = 1  # second: of several processes, whether one was told to end


class Stopped(Exception):
    """A run has ended before its end; the message says how it goes on."""


class Signals:
    """What a run has been asked for; use it as a context manager, which catches the signals.

    Args:
      may_exit: whether the process is the run's alone, so that a signal may end it where nothing
        else can.
    """

    def __init__(self, *, may_exit: bool) -> None:
        self._may_exit = may_exit
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

    @contextmanager
    def exits(self, message: str) -> Iterator[None]:
        """Inside, a signal ends the process at once, with `message`; for work in one long call.

        A compiler cannot be interrupted, and no handler is called before it returns. So a thread
        waits for the signals, which Python writes to a pipe as they come. All must be saved that
        is to last.

        Several processes end together, whichever was signalled. All of them have to leave this
        at one time: a lone one that ends is a failure to the others.
        """
        if not self._may_exit:
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        watcher = threading.Thread(target=_watch, args=(reader, message), daemon=True)
        before = signal.set_wakeup_fd(writer)
        watcher.start()
        try:
            # One that came before the pipe is not in it.
            if self._caught:
                processes.end(message, RESUME)
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writer)
            watcher.join()
            os.close(reader)


def _watch(pipe: int, message: str) -> None:
    """Ends the process after a signal; returns where the other end of `pipe` is closed."""
    while True:
        ready, _, _ = select.select([pipe], [], [], _ASKED_EVERY)
        read = os.read(pipe, 1) if ready else None
        if read == b"":
            return
        if read and not processes.several():
            processes.end(message, RESUME)
        if read:
            # SIGINT: of SIGTERM alone JAX tells the other processes.
            os.kill(os.getpid(), signal.SIGTERM)
        if processes.asked_to_end():
            # The others have to see it too, and the first process, which tells them, ends last.
            time.sleep((3 if processes.first() else 2) * _ASKED_EVERY)
            processes.end(message if processes.first() else "", RESUME)
