"""Tables of the documents that are made of `experiments/results/`."""

import functools
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from cifp_jax.data.layouts import find_layout
from cifp_jax.inference.released import released
from cifp_jax.inference.weights import load_weights
from experiments.collect import load
from experiments.comparison_tables import (
    BOTH_LOSSES,
    ablation,
    all_labels,
    groups,
    normalization,
    own_networks,
)
from experiments.published import PUBLISHED
from experiments.report import markdown, row
from experiments.seed_groups import RESULTS, read

FIGURES = ("Dice %", "Jaccard %", "95HD", "ASD", "missed")


def paragraph(text: str) -> str:
    """Text in lines of the documents' width."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def recorded(folder: pathlib.Path, name: str) -> str:
    """A table that was printed while its JSON was not kept."""
    one = load(folder / "recorded.json")["tables"][name]
    return markdown(one["columns"], [[str(cell) for cell in line] for line in one["rows"]])


def sides(result: Mapping[str, Any]) -> str:
    """Of the patch that a run was trained on, voxels."""
    return " x ".join(map(str, result["config"]["data"]["patch_size"]))


def overall(summary: Mapping[str, Any]) -> list[str]:
    """Means over cases, and the number of missed classes."""
    figures = summary["overall"]
    means = [f"{figures[key]['mean']:.2f}" for key in ("dice", "jaccard", "hd95", "asd")]
    return [*means, str(figures["missed"])]


def main_table(folder: str, *counts: int) -> str:
    """Supervised training beside CIFP at both resolutions of a folder such as `acdc_cpu`.

    Args:
      folder: of the runs.
      counts: of labelled patients, each with rows of its own.
    """
    rows = []
    for labeled in counts:
        found = {one.label: one for one in groups(RESULTS / folder, labeled)}
        for then, longer in (("", ""), ("then ", ", longer")):
            base = found[f"supervised{longer}"]
            side = then + sides(next(iter(base.runs.values())))
            for name, label in (("supervised", "supervised only"), ("cifp", "CIFP")):
                _, *figures, _, checkpoint, steps, _, time = row(found[f"{name}{longer}"], base)
                rows.append([str(labeled), f"{label}, {side}", *figures, checkpoint, steps, time])
    head = [
        "labelled",
        "",
        *FIGURES,
        "Dice minus supervised's (seeds)",
        "checkpoint",
        "steps",
        "time",
    ]
    return markdown(head, rows)


def by_class(folder: str, classes: str) -> str:
    """Each run of a folder: Dice of its checkpoints, of the classes, and the time."""
    rows = []
    for result in read(RESULTS / folder).values():
        facts = result["reported"]["facts"]
        rules = [result["checkpoints"][f"{rule}/validation"] for rule in ("best", "last")]
        parts = result["reported"]["classes"].values()
        labeled = result["config"]["data"]["labeled"]
        rows.append(
            [
                f"{labeled} labelled, {result['label']}, seed {facts['seed']}",
                f"{result['config']['training']['steps']:,}",
                *(f"{figures['dice']['mean']:.2f}" for figures in rules),
                " / ".join(f"{one['dice']['mean']:.1f}" for one in parts),
                f"{result['reported']['overall']['hd95']['mean']:.2f}",
                f"{result['seconds'] / 60:.0f} min",
            ]
        )
    head = ["", "steps", "Dice %, best", "last", classes, "95HD", "time"]
    return markdown(head, rows)


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


def label_choice() -> str:
    """One paragraph on how far the ranking is to be trusted."""
    folder = RESULTS / "label_choice"
    rho = load(folder / "ranking/scans.json")["spearman"]
    dice = {path.stem.removesuffix("_seed0"): overall(load(path)["reported"])[0] for path in
            sorted((folder / "runs").glob("*_seed0.json"))}  # fmt: skip
    drawn = " and ".join(value for name, value in dice.items() if name.startswith("random"))
    return paragraph(
        f"The rank correlation (Spearman) of a scan's score with the true Dice of its prediction "
        f"was {rho['score']:.2f}; it was {rho['uncertainty']:.2f} for the uncertainty alone and "
        f"{rho['disagreement']:.2f} for the disagreement alone. Four patients chosen by the "
        f"ranking raised Dice from {dice['first']} to {dice['ranked']}, and random draws of four "
        f"raised it to {drawn} (one seed)."
    )


# The run that a released network comes from, and what it is. Its file stands in `names.json`, and
# its figures, as `main` scores the file, in `<name>.json` beside it.
RELEASED = {
    "acdc-3": ("acdc_cpu/acdc3_cifp_2_longer", "CIFP, U-Net, 3 ACDC patients"),
    "acdc-7": ("acdc_cpu/acdc7_cifp_1_longer", "CIFP, U-Net, 7 ACDC patients"),
    "acdc-7-supervised": ("acdc_cpu/acdc7_supervised_0_longer", "supervised, the same"),
    "la-8": ("la_cpu/la8_cifp_4_whole_scans_longer", "CIFP, V-Net, 8 LA scans"),
}


def _released(name: str) -> tuple[pathlib.Path, Any, Any]:
    """File of a released network, its summary, and the result of its run."""
    path = released()[name]
    return path, load(path.with_name(f"{name}.json")), load(RESULTS / f"{RELEASED[name][0]}.json")


def model_card(name: str) -> str:
    """What a released network reached, by structure."""
    path, summary, result = _released(name)
    header = load_weights(path).facts
    names = find_layout(header["data"]["name"]).label_names
    parts = {"mean": summary["overall"]}
    parts |= {names[int(k)]: part for k, part in summary["classes"].items()}
    rows = [
        [part, *(f"{figures[key]['mean']:.2f}" for key in ("dice", "jaccard", "hd95", "asd"))]
        for part, figures in parts.items()
    ]
    head = [f"`{path.name}`", "Dice %", "Jaccard %", "95HD, voxels", "ASD, voxels"]
    said, patients = result["reported"]["facts"], header["training_list"]
    anew = header.get("batch_stats")
    statistics = f", batch statistics of {anew['images']:,} unchanged images" if anew else ""
    sentence = paragraph(
        f"{said['cases']} {said['list']} cases, {said['checkpoint']} checkpoint (step "
        f"{said['step']:,}), seed {said['seed']}{statistics}; {len(patients['labeled'])} labelled "
        f"and {len(patients['unlabeled'])} unlabelled patients in its training list."
    )
    return f"{markdown(head, rows)}\n\n{sentence}"


def weights() -> str:
    """The released networks with the figures that `main` gives their files."""
    rows = []
    for name, (_, what) in RELEASED.items():
        path, summary, result = _released(name)
        facts, data = result["reported"]["facts"], result["config"]["data"]
        scale = f"; scans averaged down by {data['downsample']}" if data["downsample"] > 1 else ""
        rows.append(
            [
                f"[`{name}`](../../docs/models/{name}.md)",
                f"`{path.name}`",
                what,
                f"{sides(result)}{scale}, {result['config']['training']['steps']:,} steps",
                f"{facts['checkpoint']}, {facts['step']:,}",
                str(facts["cases"]),
                *overall(summary)[:4],
            ]
        )
    head = ["name", "file", "what", "trained on", "checkpoint", "cases scored", *FIGURES[:4]]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "acdc": lambda: main_table("acdc_cpu", 3, 7),
    "acdc_cpu": lambda: by_class("acdc_cpu", "RV / myocardium / LV"),
    "la_cpu": lambda: by_class("la_cpu", "left atrium"),
    "ablation_3": lambda: ablation("ablation_cpu_second_network", 3),
    "ablation_7": lambda: ablation("ablation_cpu_first_network", 7),
    "ablation_la": lambda: ablation("ablation_cpu_first_network", 8),
    "ablation_3_both_losses": lambda: ablation("ablation_cpu_first_network", 3, BOTH_LOSSES),
    "ablation_3_both_losses_again": lambda: ablation("ablation_cpu_second_network", 3, BOTH_LOSSES),
    "ablation_7_both_losses": lambda: ablation("ablation_cpu_first_network", 7, BOTH_LOSSES),
    "all_labels": all_labels,
    "own_networks": own_networks,
    "normalization": normalization,
    "la_resolution": lambda: recorded(RESULTS, "la_resolution"),
    "published": published,
    "weights": weights,
    "label_choice": label_choice,
    "demo": lambda: recorded(RESULTS, "demo"),
    "outlines": lambda: recorded(RESULTS, "outlines"),
    "own_data": lambda: recorded(RESULTS, "own_data"),
    "carried": lambda: recorded(RESULTS, "carried"),
    **{f"card_{name}": functools.partial(model_card, name) for name in RELEASED},
}
