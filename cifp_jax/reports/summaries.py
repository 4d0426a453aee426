"""Figures of an evaluation as a summary, as files, and as tables in the terminal."""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from cifp_jax.evaluation.evaluate import FIGURES, Evaluation
from cifp_jax.files import whole, write_json

# Changes whenever the same predictions would give other figures.
PROTOCOL = "cifp-jax-1"

TITLES = {"dice": "Dice %", "jaccard": "Jaccard %", "hd95": "95HD", "asd": "ASD"}


def _spread(values: Float[np.ndarray, " n"]) -> dict[str, float]:
    return {"mean": float(values.mean()), "std": float(values.std())}


def summarize(evaluation: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Means and standard deviations (of the population of cases), with what they depend on.

    Args:
      evaluation: the figures.
      facts: what they depend on: list, checkpoint rule, step, weights, ...; `names` of the classes
        where they have any.

    Returns:
      `facts`: the protocol's version, the rules, the number of cases, and those given;
      `classes`: by class, `{figure: {mean, std}}` over cases, and `missed`, the number of cases;
      `overall`: likewise of each case's mean over classes, `missed` summed over classes;
      `seconds`: of a case's prediction;
      `calibration`: the expected calibration error and its bins, over the voxels of all cases.
    """
    tables = {name: evaluation.table(name) for name in FIGURES}
    missed = evaluation.table("missed").sum(axis=0).astype(int).tolist()
    rules = {"empty": evaluation.empty, "largest_component": evaluation.largest_component}
    return {
        "facts": {
            "protocol": PROTOCOL,
            "cases": len(evaluation.seconds()),
            "units": {"dice": "%", "jaccard": "%", "hd95": evaluation.unit, "asd": evaluation.unit},
            **facts,
            **rules,
        },
        "classes": {
            str(k): {name: _spread(tables[name][:, i]) for name in FIGURES} | {"missed": missed[i]}
            for i, k in enumerate(evaluation.class_ids())
        },
        "overall": {name: _spread(tables[name].mean(axis=1)) for name in FIGURES}
        | {"missed": sum(missed)},
        "seconds": _spread(evaluation.seconds()),
        "calibration": evaluation.reliability.describe(),
    }


def write_evaluation(
    evaluation: Evaluation, folder: pathlib.Path, summary: Mapping[str, Any]
) -> None:
    """Writes `cases.csv` (a line per case and class) and `summary.json` to `folder`.

    Overlays in it are of the figures that are replaced, and removed.

    Args:
      evaluation: the figures.
      folder: made where it is missing.
      summary: of it, see `summarize`.
    """
    for overlay in folder.glob("*.png"):
        overlay.unlink()
    with whole(folder / "cases.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *FIGURES, "missed", "seconds"])
        for row in evaluation.rows:
            figures = [f"{getattr(row.score, name):.6f}" for name in FIGURES]
            missed, seconds = int(row.score.missed), f"{row.seconds:.3f}"
            writer.writerow([row.case, row.score.class_id, *figures, missed, seconds])
    write_json(folder / "summary.json", summary)


def reported_summary(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """The summary that a run is known by: of its test list where it has one, else validation.

    Args:
      summaries: of a run, by `<checkpoint>/<list>`; at least one is of the reported checkpoint.
    """
    chosen = [s for s in summaries.values() if s["facts"]["reported"]]
    return next((s for s in chosen if s["facts"]["list"] == "test"), chosen[0])


def class_name(facts: Mapping[str, Any], k: object) -> str:
    """What a class is called in tables: by the `names` of a summary's facts, else its number."""
    return facts.get("names", {}).get(str(k), str(k))


def distance_unit(facts: Mapping[str, Any]) -> str:
    """The unit of 95HD and ASD in a sentence, by the facts of a summary: voxels or mm."""
    return "mm" if facts["units"]["hd95"] == "mm" else "voxels"


def figure_texts(part: Mapping[str, Any]) -> list[str]:
    """`mean ± std` of each of `FIGURES`, and `missed`, of a part of a summary."""
    values = [f"{part[name]['mean']:.2f} ± {part[name]['std']:.2f}" for name in FIGURES]
    return [*values, str(part["missed"])]


def print_table(
    console: Console, summaries: Mapping[str, Mapping[str, Any]], title: str = ""
) -> None:
    """Prints summaries one below the other: overall, then by class. The reported one is bold."""
    units = " or ".join(sorted({distance_unit(s["facts"]) for s in summaries.values()}))
    table = Table(title=title, caption=f"mean ± std over cases; 95HD and ASD in {units}")
    for column in ("", "step", "class", *TITLES.values(), "missed"):
        table.add_column(column, justify="left" if column in ("", "class") else "right")
    for name, summary in summaries.items():
        reported = bool(summary["facts"].get("reported"))
        style, mark = ("bold", " (reported)") if reported else (None, "")
        step = str(summary["facts"].get("step", ""))
        table.add_row(f"{name}{mark}", step, "all", *figure_texts(summary["overall"]), style=style)
        if len(summary["classes"]) > 1:
            for k, part in summary["classes"].items():
                own = class_name(summary["facts"], k)
                table.add_row("", "", own, *figure_texts(part), style="dim")
        table.add_section()
    console.print(table)


def print_comparison(console: Console, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the overall figures of several methods on the same cases, one line each."""
    facts = next(iter(summaries.values()))["facts"]
    table = Table(
        title=f"{facts['cases']} {facts.get('list', '')} cases",
        caption=f"mean ± std over cases; 95HD and ASD in {distance_unit(facts)}",
    )
    for column in ("method", "step", *TITLES.values(), "missed"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, summary in summaries.items():
        step = str(summary["facts"].get("step", ""))
        table.add_row(name, step, *figure_texts(summary["overall"]))
    console.print(table)
