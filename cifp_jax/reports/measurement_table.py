"""Measurements as CSV: a file for each scan, and all of them in one table."""

import csv
import math
import pathlib
from collections.abc import Iterable, Sequence

from cifp_jax.evaluation.measurements import Measurement
from cifp_jax.files import whole


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def write_measurements(path: pathlib.Path, rows: Iterable[Measurement]) -> None:
    """Writes a line for each structure, its columns being those of `Measurement`."""
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Measurement._fields)
        writer.writerows([_text(value) for value in row] for row in rows)


def join_measurements(path: pathlib.Path, parts: Sequence[pathlib.Path]) -> None:
    """Puts the tables of `write_measurements` of several scans into one."""
    lines = [part.read_text(encoding="utf-8").splitlines(keepends=True)[1:] for part in parts]
    header = ",".join(Measurement._fields) + "\r\n"
    with whole(path) as partial:
        text = header + "".join(line for part in lines for line in part)
        partial.write_text(text, encoding="utf-8", newline="")
