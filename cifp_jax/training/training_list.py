"""Whom a network was trained on, so that it is not scored on them."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from cifp_jax.data.splits import Split, patient
from cifp_jax.files import write_json
from cifp_jax.inference.released import find_weights
from cifp_jax.inference.weights import load_weights

TrainingList = Mapping[str, Sequence[str]]  # "labeled" and "unlabeled" to patients
_FILE = "training_list.json"


def of_split(split: Split) -> TrainingList:
    """The patients that a run on these lists is trained on."""
    cases = {"labeled": split.labeled, "unlabeled": split.unlabeled}
    return {
        kind: list(dict.fromkeys(patient(c.name) for c in part)) for kind, part in cases.items()
    }


def of_run(workdir: pathlib.Path) -> TrainingList:
    """The patients that a run was trained on so far; {} where it is older than this record."""
    path = workdir / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def of_network(path: pathlib.Path) -> TrainingList:
    """The patients of a run, a file of weights or a released network; {} where it is not known."""
    path = find_weights(path)
    return load_weights(path).facts["training_list"] if path.is_file() else of_run(path)


def record(split: Split, workdir: pathlib.Path, *, resumed: bool) -> None:
    """Keeps whom a run is trained on, with those of its lists before where it goes on."""
    before = of_run(workdir) if resumed else {}
    now = of_split(split)
    both = {kind: list(dict.fromkeys([*before.get(kind, ()), *now[kind]])) for kind in now}
    write_json(workdir / _FILE, both)


def check_unseen(trained: TrainingList, split: Split, network: pathlib.Path) -> None:
    """Raises ValueError where a validation or test case is of a patient of the training list.

    Args:
      trained: of the network.
      split: whose cases are to be scored.
      network: file or folder, which the message names.
    """
    if names := seen(trained, split):
        raise ValueError(
            f"{network} was trained on {names[0]!r}, so its figures would be too good: take "
            f"the case off the list. Where the lists have changed, train with another "
            f"--workdir."
        )


def seen(trained: TrainingList, split: Split) -> list[str]:
    """Names of the validation and test cases that are of a patient of the training list."""
    patients = {name for part in trained.values() for name in part}
    scored = split.validation + split.test
    return [case.name for case in scored if patient(case.name) in patients]
