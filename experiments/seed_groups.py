"""Results as groups of runs that differ by their seed, and how those are compared.

Methods are compared with one reference on the seeds that both have, and ranked by that difference:
a mean over three seeds beside one run says little, as a seed alone moves a run by several Dice.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.collect import read_results

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


def place(result: Mapping[str, Any]) -> tuple[str, int, str]:
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
        known = {(*place(result), _seed(result)) for result in results.values()}
        for name, result in read_results(folder.parent / borrowed.folder).items():
            own = {**result, "label": borrowed.known_as}
            wanted = result["label"] == borrowed.label and (*place(own), _seed(own)) not in known
            if wanted:
                results[f"{borrowed.folder}/{name}"] = own
    return results


def folders() -> list[pathlib.Path]:
    """The folders that hold results, those of CIFP's first form too."""
    paths = [*RESULTS.glob("*/*.json"), *RESULTS.glob("first_form/*/*.json")]
    return sorted({path.parent for path in paths if path.name != "recorded.json"})


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
        runs = groups.setdefault(place(result), {})
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
