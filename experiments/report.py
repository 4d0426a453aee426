"""Turns results into tables and plots: `python -m experiments.report`.

Into each folder of results it writes `table.md`, with the published figures beside ours, and
`labels.png` (Dice by number of labels), `curves.png` (validation Dice over steps) and `bars.png`
(Dice of each label). Folders can be named: `experiments/results/acdc_cpu`. Afterwards
`python -m experiments.figures` brings the tables of the documents up to date.

Methods are compared with one reference on the seeds that both have, and ranked by that difference.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cifp_jax.evaluation.evaluate import FIGURES
from experiments.published import PUBLISHED, Quoted
from experiments.seed_groups import (
    Group,
    Results,
    folders,
    group,
    paired,
    place,
    read,
    reference,
    spread,
)


def _shared(values: Sequence[Any]) -> str:
    """What all runs share, or all that there is."""
    return ", ".join(dict.fromkeys(str(v) for v in values))


def _time(seconds: Sequence[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    return f"{np.mean(known) / 60:.0f} min" if known else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [
        "|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|"
        for line in (head, *rows)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def row(one: Group, other: Group) -> list[str]:
    """A line of the table, compared with `other`."""
    runs = one.runs.values()
    facts = [run["reported"]["facts"] for run in runs]
    missed = np.mean([run["reported"]["overall"]["missed"] for run in runs])
    return [
        one.label,
        *(spread(one.values(name)) for name in FIGURES),
        f"{missed:.1f}".removesuffix(".0"),
        paired(one, other),
        _shared(list(one.runs)),
        _shared([f"{f['checkpoint']} at {f['step']}" for f in facts]),
        _shared([run["config"]["training"]["steps"] for run in runs]),
        _shared([f.get("hardware", "") for f in facts]),
        _time([run["seconds"] for run in runs]),
    ]


def quoted(name: str, row: Quoted) -> list[str]:
    """A line of a published figure."""
    cells = [f"{value:.2f}" for value in row.figures] + [""] * (len(FIGURES) - len(row.figures))
    return [name, *cells, row.checkpoint, row.source]


def table(results: Results) -> str:
    """Markdown: one table for each data set and number of labelled patients."""
    groups, parts = group(results), []
    for key in dict.fromkeys((g.data, g.labeled) for g in groups):
        mine = [g for g in groups if (g.data, g.labeled) == key]
        facts = [run["reported"]["facts"] for g in mine for run in g.runs.values()]
        rules = {
            "list": _shared([f"{f['list']} ({f['cases']} cases)" for f in facts]),
            "weights": _shared([f["weights"] for f in facts]),
            "missed classes": _shared([f["empty"] for f in facts]),
            "largest component": _shared([f["largest_component"] or "no" for f in facts]),
            "protocol": _shared([f["protocol"] for f in facts]),
        }
        said = "; ".join(f"{name}: {value}" for name, value in rules.items())
        names = [name for name, one in results.items() if "/" in name and place(one)[:2] == key]
        if names:
            said += f". Runs kept elsewhere: {', '.join(names)}"
        other = reference(mine)
        head = ["", "Dice %", "Jaccard %", "95HD", "ASD", "missed"]
        head += [f"Dice minus {other.label}'s (seeds)"]
        head += ["seeds", "checkpoint", "steps", "hardware", "time"]
        lines = [f"## {key[0]}, {key[1]} labelled", f"{said}."]
        lines += [markdown(head, [row(g, other) for g in mine])]
        if key in PUBLISHED:
            head = ["quoted", *head[1:5], "checkpoint", "read in"]
            rows = [quoted(name, one) for name, one in PUBLISHED[key].items()]
            lines += [markdown(head, rows)]
        parts.append("\n\n".join(lines))
    note = (
        "Mean and, over several seeds, sample standard deviation of the runs' means over cases; "
        "95HD and ASD in voxels. The difference is of runs with the same seed, with the number of "
        "seeds that both have; rows are ranked by it. Quoted figures are of other runs, on other "
        "cases, under the rules beside them."
    )
    return "\n\n".join([*parts, note]) + "\n"


def draw(results: Results, folder: pathlib.Path) -> None:
    """Writes the plots; every dot is a run."""
    groups = group(results)
    figure = Figure(figsize=(8, max(4, 0.2 * len(groups))), layout="constrained")
    axes = figure.subplots()
    for data, label in dict.fromkeys((g.data, g.label) for g in groups):
        line = [g for g in groups if (g.data, g.label) == (data, label)]
        means = [float(np.mean(g.values("dice"))) for g in line]
        drawn = axes.plot([g.labeled for g in line], means, label=f"{data} {label}")
        dots = [(g.labeled, dice) for g in line for dice in g.values("dice")]
        axes.scatter(*zip(*dots, strict=True), color=drawn[0].get_color(), s=12)
    axes.set(xlabel="labelled patients", ylabel="Dice %")
    figure.legend(loc="outside right center", fontsize="x-small")
    figure.savefig(folder / "labels.png", dpi=120)
    figure = Figure(figsize=(9, max(4, 0.2 * len(results))), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        axes.plot(result["curve"]["step"], result["curve"]["dice"], label=name)
    axes.set(xlabel="step", ylabel="validation Dice %")
    figure.legend(loc="outside right center", fontsize="x-small")
    figure.savefig(folder / "curves.png", dpi=120)
    figure = Figure(figsize=(6, 1 + 0.25 * len(groups)), layout="constrained")
    axes = figure.subplots()
    names = [f"{g.data} {g.labeled} {g.label}" for g in groups]
    means = [float(np.mean(g.values("dice"))) for g in groups]
    axes.barh(names, means, color="lightsteelblue")
    dots = [
        (dice, name) for name, g in zip(names, groups, strict=True) for dice in g.values("dice")
    ]
    axes.scatter(*zip(*dots, strict=True), color="black", s=12, zorder=2)
    axes.invert_yaxis()
    dice = [value for value, _ in dots]
    axes.set(xlabel="Dice %", xlim=(max(0.0, min(dice) - 5), min(100.0, max(dice) + 5)))
    figure.savefig(folder / "bars.png", dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=pathlib.Path, nargs="*", help="all, where none is named")
    named = parser.parse_args(arguments).folders
    for folder in named or folders():
        try:
            results = read(folder)
            if not results:
                sys.exit(f"error: {folder} holds no result; `experiments.run` writes them.")
            text = table(results)
        except ValueError as error:
            sys.exit(f"error: {error}")
        (folder / "table.md").write_text(text)
        draw(results, folder)
        print(text)


if __name__ == "__main__":
    main()
