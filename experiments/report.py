"""Turns results into tables and plots: `python -m experiments.report`.

Into each folder of results it writes `table.md`, with the published figures beside ours, and
`labels.png` (Dice by number of labels), `curves.png` (validation Dice over steps) and `bars.png`
(Dice of each label). Folders can be named: `experiments/results/acdc_cpu`. Afterwards
`python -m experiments.figures` brings the tables of the documents up to date.

Methods are compared with one reference on the seeds that both have, and ranked by that difference:
a mean over three seeds beside one run says little, as a seed alone moves a run by several Dice.
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
from experiments.published import PUBLISHED, Quoted

RESULTS = pathlib.Path("experiments/results")
REFERENCES = ("supervised", "default")  # labels that a table's rows are compared with, by choice
Results = Mapping[str, Mapping[str, Any]]


class Borrowed(NamedTuple):
    """Runs of another folder that are runs of this table too, as their settings are the same.

    Attributes:
      folder: where they are kept.
      label: what they are called there.
      known_as: what this table calls them.
    """

    folder: str
    label: str
    known_as: str


# In `first_form/`: the default of the ablation is CIFP in its table of methods, and supervised
# training has none of the settings by which the earlier tables of CIFP differ.
BORROWED = {
    "ablation_small": Borrowed("acdc_small", "cifp", "default"),
    "acdc_small_slow_ramp": Borrowed("acdc_small", "supervised", "supervised"),
    "acdc_small_ramp_third": Borrowed("acdc_small", "supervised", "supervised"),
}


class Group(NamedTuple):
    """Runs that differ by their seed alone.

    Attributes:
      data, labeled, label: what they share.
      runs: their results by seed, in the order of the seeds.
    """

    data: str
    labeled: int
    label: str
    runs: dict[int, Mapping[str, Any]]

    def values(self, figure: str) -> list[float]:
        """One figure, the mean over cases, of every run."""
        return [run["reported"]["overall"][figure]["mean"] for run in self.runs.values()]


def _seed(result: Mapping[str, Any]) -> int:
    return result["reported"]["facts"]["seed"]


def _place(result: Mapping[str, Any]) -> tuple[str, int, str]:
    data = result["config"]["data"]
    return data["name"], data["labeled"], result["label"]


def read(folder: pathlib.Path) -> dict[str, Mapping[str, Any]]:
    """The results of a folder, and those that it borrows, whose names say their folder.

    Raises:
      ValueError: one is of another version of the protocol, or no result.
    """
    results: dict[str, Mapping[str, Any]] = dict(read_results(folder))
    borrowed = BORROWED.get(folder.name)
    if borrowed and results:
        known = {(*_place(result), _seed(result)) for result in results.values()}
        for name, result in read_results(folder.parent / borrowed.folder).items():
            own = {**result, "label": borrowed.known_as}
            wanted = result["label"] == borrowed.label and (*_place(own), _seed(own)) not in known
            if wanted:
                results[f"{borrowed.folder}/{name}"] = own
    return results


def differences(one: Group, other: Group) -> list[float]:
    """The Dice of `one` minus that of `other`, %, for each seed that both have, in their order."""

    def value(group: Group, seed: int) -> float:
        return group.runs[seed]["reported"]["overall"]["dice"]["mean"]

    return [value(one, seed) - value(other, seed) for seed in one.runs if seed in other.runs]


def reference(groups: Sequence[Group]) -> Group:
    """What the rows of one table are compared with: `REFERENCES`, else what has the most seeds."""
    labels = {g.label: g for g in groups}
    named = [labels[label] for label in REFERENCES if label in labels]
    return named[0] if named else max(groups, key=lambda g: len(g.runs))


def group(results: Results) -> list[Group]:
    """Results by data, number of labelled patients and label, ranked in each table.

    The rank is the mean difference in Dice from the table's reference on shared seeds. What shares
    no seed with the reference comes last.

    Raises:
      ValueError: two runs of one label have the same seed, so they differ by something else.
    """
    groups: dict[tuple[str, int, str], dict[int, Mapping[str, Any]]] = {}
    for name, result in results.items():
        runs = groups.setdefault(_place(result), {})
        if _seed(result) in runs:
            raise ValueError(
                f"{name} and another result are both {result['label']!r} with seed "
                f"{_seed(result)}: give one of them a `label` of its own."
            )
        runs[_seed(result)] = result
    found = [Group(*key, dict(sorted(runs.items()))) for key, runs in groups.items()]
    tables: dict[tuple[str, int], list[Group]] = {}
    for one in sorted(found):
        tables.setdefault((one.data, one.labeled), []).append(one)

    def rank(one: Group, other: Group) -> tuple[bool, float]:
        shared = differences(one, other)
        return not shared, -float(np.mean(shared or one.values("dice")))

    ranked = []
    for table_ in tables.values():
        other = reference(table_)
        ranked += sorted(table_, key=lambda g: rank(g, other))
    return ranked


def spread(values: Sequence[float], *, sign: str = "", digits: int = 2) -> str:
    """Mean and, of several seeds, the sample's standard deviation; `sign="+"` writes a plus."""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def paired(one: Group, other: Group) -> str:
    """A cell of the table: the difference on shared seeds, and how many they are."""
    if one.label == other.label:
        return "reference"
    shared = differences(one, other)
    return f"{spread(shared, sign='+')} ({len(shared)})" if shared else "no shared seed"


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
        names = [name for name, one in results.items() if "/" in name and _place(one)[:2] == key]
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
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for data, label in dict.fromkeys((g.data, g.label) for g in groups):
        line = [g for g in groups if (g.data, g.label) == (data, label)]
        means = [float(np.mean(g.values("dice"))) for g in line]
        drawn = axes.plot([g.labeled for g in line], means, label=f"{data} {label}")
        dots = [(g.labeled, dice) for g in line for dice in g.values("dice")]
        axes.scatter(*zip(*dots, strict=True), color=drawn[0].get_color(), s=12)
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
    axes.barh(names, means, color="lightsteelblue")
    dots = [
        (dice, name) for name, g in zip(names, groups, strict=True) for dice in g.values("dice")
    ]
    axes.scatter(*zip(*dots, strict=True), color="black", s=12, zorder=2)
    axes.invert_yaxis()
    dice = [value for value, _ in dots]
    axes.set(xlabel="Dice %", xlim=(max(0.0, min(dice) - 5), min(100.0, max(dice) + 5)))
    figure.savefig(folder / "bars.png", dpi=120)


def folders() -> list[pathlib.Path]:
    """The folders that hold results, those of CIFP's first form too."""
    paths = [*RESULTS.glob("*/*.json"), *RESULTS.glob("first_form/*/*.json")]
    return sorted({path.parent for path in paths if path.name != "recorded.json"})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
