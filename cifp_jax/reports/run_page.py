"""The report of a run: figures, cases, pictures, curves, settings and versions on one page."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cifp_jax import parallel
from cifp_jax.evaluation.calibration import BINS
from cifp_jax.evaluation.evaluate import FIGURES, Evaluation
from cifp_jax.files import write_text
from cifp_jax.reports import html
from cifp_jax.reports.summaries import TITLES, class_name, distance_unit, figure_texts

_PACKAGES = ("cifp-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def read_curves(metrics: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Pairs of step and value, by what they are, of a `metrics.jsonl`: loss and validation Dice.

    A last line that a killed run left half-written is left out, and so is a curve without points.
    """
    rows = [json.loads(line) for line in metrics.read_text().split("\n")[:-1]]
    keys = {"loss": "loss", "validation Dice %": "validation/dice"}
    curves = {
        title: [(row["step"], row[key]) for row in rows if key in row]
        for title, key in keys.items()
    }
    return {title: points for title, points in curves.items() if points}


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """One panel for each of the curves, of which there is at least one."""
    figure = Figure(figsize=(4.5 * len(curves), 3.5), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (title, points) in zip(panels, curves.items(), strict=True):
        style = "-" if len(points) > 50 else ".-"
        axes.plot([x for x, _ in points], [y for _, y in points], style)
        axes.set(xlabel="step", ylabel=title)
        axes.grid(alpha=0.3)
    return figure


def draw_reliability(calibration: Mapping[str, Any]) -> Figure:
    """Reliability diagram: accuracy by bin of confidence, and below it the share of voxels.

    Args:
      calibration: of a summary, see `calibration.Reliability.describe`; with at least one voxel.
    """
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [b for b, voxels in enumerate(calibration["voxels"]) if voxels]
    middles, width = [(b + 0.5) / BINS for b in filled], 0.9 / BINS
    total = sum(calibration["voxels"])
    upper.bar(middles, [calibration["accuracy"][b] for b in filled], width)
    upper.plot([0, 1], [0, 1], "k--", linewidth=1, label="perfect calibration")
    upper.set(ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left")
    shares = [100 * calibration["voxels"][b] / total for b in filled]
    lower.bar(middles, shares, width, color="gray")
    lower.set(xlim=(0, 1), xlabel="confidence", ylabel="voxels %")
    return figure


def _percent(ece: float | None) -> str:
    return "none" if ece is None else f"{100 * ece:.1f} %"


def _cards(summary: Mapping[str, Any]) -> str:
    figures = [(TITLES[name], f"{summary['overall'][name]['mean']:.2f}") for name in FIGURES]
    missed = ("missed classes", str(summary["overall"]["missed"]))
    error = ("calibration error", _percent(summary["calibration"]["ece"]))
    return html.cards([*figures, missed, error])


def _cases(evaluation: Evaluation, facts: Mapping[str, Any]) -> str:
    names, seconds = evaluation.cases(), evaluation.seconds()
    tables = {name: evaluation.table(name) for name in ("dice", "hd95", "asd", "missed")}
    called = [class_name(facts, k) for k in evaluation.class_ids()]
    called = [f"class {name}" if name.isdigit() else name for name in called]
    several = called if len(called) > 1 else []
    head = ["case", TITLES["dice"], *several, TITLES["hd95"], TITLES["asd"], "missed", "seconds"]
    rows = []
    for i in evaluation.worst_first():
        dice = tables["dice"][i]
        values = [dice.mean(), *(dice if several else ())]
        values += [tables["hd95"][i].mean(), tables["asd"][i].mean()]
        missed = str(int(tables["missed"][i].sum()))
        rows.append([names[i], *(f"{v:.2f}" for v in values), missed, f"{seconds[i]:.2f}"])
    caption = (
        f"Figures of a case are means over its foreground classes; 95HD and ASD in "
        f"{distance_unit(facts)}."
    )
    return html.table(head, rows, caption=caption)


def _overlays(evaluation: Evaluation, folder: pathlib.Path) -> str:
    """The overlays that were drawn, the worst case first."""
    names, dice = evaluation.cases(), evaluation.table("dice").mean(axis=1)
    files = [(i, folder / f"{names[i]}.png") for i in evaluation.worst_first()]
    return html.pictures(
        [
            html.picture(
                "png",
                file.read_bytes(),
                f"Slices of {names[i]} with contours and, beside them, the uncertainty",
                f"{names[i]}: Dice {dice[i]:.2f} %",
            )
            for i, file in files
            if file.is_file()
        ]
    )


def _calibration(calibration: Mapping[str, Any]) -> str:
    if calibration["ece"] is None:
        return html.paragraph("Neither labels nor predictions hold any foreground.")
    caption = (
        f"Expected calibration error {_percent(calibration['ece'])}, over "
        f"{sum(calibration['voxels']):,} voxels that are foreground in label or prediction, in "
        f"{BINS} bins of the likeliest class's probability. Bars below the diagonal: the network "
        f"is surer than it is right."
    )
    return html.drawing(draw_reliability(calibration), "Reliability diagram", caption)


def _list_section(
    summary: Mapping[str, Any], evaluation: Evaluation, folder: pathlib.Path
) -> Iterator[str]:
    """The cases of one list, at the reported checkpoint."""
    facts = summary["facts"]
    yield html.heading(2, f"{facts['list'].capitalize()}: {facts['cases']} cases")
    yield _cards(summary)
    if facts["checkpoint"] == "best" and facts["list"] == "validation":
        yield html.paragraph("The checkpoint was chosen by its Dice on these same cases.")
    yield html.heading(3, "Every case, worst first")
    yield _cases(evaluation, facts)
    if any(folder.glob("*.png")):
        yield html.heading(3, "The worst cases")
        yield _overlays(evaluation, folder)
    yield html.heading(3, "Calibration")
    yield _calibration(summary["calibration"])


def _checkpoints(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of all checkpoints and lists."""
    head = ["checkpoint/list", "step", "class", *TITLES.values(), "missed", "calibration error"]
    rows, strong = [], []
    for name, summary in summaries.items():
        if summary["facts"]["reported"]:
            strong.append(len(rows))
        step, error = str(summary["facts"]["step"]), _percent(summary["calibration"]["ece"])
        rows.append([name, step, "all", *figure_texts(summary["overall"]), error])
        if len(summary["classes"]) > 1:
            parts = summary["classes"].items()
            rows += [
                [name, step, class_name(summary["facts"], k), *figure_texts(part), ""]
                for k, part in parts
            ]
    facts = next(iter(summaries.values()))["facts"]
    caption = (
        f"Mean ± standard deviation over cases; 95HD and ASD in {distance_unit(facts)}. Bold: "
        f"reported. "
        f"Protocol {facts['protocol']}; distance of a missed class: {facts['empty']}; largest "
        f"component only: {facts['largest_component'] or 'no'}."
    )
    return html.table(head, rows, caption=caption, strong=strong)


def _settings(part: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Name and value of each setting, named as on the command line."""
    rows = []
    for key, value in part.items():
        if isinstance(value, Mapping):
            rows += _settings(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "data.root":  # a path is of no use to a reader elsewhere
            rows.append([f"{prefix}{key}", json.dumps(value)])
    return rows


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed: run from its source"


def _versions() -> list[list[str]]:
    packages = [[name, _version(name)] for name in _PACKAGES]
    return [
        ["date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")],
        ["hardware", parallel.hardware()],
        ["system", platform.platform()],
        ["python", platform.python_version()],
        *packages,
    ]


def write_report(
    workdir: pathlib.Path,
    *,
    config: Mapping[str, Any],
    summaries: Mapping[str, Mapping[str, Any]],
    evaluations: Mapping[str, Evaluation],
    overlays: pathlib.Path,
) -> None:
    """Writes `workdir/report.html`, which needs no other file.

    It holds pictures of scans and names of cases: it is to be kept as the data are.

    Args:
      workdir: of the run; its `metrics.jsonl`, where there is one, gives the curves.
      config: the settings, as in `config.json`.
      summaries: by `<checkpoint>/<list>`, see `summaries.summarize`; {} where there were no cases.
      evaluations: what they summarise, by the same keys.
      overlays: folder of the pictures, `<key>/<case>.png`.
    """
    reported = {key: s for key, s in summaries.items() if s["facts"]["reported"]}
    sections: list[str] = []
    subtitle = "No case was evaluated: the run has no validation and no test list."
    # The list that a run is known by first.
    for key, summary in sorted(
        reported.items(), key=lambda item: item[1]["facts"]["list"] != "test"
    ):
        facts = summary["facts"]
        told = {"checkpoint": "the {} checkpoint", "step": "step {}", "weights": "{} weights"}
        told["seed"] = "seed {}"
        known = [text.format(facts[k]) for k, text in told.items() if facts[k] is not None]
        subtitle = f"Reported: {', '.join(known)}."
        sections += _list_section(summary, evaluations[key], overlays / key)
    if summaries:
        sections += [html.heading(2, "All checkpoints and lists"), _checkpoints(summaries)]
    metrics = workdir / "metrics.jsonl"
    curves = read_curves(metrics) if metrics.is_file() else {}
    if curves:
        text = f"Over steps: {', '.join(curves)}"
        sections += [html.heading(2, "Curves"), html.drawing(draw_curves(curves), text, text)]
    settings = html.table(["setting", "value"], _settings(config), text=True)
    versions = html.table(["of", "at the evaluation"], _versions(), text=True)
    sections += [html.heading(2, "Configuration"), html.folded("every setting", settings)]
    sections += [html.heading(2, "Versions"), versions]
    title = f"{config['method']['name']} on {config['data']['name']}"
    write_text(workdir / "report.html", html.page(title, subtitle, sections))
