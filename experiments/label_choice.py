"""Does ranking choose better scans to label than chance? ACDC, training patients only.

    python -m experiments.label_choice --data=data/ACDC --runs=runs/label_choice

A network is trained with the first 3 patients of the training list labelled. It ranks the scans of
all others (`cifp_jax.evaluation.ranking`, as `predict --rank` does), without their labels. Then 4
more patients are labelled, the best ranked or 4 at random, and a network is trained from scratch
with 7. The 20 validation volumes only score, at the last step. Their own labels, kept back until
then, also say how well the score of a scan foretells the Dice of its prediction.

Stop it at any time: the same command goes on with the runs that have no result yet.
"""

import argparse
import functools
import json
import pathlib
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer
from scipy import stats

from cifp_jax.data import sources, splits
from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.evaluation import metrics, ranking
from cifp_jax.files import write_json, write_list, write_text
from cifp_jax.inference import embedding, prediction
from cifp_jax.inference.segmentation import segment
from cifp_jax.training import run_folder
from experiments.collect import read_results
from experiments.planned_runs import Cell
from experiments.run import run_table
from experiments.seed_groups import RESULTS
from experiments.stop import stoppable

FIRST, MORE = 3, 4
DRAWS = (1, 2, 3)
PARTS = ("score", "uncertainty", "disagreement")
SETTINGS: dict[str, Any] = {
    "method.name": "supervised",
    "data.batch_labeled": 8,
    "data.batch_unlabeled": 2,
    "training.evaluate_every": 0,
    "evaluation.report": "last",
    "evaluation.overlays": 0,
}


def write_root(data: pathlib.Path, root: pathlib.Path, first: Sequence[str]) -> pathlib.Path:
    """A folder like `data`, by links, whose training list starts with the patients `first`."""
    root.mkdir(parents=True, exist_ok=True)
    layout = LAYOUTS["acdc"]
    for name in ("data", layout.validation_list):
        link = root / name
        link.unlink(missing_ok=True)
        link.symlink_to((data / name).resolve())
    lines = (data / layout.train_list).read_text().split()
    place = {patient: i for i, patient in enumerate(first)}
    lines.sort(key=lambda line: place.get(splits.patient(line), len(place)))
    write_list(root / layout.train_list, lines)
    return root


def cell(
    data: pathlib.Path,
    folder: pathlib.Path,
    label: str,
    patients: Sequence[str],
    seed: int,
    steps: int,
) -> Cell:
    """The run of one choice of labelled patients."""
    root = write_root(data, folder / "roots" / label, patients)
    own = {"data.root": root, "data.labeled": len(patients), "seed": seed, "training.steps": steps}
    return Cell(f"{label}_seed{seed}", label, "configs/acdc.py:cpu", SETTINGS | own)


def listed_patients(data: pathlib.Path) -> list[str]:
    """The training patients in the order of their list."""
    lines = (data / LAYOUTS["acdc"].train_list).read_text().split()
    return list(dict.fromkeys(splits.patient(line) for line in lines))


def unlabeled_scans(root: pathlib.Path, labeled: int) -> dict[str, list[sources.Case]]:
    """The slices of each unlabelled training scan, in order."""
    scans: dict[str, list[sources.Case]] = {}
    for case in splits.load_split("acdc", root, labeled=labeled).unlabeled:
        scans.setdefault(case.name.split("_slice_")[0], []).append(case)
    for cases in scans.values():
        cases.sort(key=lambda case: int(case.name.split("_slice_")[1]))
    return scans


def true_dice(label: Integer[np.ndarray, "*s"], truth: Integer[np.ndarray, "*s"]) -> float:
    """Mean Dice of the foreground classes of ACDC, %."""
    return 100 * float(np.mean([metrics.dice(label == k, truth == k) for k in (1, 2, 3)]))


def rank_scans(run: pathlib.Path, scans: dict[str, list[sources.Case]]) -> list[dict[str, Any]]:
    """The ranking by the network of `run`, with the Dice that each prediction turns out to have.

    The labels are read for that Dice only, after the evidence of a scan has been gathered.
    """
    config, variables = run_folder.load_network(run)
    predict = prediction.make_predictor(config)(variables)
    describe = embedding.make_describer(config)(variables)
    known, dice = {}, {}
    for name, cases in scans.items():
        slices = [sources.read_case(case, classes=4, rank=2) for case in cases]
        image, truth = (np.stack([one[key] for one in slices]) for key in ("image", "label"))
        segmented = functools.partial(
            segment, predict, shape=image.shape, classes=4, patch=1, stride=1
        )
        found = segmented(image, uncertainty=True)
        mirrored = prediction.mirrored_axes(config)
        known[name], _ = ranking.gather(segmented, describe, image, found, image, mirrored)
        dice[name] = true_dice(found.label, truth)
    return [
        {
            "case": place.case,
            **{part: getattr(known[place.case], part) for part in PARTS},
            "distance": place.distance,
            "dice": dice[place.case],
        }
        for place in ranking.rank(known)
    ]


