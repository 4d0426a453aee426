"""Cases to figures: predict, take the argmax, score, bin the confidence, and average."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped
from scipy import ndimage

from cifp_jax.data.sources import Case
from cifp_jax.evaluation import calibration, metrics
from cifp_jax.inference.prediction import Predict

Read = Callable[[Case], dict[str, Shaped[np.ndarray, "..."]]]

FIGURES = ("dice", "jaccard", "hd95", "asd")


class CaseError(RuntimeError):
    """A case could not be predicted or scored; the message names it and its file."""


class Row(NamedTuple):
    """Figures of one class of one case."""

    case: str
    score: metrics.Score
    seconds: float  # of the case's prediction, without reading and scoring


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of all cases, and the two rules that they follow."""

    rows: tuple[Row, ...]  # case by case, the classes of each in order
    empty: str
    largest_component: str
    reliability: calibration.Reliability  # over the voxels of all cases
    unit: str = "voxel"  # of the distances: voxel or mm

    def class_ids(self) -> list[int]:
        """The foreground classes."""
        return sorted({row.score.class_id for row in self.rows})

    def cases(self) -> list[str]:
        """Names of the cases, in the order of the tables."""
        return [row.case for row in self.rows[:: len(self.class_ids())]]

    def table(self, figure: str) -> Float[np.ndarray, "cases classes"]:
        """One of `FIGURES`, or `missed`, for every case and class."""
        values = [float(getattr(row.score, figure)) for row in self.rows]
        return np.array(values).reshape(-1, len(self.class_ids()))

    def seconds(self) -> Float[np.ndarray, " cases"]:
        """Time of each case's prediction."""
        return np.array([row.seconds for row in self.rows[:: len(self.class_ids())]])

    def worst_first(self) -> list[int]:
        """Indices of the cases, that with the lowest mean Dice over classes first.

        Of cases with equal Dice, that with the largest mean 95HD.
        """
        dice, hd95 = (self.table(name).mean(axis=1) for name in ("dice", "hd95"))
        return np.lexsort((-hd95, dice)).tolist()

    def means(self) -> dict[str, float]:
        """Each of `FIGURES` as its mean over cases, then over classes; `missed`, their number."""
        means = {name: float(self.table(name).mean(axis=0).mean()) for name in FIGURES}
        return means | {"missed": float(self.table("missed").sum())}


def keep_largest_components(
    prediction: Integer[np.ndarray, "*s"], of: str = "class"
) -> Integer[np.ndarray, "*s"]:
    """Keeps the largest connected component; the rest becomes background.

    Voxels that touch by a face, an edge or a corner are connected. Of equally large components, the
    first in memory order stays.

    Args:
      prediction: classes, 0 for the background.
      of: class, the largest component of each class; foreground, of all classes together the
        component that holds most of them, and the largest of those: it suits classes that are parts
        of one organ, where a large piece of one class elsewhere is none of it; both, that of the
        foreground and then, in it, of each class.
    """
    if of == "both":
        return keep_largest_components(keep_largest_components(prediction, "foreground"))
    kept = np.zeros_like(prediction)
    touching = np.ones((3,) * prediction.ndim, bool)
    found = np.unique(prediction[prediction > 0]).tolist()
    groups = [[k] for k in found] if of == "class" else [found]
    for group in filter(None, groups):
        components = np.empty(prediction.shape, np.int32)
        # A number, as the array is given; the types of SciPy do not say so.
        count: Any = ndimage.label(
            np.isin(prediction, group), structure=touching, output=components
        )
        voxels = np.stack(
            [np.bincount(components[prediction == k], minlength=count + 1)[1:] for k in group]
        )
        # By the number of classes, then by the number of voxels, which is never more than all.
        rank = np.count_nonzero(voxels, axis=0) * prediction.size + voxels.sum(axis=0)
        largest = components == 1 + np.argmax(rank)
        kept[largest] = prediction[largest]
    return kept


def label_map(
    probabilities: Float[np.ndarray, "*s k"], *, largest_component: str
) -> Integer[np.ndarray, "*s"]:
    """The classes that are scored and drawn: at each voxel the likeliest one.

    With `largest_component` (class, foreground or both), only the largest component is kept.
    """
    likeliest = probabilities.argmax(axis=-1)
    if not largest_component:
        return likeliest
    return keep_largest_components(likeliest, largest_component)


def _predict(
    predict: Predict, image: Float[np.ndarray, "..."], shape: tuple[int, ...], classes: int
) -> tuple[Float[np.ndarray, "..."], float]:
    """The probabilities, and the seconds that the prediction took."""
    start = time.perf_counter()
    probabilities = predict(image)
    seconds = time.perf_counter() - start
    if probabilities.shape != (*shape, classes):
        raise ValueError(
            f"its probabilities have shape {probabilities.shape}, not {(*shape, classes)}"
        )
    return probabilities, seconds


def evaluate_cases(
    predict: Predict,
    cases: Sequence[Case],
    *,
    read: Read,
    classes: int,
    empty: str = "diagonal",
    largest_component: str = "",
    spacing: Callable[[Case], Sequence[float] | None] = lambda case: None,
) -> Evaluation:
    """Scores predictions of whole volumes, of a 2D or a 3D network alike.

    Args:
      predict: `image (*spatial,) -> probabilities (*spatial, classes)`; an image of several
        channels has them along a last axis.
      cases: what to evaluate, at least one.
      read: gives `{"image": float32 (*spatial,), "label": (*spatial,)}` of a case. Its errors pass
        through; they name the file.
      classes: number of classes, background included.
      empty: one of `metrics.EMPTY_RULES`.
      largest_component: keep only the largest connected component of each class (class), or of all
        classes together (foreground); "" keeps all.
      spacing: of a case's voxels, mm. Where one of the cases has none, all distances are in voxels.

    Raises:
      ValueError: an unknown rule, or no cases.
      CaseError: a case could not be predicted or scored.
    """
    metrics.check_empty_rule(empty)
    if not cases:
        raise ValueError("There are no cases to evaluate: name at least one.")
    rows: list[Row] = []
    reliability = calibration.no_voxels()
    spacings = [spacing(case) for case in cases]
    known = None not in spacings
    for case, own in zip(cases, spacings, strict=True):
        record = read(case)
        try:
            label = record["label"]
            probabilities, seconds = _predict(predict, record["image"], label.shape, classes)
            prediction = label_map(probabilities, largest_component=largest_component)
            scores = metrics.score(
                prediction, label, classes, empty=empty, spacing=own if known else None
            )
            reliability += calibration.reliability(probabilities, label)
        except Exception as error:
            raise CaseError(
                f"{case.path}: case {case.name!r} could not be evaluated: {error}"
            ) from error
        rows += [Row(case.name, score, seconds) for score in scores]
    unit = "mm" if known else "voxel"
    return Evaluation(tuple(rows), empty, largest_component, reliability, unit)
