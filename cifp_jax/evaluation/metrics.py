"""Dice, Jaccard, 95HD and ASD of label maps, equal to medpy's `dc`, `jc`, `hd95` and `asd`.

A surface is the set of a mask's voxels that have a neighbour (across a face) outside the mask; what
lies beyond the volume is outside. With `d(P -> L)` the distances from each surface voxel of the
prediction to the nearest surface voxel of the label:

    95HD = 95th percentile of the union of d(P -> L) and d(L -> P)
    ASD  = mean of d(P -> L)            one-directional, as the field reports it

Neither exists where a mask is empty; one of `EMPTY_RULES` then says what is scored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

# What 95HD and ASD are where one of the two masks is empty. Where both are, they are 0 in either.
#   diagonal: the diagonal of the volume, which is more than any distance within it
#   literature: 0, as in the published evaluation scripts, which so reward a missed class
EMPTY_RULES = ("diagonal", "literature")


class Score(NamedTuple):
    """Figures of one class in one volume."""

    class_id: int
    dice: float  # %
    jaccard: float  # %
    hd95: float  # voxels, or the unit of the spacing
    asd: float  # as hd95
    missed: bool  # the label has the class and the prediction has not


def check_empty_rule(empty: str) -> None:
    """Raises ValueError, naming the known rules, where `empty` is none of them."""
    if empty not in EMPTY_RULES:
        raise ValueError(f"Unknown empty-mask rule {empty!r}; known: {', '.join(EMPTY_RULES)}.")


def dice(prediction: Bool[np.ndarray, "*s"], label: Bool[np.ndarray, "*s"]) -> float:
    """`2 |P and L| / (|P| + |L|)` in [0, 1]; 1 where both masks are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(label)
    return 2 * np.count_nonzero(prediction & label) / total if total else 1.0


def jaccard(prediction: Bool[np.ndarray, "*s"], label: Bool[np.ndarray, "*s"]) -> float:
    """`|P and L| / |P or L|` in [0, 1]; 1 where both masks are empty."""
    union = np.count_nonzero(prediction | label)
    return np.count_nonzero(prediction & label) / union if union else 1.0


def _surface(mask: Bool[np.ndarray, "*s"]) -> Bool[np.ndarray, "*s"]:
    """Voxels of the mask with a face neighbour outside: the mask without its binary erosion."""
    padded, inner = np.pad(mask, 1), mask.copy()
    for axis in range(mask.ndim):
        for neighbor in (slice(0, -2), slice(2, None)):
            at = [slice(1, -1)] * mask.ndim
            at[axis] = neighbor
            inner &= padded[tuple(at)]
    return mask & ~inner


def _bounding_box(mask: Bool[np.ndarray, "*s"]) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of a mask, of which there is at least one."""
    filled = (
        np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        for axis in range(mask.ndim)
    )
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


def surface_distances(
    prediction: Bool[np.ndarray, "*s"],
    label: Bool[np.ndarray, "*s"],
    spacing: Sequence[float] | None = None,
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " l"]]:
    """Distances `d(P -> L)` and `d(L -> P)`, one for each surface voxel.

    Args:
      prediction: mask with at least one voxel.
      label: mask with at least one voxel.
      spacing: size of a voxel along each axis; None: distances are in voxels.

    Raises:
      ValueError: a mask is empty.
    """
    if not (prediction.any() and label.any()):
        raise ValueError("An empty mask has no surface; `score` decides what counts instead.")
    # Both surfaces lie in the box around the two masks, and so do all nearest points: cutting the
    # rest off changes no distance.
    box = _bounding_box(prediction | label)
    surfaces = _surface(prediction[box]), _surface(label[box])
    to_prediction, to_label = (
        np.asarray(ndimage.distance_transform_edt(~s, sampling=spacing)) for s in surfaces
    )
    return to_label[surfaces[0]], to_prediction[surfaces[1]]


def hd95_and_asd(
    prediction: Bool[np.ndarray, "*s"],
    label: Bool[np.ndarray, "*s"],
    spacing: Sequence[float] | None = None,
) -> tuple[float, float]:
    """95HD and ASD (module docstring) of two masks that are not empty; as `surface_distances`."""
    forward, backward = surface_distances(prediction, label, spacing)
    return float(np.percentile(np.hstack((forward, backward)), 95)), float(forward.mean())


def _score_class(
    class_id: int,
    prediction: Bool[np.ndarray, "*s"],
    label: Bool[np.ndarray, "*s"],
    empty: str,
    spacing: Sequence[float] | None,
) -> Score:
    found, present = bool(prediction.any()), bool(label.any())
    if found and present:
        hd95, asd = hd95_and_asd(prediction, label, spacing)
    elif found == present or empty == "literature":
        hd95 = asd = 0.0
    else:
        hd95 = asd = float(np.linalg.norm(np.multiply(label.shape, spacing or 1.0)))
    return Score(
        class_id,
        100 * dice(prediction, label),
        100 * jaccard(prediction, label),
        hd95,
        asd,
        missed=present and not found,
    )


def score(
    prediction: Integer[np.ndarray, "..."],
    label: Integer[np.ndarray, "..."],
    classes: int,
    *,
    empty: str = "diagonal",
    spacing: Sequence[float] | None = None,
) -> list[Score]:
    """Scores every foreground class of a predicted label map.

    A class that the label has and the prediction lacks is `missed`, with Dice 0; one that the
    prediction alone has gets Dice 0 too. The distances of both follow the rule `empty`. A class
    that neither has gets Dice and Jaccard 100 and distances 0.

    Args:
      prediction: whole numbers in 0 .. classes - 1.
      label: likewise, the ground truth.
      classes: number of classes, background (0) included.
      empty: one of `EMPTY_RULES`.
      spacing: size of a voxel along each axis; None: distances are in voxels.

    Returns:
      The scores of the classes 1 .. classes - 1, in that order.

    Raises:
      ValueError: an unknown rule, or maps of different shapes.
    """
    check_empty_rule(empty)
    if prediction.shape != label.shape:
        raise ValueError(
            f"Prediction and label differ in shape: {prediction.shape}, {label.shape}."
        )
    return [_score_class(k, prediction == k, label == k, empty, spacing) for k in range(1, classes)]