def correlations(scans: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's rank correlation of each part of the score with the Dice; -1 is the best."""
    dice = [scan["dice"] for scan in scans]
    return {
        part: float(np.asarray(stats.spearmanr([scan[part] for scan in scans], dice))[0])
        for part in PARTS
    }


def choices(scans: Sequence[dict[str, Any]], rest: Sequence[str]) -> dict[str, list[str]]:
    """The patients to label next: those of the best ranked scans, and others of `rest` drawn."""
    ranked = list(dict.fromkeys(splits.patient(scan["case"]) for scan in scans))
    drawn = {f"random{draw}": random.Random(draw).sample(list(rest), MORE) for draw in DRAWS}
    return {"ranked": ranked[:MORE], **drawn}


def table(folder: pathlib.Path) -> str:
    """What came out, as Markdown, from the JSON files of `folder`."""
    known = json.loads((folder / "ranking/scans.json").read_text())
    results = read_results(folder / "runs")
    one = next(iter(results.values()))
    steps, hardware = one["config"]["training"]["steps"], one["reported"]["facts"]["hardware"]
    sides = " x ".join(map(str, one["config"]["data"]["patch_size"]))
    scans = known["scans"]
    lines = [
        "# Labels chosen by the ranking against random choice",
        "",
        f"ACDC, supervised, {sides}, 8 slices a step, {steps} steps from scratch, last step, EMA",
        f"weights, 20 validation volumes; hardware: {hardware}. The network of seed 0 with",
        f"the first {FIRST} patients labelled ranks the {len(scans)} scans of the others, of which",
        f"{MORE} more are labelled then.",
        "",
        "    python -m experiments.label_choice --data=data/ACDC",
        "",
        "| labels | patients added | seed | Dice % | 95HD | missed | Dice % of the added before |",
        "|---|---|---|---|---|---|---|",
    ]
    before = {scan["case"]: scan["dice"] for scan in scans}
    for label, patients in {"first": [], **known["choices"]}.items():
        own = [d for case, d in before.items() if splits.patient(case) in patients]
        for result in results.values():
            if result["label"] != label:
                continue
            figures, seed = result["reported"]["overall"], result["config"]["seed"]
            added = ", ".join(patient.removeprefix("patient") for patient in patients) or "-"
            lines.append(
                f"| {label} | {added} | {seed} | {figures['dice']['mean']:.2f} "
                f"| {figures['hd95']['mean']:.2f} | {figures['missed']} "
                f"| {f'{np.mean(own):.1f}' if own else '-'} |"
            )
    lines += [
        "",
        f"Rank correlation (Spearman) with the true Dice of the predictions of these {len(scans)}",
        f"scans, whose mean is {np.mean(list(before.values())):.1f} %; -1 would be perfect:",
        "",
        "| " + " | ".join(known["spearman"]) + " |",
        "|" + "---|" * len(known["spearman"]),
        "| " + " | ".join(f"{rho:.2f}" for rho in known["spearman"].values()) + " |",
    ]
    return "\n".join(lines) + "\n"


def check(
    data: pathlib.Path,
    folder: pathlib.Path,
    results: pathlib.Path,
    seeds: Sequence[int],
    steps: int,
) -> None:
    """Runs what has no result yet, and writes `ranking/scans.json`, `runs/*.json` and `table.md`.

    Raises:
      FileNotFoundError, ValueError: of the data or the results.
      RuntimeError: a run failed, or was stopped; its log says why.
    """

    def train(cells: Sequence[Cell]) -> None:
        with stoppable() as stop:
            outcome = run_table(cells, folder, results / "runs", environment={}, stop=stop)
        ended = [name for name, status in outcome.items() if status != "done"]
        left = len(cells) - sum(1 for c in cells if (results / f"runs/{c.name}.json").exists())
        if ended or left:
            raise RuntimeError(f"{ended} did not end; see log.txt in its folder below {folder}.")

    start = listed_patients(data)[:FIRST]
    first = cell(data, folder, "first", start, 0, steps)
    train([first])
    if not (results / "ranking/scans.json").exists():
        scans = rank_scans(folder / first.name, unlabeled_scans(first.settings["data.root"], FIRST))
        rest = listed_patients(data)[FIRST:]
        known = {"choices": choices(scans, rest), "spearman": correlations(scans), "scans": scans}
        write_json(results / "ranking/scans.json", known)
    chosen = json.loads((results / "ranking/scans.json").read_text())["choices"]
    for seed in seeds:
        for label, more in chosen.items():
            train([cell(data, folder, label, [*start, *more], seed, steps)])
            write_text(results / "table.md", table(results))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.label_choice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, default="data/ACDC", help="folder of ACDC")
    parser.add_argument(
        "--runs", type=pathlib.Path, default="runs/label_choice", help="folder of the runs"
    )
    parser.add_argument("--steps", type=int, default=800, help="of each run")
    parser.add_argument("--seeds", default="0,1", help="of the runs with 7 labelled patients")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    try:
        check(given.data, given.runs, RESULTS / "label_choice", seeds, given.steps)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
