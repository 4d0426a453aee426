"""Tables that compare runs: one switch at a time, from several networks, with all labels."""

import json
import pathlib

from experiments.collect import load
from experiments.report import markdown
from experiments.seed_groups import RESULTS, Group, group, read, spread

# The label of the form that was ACDC's default until the cross entropy alone was.
BOTH_LOSSES = "criterion=ce_dice"


def groups(folder: pathlib.Path, labeled: int) -> list[Group]:
    """The runs of a folder with so many labelled patients, by label, ranked."""
    return [one for one in group(read(folder)) if one.labeled == labeled]


def ablation(folder: str, labeled: int, form: str = "default") -> str:
    """One switch away from a form of CIFP at a time, on the seeds that both have.

    Args:
      folder: of the runs.
      labeled: patients or scans.
      form: label of what the others are compared with. Of another form than the default there are
        its own switches, "criterion=ce_dice, gamma=0", and supervised training.
    """
    found = groups(RESULTS / folder, labeled)
    base = next(one for one in found if one.label == form)
    rows = []
    for one in found:
        if form == "default" and one.label.startswith(f"{BOTH_LOSSES}, "):
            continue
        if form != "default" and not one.label.startswith((form, "supervised alone")):
            continue
        seeds = [seed for seed in one.runs if seed in base.runs]
        cells = [one.label, ", ".join(map(str, seeds))]
        for rule in ("last", "best"):
            own, its = (
                [each.runs[seed]["checkpoints"][f"{rule}/validation"] for seed in seeds]
                for each in (one, base)
            )
            dice, other = ([figures["dice"]["mean"] for figures in each] for each in (own, its))
            apart = [a - b for a, b in zip(dice, other, strict=True)]
            cells += [spread(dice), "reference" if one is base else spread(apart, sign="+")]
        rows.append(cells)
    minus = f"minus the {base.label}'s"
    return markdown(["", "seeds", "Dice %, last", minus, "best", minus], rows)


# By what they start from: runs with the labelled scans alone, with CIFP, and with all labels.
ALL_LABELS = {
    "ACDC 7, 112 x 112, from `acdc7_supervised_0`": (
        "ablation_cpu_first_network/acdc7_supervised_alone_seed0",
        "ablation_cpu_first_network/acdc7_default_seed0",
        "ablation_cpu_first_network/acdc70_supervised_seed0",
    ),
    "ACDC 7, 160 x 160, from `acdc-7-supervised`": (
        "acdc_cpu/acdc7_supervised_1_longer",
        "acdc_cpu/acdc7_cifp_1_from_supervised_longer",
        "acdc_cpu/acdc70_supervised_1_longer",
    ),
    "LA 8, half resolution, from `la8_cifp_1_half_longer`": (
        "",
        "la_cpu/la8_cifp_2_half_longer",
        "la_cpu/la70_supervised_0_half_longer",
    ),
}


def all_labels() -> str:
    """What is left for the unlabelled scans to give: training with their labels known."""
    rows = []
    for start, runs in ALL_LABELS.items():
        cells = [start]
        for name in runs:
            if not name:
                cells.append("not run")
                continue
            result = load(RESULTS / f"{name}.json")
            last = result["checkpoints"]["last/validation"]["dice"]["mean"]
            cells.append(f"{last:.2f} ({result['config']['training']['steps']:,})")
        rows.append(cells)
    return markdown(["Dice % (steps)", "labelled alone", "CIFP", "all labels"], rows)


# By what is trained: the run that is normalised over batches, and the one over each image alone.
NORMALIZED = {
    "LA 8, supervised, 400 steps": (
        "la_cpu/la8_supervised_0_batch",
        "la_cpu/la8_supervised_0_instance",
    ),
    "LA 8, the first, supervised steps of `la:cpu`": (
        "la_cpu/la8_cifp_0",
        "la_cpu/la8_cifp_0_instance",
    ),
    "ACDC 7, supervised": (
        "ablation_cpu_own_networks/acdc7_network_seed1",
        "acdc_cpu/acdc7_supervised_1_instance",
    ),
}


def _curve(path: pathlib.Path) -> dict[int, float]:
    """Validation Dice by step, of a run's metrics."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["step"]: row["validation/dice"] for row in rows if "validation/dice" in row}


def normalization() -> str:
    """Validation Dice after as many steps, by what features are normalised over."""
    rows = []
    for what, names in NORMALIZED.items():
        batch, alone = (_curve(RESULTS / name / "metrics.jsonl") for name in names)
        steps = sorted(batch.keys() & alone.keys())
        dice = [", ".join(f"{curve[step]:.1f}" for step in steps) for curve in (batch, alone)]
        rows.append([what, ", ".join(map(str, steps)), *dice])
    return markdown(["", "after steps", "Dice %, batch", "each image"], rows)


# By patients: the networks that runs went on from, by seed, and the folder of the runs.
NETWORKS = {
    3: {
        0: ("acdc_cpu/acdc3_supervised_0_again", "ablation_cpu_second_network"),
        1: ("ablation_cpu_own_networks/acdc3_network_seed1", "ablation_cpu_own_networks"),
        2: ("ablation_cpu_own_networks/acdc3_network_seed2", "ablation_cpu_own_networks"),
    },
    7: {
        0: ("acdc_cpu/acdc7_supervised_0", "ablation_cpu_first_network"),
        1: ("ablation_cpu_own_networks/acdc7_network_seed1", "ablation_cpu_own_networks"),
        2: ("ablation_cpu_own_networks/acdc7_network_seed2", "ablation_cpu_own_networks"),
    },
}


def own_networks() -> str:
    """CIFP beside supervised training from networks that have the runs' own seeds."""
    rows = []
    for labeled, starts in NETWORKS.items():
        leads: dict[str, list[float]] = {"last": [], "best": []}
        for seed, (network, folder) in starts.items():
            names = [
                f"{folder}/acdc{labeled}_{n}_seed{seed}" for n in ("supervised_alone", "default")
            ]
            results = [load(RESULTS / f"{name}.json") for name in (network, *names)]
            dice = {
                rule: [one["checkpoints"][f"{rule}/validation"]["dice"]["mean"] for one in results]
                for rule in leads
            }
            for rule, (_, alone, cifp) in dice.items():
                leads[rule].append(cifp - alone)
            cells = [f"{last:.2f} ({best:.2f})" for last, best in zip(*dice.values(), strict=True)]
            lead = f"{leads['last'][-1]:+.2f} ({leads['best'][-1]:+.2f})"
            rows.append([str(labeled), str(seed), *cells, lead])
        means = [spread(leads[rule], sign="+") for rule in leads]
        rows.append([str(labeled), "mean", "", "", "", f"{means[0]} ({means[1]})"])
    head = ["labelled", "seed", "network", "supervised", "CIFP", "CIFP minus supervised"]
    return markdown(head, rows)
