"""Cases to figures."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cifp_jax.data.sources import Case
from cifp_jax.data.transforms import Arrays
from cifp_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one class of one case; `seconds` is the time of the case's prediction."""

    case: str
    label: int
    scores: metrics.Scores
    seconds: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Figures of all classes of all cases."""

    rows: tuple[Row, ...]

    def of_class(self, label: int) -> dict[str, float]:
        """Means over the cases of one class."""
        rows = [row.scores for row in self.rows if row.label == label]
        return {n: float(np.mean([getattr(s, n) for s in rows])) for n in metrics.NAMES}

    def means(self) -> dict[str, float]:
        """Means over the cases, then over the classes; `missed` counts classes of cases."""
        classes = [self.of_class(label) for label in sorted({row.label for row in self.rows})]
        means = {n: float(np.mean([c[n] for c in classes])) for n in metrics.NAMES}
        return means | {"missed": float(sum(row.scores.missed for row in self.rows))}


def evaluate_cases(
    predict: Callable[[Any], Any],
    cases: Sequence[Case],
    *,
    read: Callable[[Case], Arrays],
    classes: int,
    empty: str,
    largest_component: bool,
) -> Evaluation:
    """Predicts every case and compares it with its label.

    Args:
      predict: `image (*spatial,) -> probabilities (*spatial, k)`.
      cases: what to evaluate.
      read: gives `image` and `label` of a case.
      classes: background included; classes 1 and up are scored.
      empty: the rule for a missed class, see `metrics.score`.
      largest_component: keep only the largest component of each predicted class.
    """
    rows = []
    for case in cases:
        arrays = read(case)
        start = time.monotonic()
        predicted = np.asarray(predict(arrays["image"])).argmax(axis=-1)
        seconds = time.monotonic() - start
        if largest_component:
            predicted = metrics.largest_component(predicted, classes)
        for k in range(1, classes):
            scores = metrics.score(predicted == k, arrays["label"] == k, empty)
            rows.append(Row(case.name, k, scores, seconds))
    return Evaluation(tuple(rows))
