"""What is compared: the runs of each table, in the order in which they are worth having."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cifp_jax.config import default_config

# The method of this project first, then what it is measured against, then the rest.
METHODS = (
    "cifp",
    "supervised",
    "unimatch",
    "mean_teacher",
    "bcp",
    "ad_mt",
    "crossmatch",
    "ua_mt",
    "cps",
    "fixmatch",
)
LABELED = {"acdc": (7, 3), "la": (8, 4, 16)}
FOLDERS = {"acdc": "ACDC", "la": "LA"}
# Of `configs/<data>.py`: for two CPU cores, for one GPU, and the published scale.
BUDGETS = ("cpu", "gpu", "full")

# What a method's published runs on a data set have otherwise.
OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("la", "bcp"): {"data.batch_labeled": 4, "data.batch_unlabeled": 4}
}

# Each switch of CIFP, one away from its default. Checkpoint rule, largest component, the rule for
# missed classes and the evaluated weights need no run of their own: a result holds the last and the
# best checkpoint, and `--mode=evaluate` scores a run again under the other rules.
ABLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "perturbation=none": {"methods.cifp.perturbation.probability": 0.0},
    "gamma=0": {"methods.cifp.fusion.gamma": 0.0},
    "fusion=entropy": {"methods.cifp.fusion.kind": "entropy"},
    "fusion=mean": {"methods.cifp.fusion.kind": "mean"},
    "stage=2": {"methods.cifp.perturbation.stage": 2},
    "stage=4": {"methods.cifp.perturbation.stage": 4},
    "gate=0": {"methods.cifp.perturbation.gate": 0.0},
    "criterion=ce_dice": {"methods.cifp.criterion": "ce_dice"},
    "teacher=off": {"ema.decay": 0.0},
    "lambda=0.5": {"methods.cifp.lambda_max": 0.5},
    "lambda=2": {"methods.cifp.lambda_max": 2.0},
    "ramp=0": {"methods.cifp.ramp_steps": 0},
}


class Cell(NamedTuple):
    """One run.

    Attributes:
      name: of its folder and of its result; no two cells of a table share one.
      label: what a table calls it; cells that differ by their seed share it.
      config: file and variant.
      settings: what differs from that, by name.
    """

    name: str
    label: str
    config: str
    settings: dict[str, Any]

    @property
    def data(self) -> str:
        """Name of its configuration's file: la, acdc or demo."""
        return self.config.removeprefix("configs/").partition(".py:")[0]

    @property
    def variant(self) -> str:
        """Variant of that configuration: full, cpu, gpu, 2d or 3d."""
        return self.config.partition(".py:")[2]


def _cell(data: str, labeled: int, label: str, seed: int, budget: str, settings: Any) -> Cell:
    return Cell(
        f"{data}{labeled}_{label}_seed{seed}",
        label,
        f"configs/{data}.py:{budget}",
        {"data.labeled": labeled, "seed": seed, **settings},
    )


def _methods(data: str, names: Sequence[str], budget: str, seed: int) -> list[Cell]:
    return [
        _cell(data, labeled, name, seed, budget, {"method.name": name, **OWN.get((data, name), {})})
        for name in names
        for labeled in LABELED[data]
    ]


def _protocol(budget: str, seed: int) -> list[Cell]:
    """The cells of acdc and la that are wanted first, method by method."""
    return [
        cell
        for name in METHODS[:3]
        for data in LABELED
        for cell in _methods(data, [name], budget, seed)
    ]


def _ablation(budget: str, seed: int) -> list[Cell]:
    return [
        _cell("acdc", 7, label, seed, budget, {"method.name": "cifp", **settings})
        for label, settings in ABLATIONS.items()
    ]


def _smoke(seed: int) -> list[Cell]:
    """Every method on phantoms, a few steps in 2D and in 3D: does it run, not how good is it."""
    short = {
        "compare": (),
        "seed": seed,
        "parallel": "none",
        "model.filters": (2, 2, 4, 4, 4),
        "data.batch_labeled": 2,
        "data.batch_unlabeled": 2,
        "training.steps": 4,
        "training.log_every": 2,
        "evaluation.overlays": 0,
    }
    brief = {"pretrain_steps": 2, "ramp_steps": 2}
    known = default_config().methods
    ramps = {
        name: {f"methods.{name}.{k}": v for k, v in brief.items() if k in known[name]}
        for name in METHODS
    }
    ranks = {
        "2d": {
            "data.root": "runs/phantoms_smoke_2d",
            "data.patch_size": (32, 32),
            "data.phantoms": 6,
        },
        "3d": {
            "data.root": "runs/phantoms_smoke_3d",
            "data.patch_size": (16, 16, 16),
            "data.phantoms": 6,
            "data.validation": 1,
            "data.downsample": 2,
        },
    }
    return [
        Cell(
            f"{rank}_{name}_seed{seed}",
            name,
            f"configs/demo.py:{rank}",
            {**short, **settings, "method.name": name, **ramps[name]},
        )
        for name in METHODS
        for rank, settings in ranks.items()
    ]


TABLES = ("acdc", "la", "protocol", "ablation", "smoke")


def cells(table: str, budget: str, seeds: tuple[int, ...]) -> list[Cell]:
    """The runs of a table; all of one seed before the next."""
    found: list[Cell] = []
    for seed in seeds:
        if table == "smoke":
            found += _smoke(seed)
        elif table == "ablation":
            found += _ablation(budget, seed)
        elif table == "protocol":
            found += _protocol(budget, seed)
        else:
            found += _methods(table, METHODS, budget, seed)
    return found
