"""Whether a network is right as often as it is sure: reliability and calibration error.

Voxels are put into `BINS` equal bins by their confidence, which is the probability of the likeliest
class, before any choice of components. With `n_b` voxels in bin b, their mean confidence `conf_b`
and the share `acc_b` of them that are labelled so (Guo et al., ICML 2017, equations 3 to 5):

    ECE = sum_b n_b / n |acc_b - conf_b|

A voxel counts where the label or the likeliest class calls it foreground. The rest of a scan is
background that every network is sure of and right about: it would fill the last bin and hide the
error at the organ, and the figure would depend on how much air was scanned.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

BINS = 15


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Sums over voxels, bin by bin; those of several cases add up."""

    voxels: Int[np.ndarray, " bins"]
    correct: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.voxels + other.voxels,
            self.correct + other.correct,
            self.confidence + other.confidence,
        )

    def error(self) -> float | None:
        """The expected calibration error (module docstring), in [0, 1]; None without voxels."""
        total = int(self.voxels.sum())
        return float(np.abs(self.correct - self.confidence).sum()) / total if total else None

    def describe(self) -> dict[str, Any]:
        """For JSON: `ece`, and by bin `voxels`, `confidence` and `accuracy`.

        The last two are means in [0, 1], and None in an empty bin.
        """

        def means(sums: np.ndarray) -> list[float | None]:
            pairs = zip(sums.tolist(), self.voxels.tolist(), strict=True)
            return [total / n if n else None for total, n in pairs]

        return {
            "ece": self.error(),
            "voxels": self.voxels.tolist(),
            "confidence": means(self.confidence),
            "accuracy": means(self.correct),
        }


def no_voxels() -> Reliability:
    """The reliability of no case, from which a sum starts."""
    return Reliability(np.zeros(BINS, int), np.zeros(BINS, int), np.zeros(BINS))


def reliability(
    probabilities: Float[np.ndarray, "*s k"], label: Integer[np.ndarray, "*s"]
) -> Reliability:
    """Bins the voxels of one case.

    Args:
      probabilities: of the classes, background (0) first; they add up to 1.
      label: whole numbers in 0 .. k - 1.
    """
    predicted = probabilities.argmax(axis=-1)
    counted = (predicted > 0) | (label > 0)
    confidence = probabilities.max(axis=-1)[counted].astype(np.float64)
    correct = (predicted == label)[counted]
    # Bin b holds (b / BINS, (b + 1) / BINS]; rounding may carry a softmax a hair beyond 1.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return Reliability(
        np.bincount(bins, minlength=BINS),
        np.bincount(bins[correct], minlength=BINS),
        # Without any voxel bincount gives whole numbers, whatever the weights.
        np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64),
    )
