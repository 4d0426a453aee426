"""The table of the search for a core that pays, made of `experiments/results/core_search.json`."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.collect import load
from experiments.report import markdown
from experiments.seed_groups import RESULTS

# What each trial was, by its name; trials of one part start from the same network.
TRIALS = {
    "base7": "7 patients: supervised, the network that the next three start from",
    "c7_ctrl": "supervised, the control",
    "c7_mix": "every image a box mix of a labelled and an unlabelled one",
    "c7_unl44": "labelled and unlabelled images side by side",
    "d7_ctrl": "7 patients, longer, from the control's network: supervised, the control",
    "d7_unl44": "side by side",
    "d7_unl44_ce": "side by side, cross entropy alone on the unlabelled part",
    "d7_unl44_al": "side by side, pseudo labels aligned with the labelled prior",
    "d7_full": "both, with refined and fused pseudo labels and stronger gray-value changes",
    "e7_ctrl": "7 patients, longer still, from the longer control: supervised, the control",
    "e7_full": "from the trial with all parts, its refinement falling to 0",
    "f7_full": "from that one, no refinement, twice the time; no control was run",
    "base3": "3 patients: supervised, the network that the others start from",
    "c3_ctrl": "supervised, the control",
    "c3_unl44": "side by side",
    "c3_unl26": "side by side, two labelled images and six unlabelled ones",
    "c3_mix44a": "box mixes in a pass of their own that moves no running statistics",
    "c3_unl44_s2": "side by side, refined and fused pseudo labels",
    "c3_ctrl_pow": "supervised, with stronger gray-value changes",
    "c3_unl44_pow": "side by side, with stronger gray-value changes",
    "c3_full": "all of these parts",
    "c3_exch3": "side by side as before, the student's ambiguous features moved to labelled ones",
    "c3_R2": "side by side as before, voxels weighted by exp(-2 U)",
    "c3_geo": "side by side as before, fused with the teacher's prediction of the turned image",
    "c3_self": "side by side as before, fused with the student's own prediction",
}


def _row(name: str, trial: Mapping[str, Any]) -> list[str]:
    last = trial["curve"][-1]
    classes = " / ".join(f"{value:.1f}" for value in last["classes"])
    return [
        TRIALS[name],
        f"{last['core_seconds']:.0f}",
        f"{trial['steps']:,}",
        f"{last['dice']:.2f}",
        classes,
        f"{last['pseudo_labels']:.1f}",
    ]


def core_search() -> str:
    """Each trial with its time, steps, Dice, and the Dice of its pseudo labels."""
    trials = load(RESULTS / "core_search.json")
    rows = [_row(name, trials[name]) for name in TRIALS]
    head = ["", "core seconds", "steps", "Dice %", "RV / myocardium / LV", "pseudo labels' Dice %"]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {"core_search": core_search}
