"""Figures as files, tables and pictures. Every file appears whole or not at all."""

import csv
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from cifp_jax.data.records import whole, write_json
from cifp_jax.data.sources import Case
from cifp_jax.evaluation.evaluate import FIGURES, Evaluation, Predict, Read

# Changes whenever the same predictions would give other figures.
PROTOCOL = "cifp-jax-1"

TITLES = {"dice": "Dice %", "jaccard": "Jaccard %", "hd95": "95HD", "asd": "ASD"}
_COLORS = ("tab:red", "tab:green", "tab:blue", "tab:orange", "tab:purple", "tab:cyan")


def _spread(values: Float[np.ndarray, " n"]) -> dict[str, float]:
    return {"mean": float(values.mean()), "std": float(values.std())}


def summarise(evaluation: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Means and standard deviations (of the population of cases), with what they depend on.

    Returns:
      `facts`: the protocol's version, the rules, the number of cases, and those given;
      `classes`: by class, `{figure: {mean, std}}` over cases, and `missed`, the number of cases;
      `overall`: likewise of each case's mean over classes, `missed` summed over classes;
      `seconds`: of a case's prediction;
      `calibration`: the expected calibration error and its bins, over the voxels of all cases.
    """
    tables = {name: evaluation.table(name) for name in FIGURES}
    missed = evaluation.table("missed").sum(axis=0).astype(int).tolist()
    rules = {"empty": evaluation.empty, "largest_component": evaluation.largest_component}
    return {
        "facts": {
            "protocol": PROTOCOL,
            "cases": len(evaluation.seconds()),
            "units": {"dice": "%", "jaccard": "%", "hd95": "voxel", "asd": "voxel"},
            **facts,
            **rules,
        },
        "classes": {
            str(k): {name: _spread(tables[name][:, i]) for name in FIGURES} | {"missed": missed[i]}
            for i, k in enumerate(evaluation.class_ids())
        },
        "overall": {name: _spread(tables[name].mean(axis=1)) for name in FIGURES}
        | {"missed": sum(missed)},
        "seconds": _spread(evaluation.seconds()),
        "calibration": evaluation.reliability.describe(),
    }


def write_evaluation(
    evaluation: Evaluation, folder: pathlib.Path, *, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `cases.csv` (a line per case and class) and `summary.json` to `folder`.

    Overlays in it are of the figures that are replaced, and removed.

    Args:
      evaluation: the figures.
      folder: made where it is missing.
      facts: what the figures depend on, for the summary: list, checkpoint rule, step, weights, ...

    Returns:
      The summary, see `summarise`.
    """
    for overlay in folder.glob("*.png"):
        overlay.unlink()
    with whole(folder / "cases.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "class", *FIGURES, "missed", "seconds"])
        for row in evaluation.rows:
            figures = [f"{getattr(row.score, name):.6f}" for name in FIGURES]
            missed, seconds = int(row.score.missed), f"{row.seconds:.3f}"
            writer.writerow([row.case, row.score.class_id, *figures, missed, seconds])
    summary = summarise(evaluation, facts)
    write_json(folder / "summary.json", summary)
    return summary


def figure_texts(part: Mapping[str, Any]) -> list[str]:
    """`mean ± std` of each of `FIGURES`, and `missed`, of a part of a summary."""
    values = [f"{part[name]['mean']:.2f} ± {part[name]['std']:.2f}" for name in FIGURES]
    return [*values, str(part["missed"])]


def print_table(
    console: Console, summaries: Mapping[str, Mapping[str, Any]], title: str = ""
) -> None:
    """Prints summaries one below the other: overall, then by class. The reported one is bold."""
    table = Table(title=title, caption="mean ± std over cases; 95HD and ASD in voxels")
    for column in ("", "step", "class", *TITLES.values(), "missed"):
        table.add_column(column, justify="left" if column in ("", "class") else "right")
    for name, summary in summaries.items():
        reported = bool(summary["facts"].get("reported"))
        style, mark = ("bold", " (reported)") if reported else (None, "")
        step = str(summary["facts"].get("step", ""))
        table.add_row(f"{name}{mark}", step, "all", *figure_texts(summary["overall"]), style=style)
        if len(summary["classes"]) > 1:
            for k, part in summary["classes"].items():
                table.add_row("", "", k, *figure_texts(part), style="dim")
        table.add_section()
    console.print(table)


def print_comparison(console: Console, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints the overall figures of several methods on the same cases, one line each."""
    facts = next(iter(summaries.values()))["facts"]
    table = Table(
        title=f"{facts['cases']} {facts.get('list', '')} cases",
        caption="mean ± std over cases; 95HD and ASD in voxels",
    )
    for column in ("method", "step", *TITLES.values(), "missed"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, summary in summaries.items():
        step = str(summary["facts"].get("step", ""))
        table.add_row(name, step, *figure_texts(summary["overall"]))
    console.print(table)


def normalised_entropy(probabilities: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s"]:
    """`-sum_c p_c log p_c / log k`, from 0 (one class is certain) to 1 (all are equally likely)."""
    p = np.clip(probabilities, 1e-12, 1)
    return -(p * np.log(p)).sum(axis=-1) / np.log(p.shape[-1])


def choose_slices(
    label: Integer[np.ndarray, "z h w"],
    prediction: Integer[np.ndarray, "z h w"],
    uncertainty: Float[np.ndarray, "z h w"],
) -> list[int]:
    """At most three slices worth a look, in order of place.

    The one with the largest labelled foreground; of the rest, that with most uncertainty; and of
    the rest, that with most wrong voxels.
    """
    chosen: list[int] = []
    for volume in (label > 0, uncertainty, prediction != label):
        order = np.argsort(-volume.sum(axis=(1, 2)), kind="stable").tolist()
        chosen += [z for z in order if z not in chosen][:1]
    return sorted(chosen)


class _Drawing:
    """A case with its slices in front: along the shortest axis, which is across the slices."""

    def __init__(self, record: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        image, label = record["image"], record["label"]
        self.axis = int(np.argmin(label.shape))
        image = (
            image if image.ndim == label.ndim else image[..., 0]
        )  # the first of several channels
        self.image = np.moveaxis(image, self.axis, 0)
        self.label = np.moveaxis(label, self.axis, 0)
        self.limits = tuple(np.percentile(self.image, (0.5, 99.5)))

    def predicted(
        self, probabilities: Float[np.ndarray, "*s k"]
    ) -> tuple[Integer[np.ndarray, "z h w"], Float[np.ndarray, "z h w"]]:
        """Label map and uncertainty."""
        front = np.moveaxis(probabilities, self.axis, 0)
        return front.argmax(axis=-1), normalised_entropy(front)

    def show(self, axes: Axes, z: int, maps: Mapping[str, Integer[np.ndarray, "z h w"]]) -> None:
        """A slice of the image with the contours of `maps`, as `show_slice`."""
        show_slice(axes, self.image[z], {k: v[z] for k, v in maps.items()}, self.limits)


def show_slice(
    axes: Axes,
    image: Shaped[np.ndarray, "h w"],
    maps: Mapping[str, Integer[np.ndarray, "h w"]],
    limits: tuple[float, ...],
) -> None:
    """Draws an image with the contours of `maps`, which are named by their line style.

    `limits` are the values of the image that are drawn black and white; a class has one colour.
    """
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1])
    for style, label in maps.items():
        for k in np.unique(label[label > 0]).tolist():
            mask = label == k
            if not mask.all():
                color = _COLORS[(k - 1) % len(_COLORS)]
                axes.contour(mask, [0.5], colors=color, linestyles=style, linewidths=1.2)


def make_grid(rows: int, columns: int) -> tuple[Figure, Shaped[np.ndarray, "rows columns"]]:
    """A figure with a field of pictures without axes."""
    figure = Figure(figsize=(3 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.set_axis_off()
    return figure, axes


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure as PNG."""
    with whole(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def draw_overlays(
    predict_volume: Predict, cases: Sequence[Case], read: Read, folder: pathlib.Path
) -> None:
    """Draws `<case>.png` for each case: contours and, beside them, the uncertainty in [0, 1].

    Solid: prediction; dotted: label; one colour a class. The slices are those of `choose_slices`,
    across the shortest axis of the volume.
    """
    for case in cases:
        record = read(case)
        drawing = _Drawing(record)
        prediction, uncertainty = drawing.predicted(predict_volume(record["image"]))
        slices = choose_slices(drawing.label, prediction, uncertainty)
        figure, axes = make_grid(len(slices), 2)
        title = f"{case.name}\nsolid: prediction, dotted: label; right: uncertainty"
        figure.suptitle(title, parse_math=False)
        for (left, right), z in zip(axes, slices, strict=True):
            drawing.show(left, z, {"solid": prediction, "dotted": drawing.label})
            left.set_title(f"slice {z}")
            shown = right.imshow(uncertainty[z], cmap="magma", vmin=0, vmax=1)
            figure.colorbar(shown, ax=right, shrink=0.8)
        save_figure(figure, folder / f"{case.name}.png")


def draw_comparison(
    predict_volumes: Mapping[str, Predict], cases: Sequence[Case], read: Read, path: pathlib.Path
) -> None:
    """Draws one row a case: the label, then each method's prediction and its uncertainty.

    The slice is the one with the largest labelled foreground.
    """
    figure, axes = make_grid(len(cases), 1 + 2 * len(predict_volumes))
    axes[0, 0].set_title("label")
    for row, case in zip(axes, cases, strict=True):
        record = read(case)
        drawing = _Drawing(record)
        z = int(np.argmax((drawing.label > 0).sum(axis=(1, 2))))
        drawing.show(row[0], z, {"solid": drawing.label})
        for i, predict_volume in enumerate(predict_volumes.values()):
            prediction, uncertainty = drawing.predicted(predict_volume(record["image"]))
            drawing.show(row[1 + 2 * i], z, {"solid": prediction})
            row[2 + 2 * i].imshow(uncertainty[z], cmap="magma", vmin=0, vmax=1)
    for i, name in enumerate(predict_volumes):
        axes[0, 1 + 2 * i].set_title(name)
        axes[0, 2 + 2 * i].set_title("uncertainty")
    save_figure(figure, path)
