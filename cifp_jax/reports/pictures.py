"""Slices with the contours of labels and predictions, as PNG files."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Integer, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cifp_jax.data.sources import Case
from cifp_jax.evaluation.evaluate import Read, label_map
from cifp_jax.files import whole
from cifp_jax.inference.prediction import Predict
from cifp_jax.inference.segmentation import normalized_entropy

_COLORS = ("tab:red", "tab:green", "tab:blue", "tab:orange", "tab:purple", "tab:cyan")


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
    """A case as a stack of slices, which lie across its shortest axis.

    Of an image of several channels the first one is drawn.
    """

    def __init__(self, record: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        image, label = record["image"], record["label"]
        self.axis = int(np.argmin(label.shape))
        if image.ndim > label.ndim:
            image = image[..., 0]
        self.image = np.moveaxis(image, self.axis, 0)
        self.label = np.moveaxis(label, self.axis, 0)
        self.limits = tuple(np.percentile(self.image, (0.5, 99.5)))

    def predicted(
        self, probabilities: Float[np.ndarray, "*s k"], largest_component: str
    ) -> tuple[Integer[np.ndarray, "z h w"], Float[np.ndarray, "z h w"]]:
        """The label map, as it is scored, and the uncertainty."""
        front = np.moveaxis(probabilities, self.axis, 0)
        return label_map(front, largest_component=largest_component), normalized_entropy(front)

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
    predict: Predict,
    cases: Sequence[Case],
    read: Read,
    folder: pathlib.Path,
    *,
    largest_component: str = "",
) -> None:
    """Draws `<case>.png` for each case: contours and, beside them, the uncertainty in [0, 1].

    The outline of the prediction is solid and that of the label dotted, with one colour for each
    class. The slices are those of `choose_slices`, across the shortest axis of the volume.

    Args:
      predict: image to probabilities.
      cases: what to draw.
      read: as of `evaluate_cases`.
      folder: of the pictures, made where it is missing.
      largest_component: as of `evaluate_cases`, so that what is drawn is what was scored.
    """
    for case in cases:
        record = read(case)
        drawing = _Drawing(record)
        probabilities = predict(record["image"])
        prediction, uncertainty = drawing.predicted(probabilities, largest_component)
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
    predicts: Mapping[str, Predict],
    cases: Sequence[Case],
    read: Read,
    path: pathlib.Path,
    *,
    largest_component: str = "",
) -> None:
    """Draws a row for each case: the label, then each method's prediction and its uncertainty.

    The slice is the one with the largest labelled foreground.

    Args:
      predicts: image to probabilities, by the name of the method.
      cases: what to draw.
      read: as of `evaluate_cases`.
      path: of the PNG.
      largest_component: as of `evaluate_cases`, so that what is drawn is what was scored.
    """
    figure, axes = make_grid(len(cases), 1 + 2 * len(predicts))
    axes[0, 0].set_title("label")
    for row, case in zip(axes, cases, strict=True):
        record = read(case)
        drawing = _Drawing(record)
        z = int(np.argmax((drawing.label > 0).sum(axis=(1, 2))))
        drawing.show(row[0], z, {"solid": drawing.label})
        for i, predict in enumerate(predicts.values()):
            probabilities = predict(record["image"])
            prediction, uncertainty = drawing.predicted(probabilities, largest_component)
            drawing.show(row[1 + 2 * i], z, {"solid": prediction})
            row[2 + 2 * i].imshow(uncertainty[z], cmap="magma", vmin=0, vmax=1)
    for i, name in enumerate(predicts):
        axes[0, 1 + 2 * i].set_title(name)
        axes[0, 2 + 2 * i].set_title("uncertainty")
    save_figure(figure, path)
