"""Tables of the documents that are made of `experiments/results/`."""

import json
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from experiments import planned_runs
from experiments.published import PUBLISHED
from experiments.report import RESULTS, Group, group, markdown, paired, read, reference, spread

FIGURES = ("Dice %", "Jaccard %", "95HD", "ASD", "missed")
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


def load(path: pathlib.Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def paragraph(text: str) -> str:
    """Text in lines of the documents' width."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def recorded(folder: pathlib.Path, name: str) -> str:
    """A table that was printed while its JSON was not kept."""
    one = load(folder / "recorded.json")["tables"][name]
    return markdown(one["columns"], [[str(cell) for cell in line] for line in one["rows"]])


def overall(result: Mapping[str, Any]) -> list[str]:
    """Means over cases of a run, and its missed classes."""
    figures = result["reported"]["overall"]
    means = [f"{figures[key]['mean']:.2f}" for key in ("dice", "jaccard", "hd95", "asd")]
    return [*means, str(figures["missed"])]


def result_of(folder: str, name: str) -> dict[str, Any]:
    """One kept result."""
    return load(RESULTS / folder / f"{name}.json")


def main_table(folder: str, stem: str) -> str:
    """Supervised training beside CIFP in the same time."""
    minutes = load(RESULTS / "recorded.json")["minutes"][folder]
    rows = []
    for label, method in (("supervised only", "supervised"), ("CIFP", "cifp")):
        name = f"{stem}_{method}_0"
        result = result_of(folder, name)
        steps = f"{result['config']['training']['steps']:,}"
        rows.append([label, *overall(result), steps, minutes[name]])
    return markdown(["", *FIGURES, "steps", "time"], rows)


def equal_time(folder: str, other_rule: str) -> str:
    """Every run of an equal-time folder, with the Dice of the checkpoint that is not reported."""
    minutes = load(RESULTS / "recorded.json")["minutes"][folder]
    results = read(RESULTS / folder)
    rows = []
    for name in sorted(results, key=lambda name: -float(overall(results[name])[0])):
        result = results[name]
        facts, steps = result["reported"]["facts"], result["config"]["training"]["steps"]
        other = result["checkpoints"][f"{other_rule}/{facts['list']}"]["dice"]["mean"]
        step = f"{facts['step']:,} of {steps:,}"
        time = minutes.get(name, "not noted")
        rows.append([result["label"], *overall(result), step, f"{other:.2f}", time])
    head = ["", *FIGURES, "step", f"Dice % at the {other_rule} checkpoint", "time"]
    return markdown(head, rows)


def _groups(folder: str, labeled: int) -> list[Group]:
    return [g for g in group(read(RESULTS / folder)) if g.labeled == labeled]


def small() -> str:
    """Methods on ACDC at a small scale, with 7 and with 3 labelled patients."""
    tables = {n: {g.label: g for g in _groups("acdc_small", n)} for n in (7, 3)}
    rows = []
    for label in tables[7]:
        line = [label]
        for groups in tables.values():
            base = reference(list(groups.values()))
            line += [spread(groups[label].values("dice"), digits=1), paired(groups[label], base)]
        rows.append(line)
    head = ["", *(f(n) for n in tables for f in (_with, lambda n: "minus supervised (seeds)"))]
    return markdown(head, rows)


def _with(labeled: int) -> str:
    return f"{labeled} patients: Dice %"


def published() -> str:
    """One sentence: from where to where published figures run."""
    parts = []
    for key, name in ((("acdc", 7), "ACDC with 7 patients"), (("la", 8), "LA with 8 scans")):
        rows = {n: r.figures[0] for n, r in PUBLISHED[key].items() if n != "fully supervised"}
        low, high = min(rows, key=rows.__getitem__), max(rows, key=rows.__getitem__)
        parts.append(f"on {name} from {rows[low]:.1f} ({low}) to {rows[high]:.1f} ({high})")
    return paragraph(
        "Published Dice at full resolution, quoted and not measured here, runs "
        f"{parts[0]} and {parts[1]}."
    )


def ablation() -> str:
    """The switches of CIFP that were run with 7 patients, compared on shared seeds."""
    groups = _groups("ablation_small", 7)
    base = reference(groups)
    rows = [
        [
            _SWITCHES.get(one.label, f"`{one.label}`"),
            spread(one.values("dice"), digits=1),
            paired(one, base),
            ", ".join(f"{dice:.1f}" for dice in one.values("dice")),
        ]
        for one in groups
    ]
    labels = {one.label for one in groups} - {"default"}
    switches = set(planned_runs.ABLATIONS) - {"default"}
    said = (
        f"Of the list's {len(switches)} switches {len(labels & switches)} have been run, and "
        f"{len(labels - switches)} combination of them."
    )
    head = ["", "Dice %, best checkpoint", "minus the default (seeds)", "each seed, from 0 on"]
    return f"{said}\n\n{markdown(head, rows)}"


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
            path = RESULTS / folder / f"{stem}_cifp{part}_0.json"
            line.append(overall(load(path))[0] if path.exists() else "not run")
        rows.append(line)
    head = ["", "ACDC, 4,500 steps: Dice %, best", "LA, 2,200 steps: Dice %, last"]
    return markdown(head, rows)


def first_tries() -> str:
    """Where CutMix's boxes come from and how fast lambda rises: best and last Dice of seed 0."""

    def cell(folder: str, labeled: int, method: str = "cifp") -> str:
        path = RESULTS / folder / f"acdc{labeled}_{method}_seed0.json"
        if not path.exists():
            return ""
        checkpoints = load(path)["checkpoints"]
        pair = [checkpoints[f"{rule}/validation"]["dice"]["mean"] for rule in ("best", "last")]
        return ", ".join(f"{dice:.1f}" for dice in pair)

    def line(boxes: str, ramp: str, folder: str, other: str = "") -> list[str]:
        teachers = [cell(other or folder, n, "mean_teacher") for n in (7, 3)]
        return [boxes, ramp, cell(folder, 7), cell(folder, 3), *teachers]

    kept = load(RESULTS / "recorded.json")["tables"]["first_tries"]["rows"][0]
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
    folder = RESULTS / "acdc_laptop_unfinished"
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
    """What of the method acts in the two longer runs of its default."""
    runs = (
        ("ACDC", "acdc_laptop_equal_time/acdc_7_cifp_0", (500, 1500, 3000, 4500)),
        ("LA", "la_laptop_equal_time/la_8_cifp_0", (500, 1000, 1500, 2200)),
    )
    rows = []
    for data, folder, steps in runs:
        logged = {r["step"]: r for r in _metrics(RESULTS / folder / "metrics.jsonl") if "loss" in r}
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


def label_choice() -> str:
    """One paragraph on how far the ranking is to be trusted."""
    folder = RESULTS / "label_choice"
    rho = load(folder / "ranking/scans.json")["spearman"]
    dice = {path.stem.removesuffix("_seed0"): overall(load(path))[0] for path in
            sorted((folder / "runs").glob("*_seed0.json"))}  # fmt: skip
    drawn = " and ".join(value for name, value in dice.items() if name.startswith("random"))
    return paragraph(
        f"The rank correlation (Spearman) of a scan's score with the true Dice of its prediction "
        f"was {rho['score']:.2f}; it was {rho['uncertainty']:.2f} for the uncertainty alone and "
        f"{rho['disagreement']:.2f} for the disagreement alone. Four patients chosen by the "
        f"ranking raised Dice from {dice['first']} to {dice['ranked']}, and random draws of four "
        f"raised it to {drawn} (one seed)."
    )


def weights() -> str:
    """The released networks with the figures of the runs that they come from."""
    rows = []
    for name, folder, run, what in (
        ("acdc_7_cifp_laptop", "acdc_laptop_equal_time", "acdc_7_cifp_0", "U-Net, 7 ACDC patients"),
        ("la_8_cifp_laptop", "la_laptop_equal_time", "la_8_cifp_0", "half-width V-Net, 8 LA scans"),
    ):
        result = result_of(folder, run)
        facts, data = result["reported"]["facts"], result["config"]["data"]
        sides = " x ".join(map(str, data["patch_size"]))
        scale = f"; scans averaged down by {data['downsample']}" if data["downsample"] > 1 else ""
        rows.append(
            [
                f"`{name}.safetensors`",
                what,
                f"{sides}{scale}, {result['config']['training']['steps']:,} steps",
                f"{facts['checkpoint']}, {facts['step']:,}",
                str(facts["cases"]),
                *overall(result)[:4],
            ]
        )
    head = ["file", "CIFP with", "trained on", "checkpoint", "cases scored", *FIGURES[:4]]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "acdc": lambda: main_table("acdc_laptop_equal_time", "acdc_7"),
    "la": lambda: main_table("la_laptop_equal_time", "la_8"),
    "published": published,
    "acdc_small": small,
    "acdc_equal_time": lambda: equal_time("acdc_laptop_equal_time", "last"),
    "la_equal_time": lambda: equal_time("la_laptop_equal_time", "best"),
    "ablation": ablation,
    "longer": longer,
    "first_tries": first_tries,
    "unfinished": unfinished,
    "acting": acting,
    "label_choice": label_choice,
    "weights": weights,
    "demo": lambda: recorded(RESULTS, "demo"),
    "fusion": lambda: recorded(RESULTS, "fusion"),
    "own_data": lambda: recorded(RESULTS, "own_data"),
    "carried": lambda: recorded(RESULTS, "carried"),
}
