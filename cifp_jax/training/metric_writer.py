"""Metrics as JSON lines and as TensorBoard events. No TensorFlow."""

import json
import pathlib
from types import TracebackType

from tensorboardX import SummaryWriter

from cifp_jax import processes
from cifp_jax.files import write_list


class MetricWriter:
    """Appends to `metrics.jsonl` and to TensorBoard event files in `workdir`.

    A run that goes on from `first_step` drops the rows that its stopped predecessor wrote after
    that step, so each step stands in the file once. Of several processes the first one writes.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int) -> None:
        self._writes = processes.first()
        if not self._writes:
            return
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= first_step]
            write_list(path, kept)
        self._file = path.open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writes:
            self._file.close()
            self._events.close()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes one row to the JSONL file, and one event for each scalar."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)


def _step(line: str) -> float:
    """A row's step; a row that was cut off half-way counts as never written."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")
