"""Metrics as JSON lines and as TensorBoard events. No TensorFlow."""

import contextlib
import json
import pathlib
import time
from types import TracebackType

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.summary import scalar

from cifp_jax import processes
from cifp_jax.files import explained, write_list


class MetricWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files in `workdir`.

    A run that goes on from `first_step` drops the rows that its stopped predecessor wrote after
    that step, so each step stands in the file once. Of several processes the first one writes.

    Events are written by this thread: tensorboardX's own writer has a thread for it, for which the
    run would wait for ever once that has died of a full disk.

    Raises:
      OSError: a file cannot be written, with the remedy.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int) -> None:
        self._writes = processes.first()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= first_step]
            write_list(path, kept)
        self._path, folder = path, workdir / "tensorboard"
        with explained(path):
            self._file = path.open("a")
            folder.mkdir(exist_ok=True)
            self._events = EventsWriter(str(folder / "events"))
            # Whatever a stopped predecessor has written of later steps is not shown.
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=first_step + 1, session_log=start))

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._writes:
            return
        # What could not be written is tried once more here; a first error says it already.
        with contextlib.suppress(OSError) if error else explained(self._path):
            self._file.close()
            self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one row to the JSONL file, and one event of all scalars."""
        if not self._writes:
            return
        event = Event(step=step, wall_time=time.time())
        for name, value in scalars.items():
            event.summary.MergeFrom(scalar(name, value))
        with explained(self._path):
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
            self._events.write_event(event)
            self._events.flush()


def _step(line: str) -> float:
    """A row's step; a row that was cut off half-way counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")
