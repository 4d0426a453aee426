"""Configurations of small runs, and what a finished run leaves."""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from cifp_jax.config import Config, default_config
from cifp_jax.reports.summaries import PROTOCOL
from experiments.planned_runs import Cell

OVERALL = {
    "dice": {"mean": 80.0, "std": 1.0},
    "jaccard": {"mean": 70.0, "std": 1.0},
    "hd95": {"mean": 3.0, "std": 1.0},
    "asd": {"mean": 1.0, "std": 1.0},
    "missed": 2,
}
FACTS = {
    "protocol": PROTOCOL,
    "cases": 4,
    "list": "validation",
    "checkpoint": "best",
    "reported": True,
    "step": 200,
    "weights": "ema",
    "method": "cifp",
    "seed": 0,
    "hardware": "2 CPU cores",
    "empty": "diagonal",
    "largest_component": "",
}
CONFIG = {
    "method": {"name": "cifp"},
    "data": {"name": "acdc", "labeled": 7, "root": "somewhere"},
    "training": {"steps": 300},
}


def write_run(folder: pathlib.Path, facts: dict | None = None) -> None:
    """A finished run, without its training."""
    for rule in ("best", "last"):
        place = folder / "evaluation" / rule / "validation"
        place.mkdir(parents=True)
        own = FACTS | (facts or {}) | {"checkpoint": rule, "reported": rule == "best"}
        (place / "summary.json").write_text(json.dumps({"facts": own, "overall": OVERALL}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    rows = [{"step": 100, "loss": 1.0}, {"step": 200, "validation/dice": 80.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def result(
    dice: float, seed: int, label: str = "cifp", labeled: int = 7, side: int = 112
) -> dict[str, Any]:
    """What is kept of a run (`experiments.collect`); its hours are its seed and one."""
    data = {"name": "acdc", "labeled": labeled, "patch_size": [side, side]}
    overall = OVERALL | {"dice": {"mean": dice, "std": 1.0}}
    return {
        "protocol": PROTOCOL,
        "label": label,
        "seconds": 3600.0 * (seed + 1),
        "config": CONFIG | {"data": data},
        "reported": {"facts": FACTS | {"seed": seed}, "overall": overall},
        "checkpoints": {},
        "curve": {"step": [100, 200], "dice": [50.0, dice]},
    }


def write_results(folder: pathlib.Path, **results: dict[str, Any]) -> None:
    """A folder of results, by name."""
    folder.mkdir(exist_ok=True)
    for name, one in results.items():
        (folder / f"{name}.json").write_text(json.dumps(one))


def small(root: pathlib.Path, **data: Any) -> Config:
    """Slices in the layout of ACDC, by a U-Net that is quick to compile."""
    config = default_config()
    config.parallel = "none"
    config.model.filters = (2, 2, 4, 4, 4)
    config.data.name = "acdc"
    config.data.root = str(root)
    config.data.patch_size = (32, 32)
    config.data.labeled = config.data.batch_labeled = config.data.batch_unlabeled = 2
    config.data.update(data)
    config.evaluation.stride = tuple(side // 2 for side in config.data.patch_size)
    return config


def scripted(script: str, made: pathlib.Path) -> Callable[[Cell, pathlib.Path], list]:
    """In place of `experiments.run.command`: a cell's script sees its folder, its label and `made`.

    Args:
      script: Python code.
      made: a finished run, written here, for the script to copy.
    """
    write_run(made)
    return lambda cell, folder: [sys.executable, "-c", script, folder, cell.label, made]
