"""Turns results into tables and plots: `python -m experiments.report`.

Into each folder of results it writes `table.md`, with the published figures beside ours, and
`labels.png` (Dice by number of labels), `curves.png` (validation Dice over steps) and `bars.png`
(Dice of each label). Folders can be named: `experiments/results/acdc_laptop`.
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cifp_jax.evaluation.evaluate import FIGURES
from experiments.collect import read_results
from experiments.published import PUBLISHED

RESULTS = pathlib.Path("experiments/results")
Results = Mapping[str, Mapping[str, Any]]
_HEAD = (
    "| | Dice % | Jaccard % | 95HD | ASD | missed | seeds | checkpoint | steps | hardware | time |"
)


class Group(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      data, labeled, label: what they share.
      runs: their results.
    """

    data: str
    labeled: int
    label: str
    runs: list[Mapping[str, Any]]

    def values(self, figure: str) -> list[float]:
        """One figure, the mean over cases, of every run."""
        return [run["reported"]["overall"][figure]["mean"] for run in self.runs]


def group(results: Results) -> list[Group]:
    """Results by data, number of labelled patients and label; the highest Dice first in each."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for result in results.values():
        data = result["config"]["data"]
        groups.setdefault((data["name"], data["labeled"], result["label"]), []).append(result)
    found = [Group(*key, runs) for key, runs in groups.items()]
    return sorted(found, key=lambda g: (g.data, g.labeled, -float(np.mean(g.values("dice")))))


def spread(values: Sequence[float]) -> str:
    """Mean and, of several seeds, the sample's standard deviation."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def _shared(values: Sequence[Any]) -> str:
    """What all runs share, or all that there is."""
    return ", ".join(dict.fromkeys(str(v) for v in values))


def _time(seconds: Sequence[float | None]) -> str:
    known = [s for s in seconds if s is not None]
    return f"{np.mean(known) / 3600:.1f} h" if known else ""


def row(one: Group) -> str:
    """A line of the table."""
    facts = [run["reported"]["facts"] for run in one.runs]
    missed = np.mean([run["reported"]["overall"]["missed"] for run in one.runs])
    cells = [
        one.label,
        *(spread(one.values(name)) for name in FIGURES),
        f"{missed:.1f}".removesuffix(".0"),
        _shared(sorted(f["seed"] for f in facts)),
        _shared([f"{f['checkpoint']} at {f['step']}" for f in facts]),
        _shared([run["config"]["training"]["steps"] for run in one.runs]),
        _shared([f.get("hardware", "") for f in facts]),
        _time([run["seconds"] for run in one.runs]),
    ]
    return f"| {' | '.join(cells)} |"


def quoted(name: str, figures: Sequence[float]) -> str:
    """A line of a published figure, marked as quoted."""
    cells = [f"{value:.2f}" for value in figures] + [""] * (len(FIGURES) - len(figures))
    return f"| *{name}, quoted* | {' | '.join(cells)} | | | | | | |"


def table(results: Results) -> str:
    """Markdown: one table for each data set and number of labelled patients."""
    groups, parts = group(results), []
    for key in dict.fromkeys((g.data, g.labeled) for g in groups):
        mine = [g for g in groups if (g.data, g.labeled) == key]
        facts = [run["reported"]["facts"] for g in mine for run in g.runs]
        rules = {
            "list": _shared([f"{f['list']} ({f['cases']} cases)" for f in facts]),
            "weights": _shared([f["weights"] for f in facts]),
            "missed classes": _shared([f["empty"] for f in facts]),
            "largest component": _shared([f["largest_component"] for f in facts]),
            "protocol": _shared([f["protocol"] for f in facts]),
        }
        said = "; ".join(f"{name}: {value}" for name, value in rules.items())
        lines = [f"## {key[0]}, {key[1]} labelled", "", f"{said}.", "", _HEAD]
        lines += ["|---" * (_HEAD.count("|") - 1) + "|", *map(row, mine)]
        lines += [quoted(name, figures) for name, figures in PUBLISHED.get(key, {}).items()]
        parts.append("\n".join(lines))
    note = (
        "Mean and, over several seeds, sample standard deviation of the runs' means over cases; "
        "95HD and ASD in voxels. Quoted figures are of other runs under other rules, most of them "
        "of the checkpoint that was best on the test set."
    )
    return "\n\n".join([*parts, note]) + "\n"


def draw(results: Results, folder: pathlib.Path) -> None:
    """Writes the plots."""
    groups = group(results)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for data, label in dict.fromkeys((g.data, g.label) for g in groups):
        line = [g for g in groups if (g.data, g.label) == (data, label)]
        means = [float(np.mean(g.values("dice"))) for g in line]
        axes.plot([g.labeled for g in line], means, marker="o", label=f"{data} {label}")
    axes.set(xlabel="labelled patients", ylabel="Dice %")
    axes.legend(fontsize="x-small")
    figure.savefig(folder / "labels.png", dpi=120)

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, result in results.items():
        axes.plot(result["curve"]["step"], result["curve"]["dice"], label=name)
    axes.set(xlabel="step", ylabel="validation Dice %")
    axes.legend(fontsize="x-small")
    figure.savefig(folder / "curves.png", dpi=120)

    figure = Figure(figsize=(6, 1 + 0.25 * len(groups)), layout="constrained")
    axes = figure.subplots()
    names = [f"{g.data} {g.labeled} {g.label}" for g in groups]
    means = [float(np.mean(g.values("dice"))) for g in groups]
    errors = [float(np.std(g.values("dice"), ddof=1)) if len(g.runs) > 1 else 0.0 for g in groups]
    axes.barh(names, means, xerr=errors)
    axes.invert_yaxis()
    axes.set(xlabel="Dice %", xlim=(max(0.0, min(means) - 5), min(100.0, max(means) + 5)))
    figure.savefig(folder / "bars.png", dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=pathlib.Path, nargs="*", help="all, where none is named")
    named = parser.parse_args(arguments).folders
    folders = named or sorted({p.parent for p in RESULTS.glob("*/*.json")})
    for folder in folders:
        try:
            results = read_results(folder)
        except ValueError as error:
            sys.exit(f"error: {error}")
        if not results:
            sys.exit(f"error: {folder} holds no result; `experiments.run` writes them.")
        text = table(results)
        (folder / "table.md").write_text(text)
        draw(results, folder)
        print(text)


if __name__ == "__main__":
    main()
