"""Figures as files and as a table in the terminal."""

import csv
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cifp_jax.evaluation.evaluate import Evaluation
from cifp_jax.evaluation.metrics import NAMES

PROTOCOL = "1"  # changes whenever the same masks would give other figures
_TITLES = {"dice": "Dice %", "jaccard": "Jaccard %", "hd95": "95HD", "asd": "ASD"}


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a whole file or none."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def write_evaluation(
    evaluation: Evaluation, folder: pathlib.Path, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `cases.csv` and `summary.json`; returns the summary.

    Args:
      evaluation: the figures.
      folder: made where it is missing.
      facts: what the figures depend on: checkpoint rule, step, list, and so on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "cases.partial"
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *NAMES, "missed", "seconds"])
        for row in evaluation.rows:
            figures = [f"{getattr(row.scores, name):.4f}" for name in NAMES]
            missed, seconds = int(row.scores.missed), f"{row.seconds:.2f}"
            writer.writerow([row.case, row.label, *figures, missed, seconds])
    partial.replace(folder / "cases.csv")
    labels = sorted({row.label for row in evaluation.rows})
    # The spread over cases: of each case's mean over its classes.
    cases: dict[str, list[Any]] = {}
    for row in evaluation.rows:
        cases.setdefault(row.case, []).append(row.scores)
    spread = {
        name: float(np.std([np.mean([getattr(s, name) for s in c]) for c in cases.values()]))
        for name in NAMES
    }
    summary = {
        "facts": {"protocol": PROTOCOL, "cases": len(cases), **facts},
        "mean": evaluation.means(),
        "std_over_cases": spread,
        "classes": {str(label): evaluation.of_class(label) for label in labels},
    }
    write_json(folder / "summary.json", summary)
    return summary


def print_table(console: Console, summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """One line a summary: name, checkpoint, the four figures, missed classes."""
    table = Table(title=title, caption="mean over cases, then classes; distances in voxels")
    for column in ("", "checkpoint", "step", *_TITLES.values(), "missed"):
        table.add_column(column, justify="left" if column in ("", "checkpoint") else "right")
    for name, summary in summaries.items():
        facts, mean = summary["facts"], summary["mean"]
        table.add_row(
            name,
            facts["checkpoint"] + (" (reported)" if facts["reported"] else ""),
            str(facts["step"]),
            *(f"{mean[n]:.2f}" for n in NAMES),
            f"{mean['missed']:.0f}",
            style="bold" if facts["reported"] else None,
        )
    console.print(table)
