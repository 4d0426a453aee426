"""Tables on the first form of CIFP, made of `experiments/results/first_form/`."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from experiments.collect import load
from experiments.comparison_tables import groups
from experiments.report import markdown
from experiments.result_tables import FIGURES, overall, recorded
from experiments.seed_groups import RESULTS, paired, read, reference, spread

FIRST = RESULTS / "first_form"
_SWITCHES = {
    "default": "the default",
    "lambda=2": "both unlabelled losses at twice the weight (`lambda=2`)",
    "perturbation=none": "no feature perturbation (`perturbation=none`)",
    "perturbation=none, lambda=2": "both of these",
    "alpha=0.5": "half the strength of the perturbation (`alpha=0.5`)",
    "fusion=weak_only": "no fusion (`fusion=weak_only`)",
    "stages=5": "perturbation at the bottleneck only (`stages=5`)",
    "alpha=0": "strength 0: the second loss stays, on features as they are (`alpha=0`)",
    "perturbation=channel_dropout": "channel dropout in its place",
}


def equal_time(folder: str, other_rule: str) -> str:
    """Every run of an equal-time folder, with the Dice of the checkpoint that is not reported."""
    minutes = load(FIRST / "recorded.json")["minutes"][folder]
    results = read(FIRST / folder)
    rows = []
    for name in sorted(results, key=lambda name: -float(overall(results[name]["reported"])[0])):
        result = results[name]
        facts, steps = result["reported"]["facts"], result["config"]["training"]["steps"]
        other = result["checkpoints"][f"{other_rule}/{facts['list']}"]["dice"]["mean"]
        step = f"{facts['step']:,} of {steps:,}"
        time = minutes.get(name, "not noted")
        rows.append([result["label"], *overall(result["reported"]), step, f"{other:.2f}", time])
    head = ["", *FIGURES, "step", f"Dice % at the {other_rule} checkpoint", "time"]
    return markdown(head, rows)


def small() -> str:
    """Methods on ACDC at a small scale, with 7 and with 3 labelled patients."""
    tables = {n: {one.label: one for one in groups(FIRST / "acdc_small", n)} for n in (7, 3)}
    rows = []
    for label in tables[7]:
        line = [label]
        for found in tables.values():
            base = reference(list(found.values()))
            line += [spread(found[label].values("dice"), digits=1), paired(found[label], base)]
        rows.append(line)
    head = [""]
    for n in tables:
        head += [f"{n} patients: Dice %", "minus supervised (seeds)"]
    return markdown(head, rows)


def ablation() -> str:
    """The switches that were run with 7 patients, compared on shared seeds."""
    found = groups(FIRST / "ablation_small", 7)
    base = reference(found)
    rows = [
        [
            _SWITCHES[one.label],
            spread(one.values("dice"), digits=1),
            paired(one, base),
            ", ".join(f"{dice:.1f}" for dice in one.values("dice")),
        ]
        for one in found
    ]
    head = ["", "Dice %, best checkpoint", "minus the default (seeds)", "each seed, from 0 on"]
    return markdown(head, rows)


def longer() -> str:
    """Two switches in the longer runs: the same settings, one seed."""
    names = {
        "the default": "",
        "`lambda_max=2`": "_lambda_2",
        "no feature perturbation": "_no_perturbation",
        "boxes of unlabelled images": "_unlabeled_boxes",
    }
    rows = []
    for label, part in names.items():
        line = [label]
        for folder, stem in (
            ("acdc_laptop_equal_time", "acdc_7"),
            ("la_laptop_equal_time", "la_8"),
        ):
            path = FIRST / folder / f"{stem}_cifp{part}_0.json"
            line.append(overall(load(path)["reported"])[0] if path.exists() else "not run")
        rows.append(line)
    head = ["", "ACDC, 4,500 steps: Dice %, best", "LA, 2,200 steps: Dice %, last"]
    return markdown(head, rows)


def first_tries() -> str:
    """Where CutMix's boxes come from and how fast lambda rises: best and last Dice of seed 0."""

    def cell(folder: str, labeled: int, method: str = "cifp") -> str:
        path = FIRST / folder / f"acdc{labeled}_{method}_seed0.json"
        if not path.exists():
            return ""
        checkpoints = load(path)["checkpoints"]
        pair = [checkpoints[f"{rule}/validation"]["dice"]["mean"] for rule in ("best", "last")]
        return ", ".join(f"{dice:.1f}" for dice in pair)

    def line(boxes: str, ramp: str, folder: str) -> list[str]:
        teachers = [cell(folder, n, "mean_teacher") for n in (7, 3)]
        return [boxes, ramp, cell(folder, 7), cell(folder, 3), *teachers]

    kept = load(FIRST / "recorded.json")["tables"]["first_tries"]["rows"][0]
    rows = [
        line("unlabelled images", "all steps", "acdc_small_slow_ramp"),
        line("unlabelled images", "a third", "acdc_small_ramp_third"),
        [*kept, "", ""],
        line("labelled images (the default)", "a third", "acdc_small"),
    ]
    head = ["boxes from", "ramp of lambda"]
    head += [f"{name}, {n}" for name in ("CIFP", "mean teacher") for n in (7, 3)]
    return markdown(head, rows)


def _metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def unfinished() -> str:
    """Validation Dice of the two runs that were stopped."""
    folder = FIRST / "acdc_laptop_unfinished"
    curves = [
        {row["step"]: row["validation/dice"] for row in _metrics(folder / name / "metrics.jsonl")
         if "validation/dice" in row}
        for name in ("supervised", "cifp")
    ]  # fmt: skip
    steps = sorted(set().union(*curves))
    rows = [
        [f"{n:,}", *(f"{curve[n]:.2f}" if n in curve else "" for curve in curves)] for n in steps
    ]
    return markdown(["step", "supervised, Dice %", "CIFP with entropy weights, Dice %"], rows)


def acting() -> str:
    """What of the method acted in the two longer runs of its default."""
    runs = (
        ("ACDC", "acdc_laptop_equal_time/acdc_7_cifp_0", (500, 1500, 3000, 4500)),
        ("LA", "la_laptop_equal_time/la_8_cifp_0", (500, 1000, 1500, 2200)),
    )
    rows = []
    for data, folder, steps in runs:
        logged = {r["step"]: r for r in _metrics(FIRST / folder / "metrics.jsonl") if "loss" in r}
        for step in steps:
            row = logged[step]
            rows.append(
                [
                    f"{data}, step {step:,}",
                    f"{row['flip_share']:.2f}",
                    f"{row['perturbed_weight']:.2f}",
                    f"{100 * row['fused_differs']:.1f} %",
                    f"{row['reliability']:.2f}",
                ]
            )
    head = ["", "`flip_share`", "`perturbed_weight`", "`fused_differs`", "`reliability`"]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "acdc_small": small,
    "acdc_equal_time": lambda: equal_time("acdc_laptop_equal_time", "last"),
    "la_equal_time": lambda: equal_time("la_laptop_equal_time", "best"),
    "ablation": ablation,
    "longer": longer,
    "first_tries": first_tries,
    "unfinished": unfinished,
    "acting": acting,
    "fusion": lambda: recorded(FIRST, "fusion"),
}
