"""Which scan to label next: those that the network is unsure of, no two alike in a row.

Two things make a scan worth its label, and both are needed (uncertainty and representativeness of
Yang et al., "Suggestive Annotation", MICCAI 2017). The *score* says how badly the network does on
it, by what can be seen without a label. Scans that resemble each other have similar scores, so the
scans are taken in an order of their own: each time the one with the largest

    score * Euclidean distance of its features to the nearest scan taken before,

the first by its score alone. Without the score this is the farthest-first rule for the k-centre
problem (Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
Approach", ICLR 2018). A near duplicate of a scan that was taken comes late, however unsure the
network is of it. That product, and the score as a plain mean, are choices of this project.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from scipy import ndimage

from cifp_jax.evaluation.metrics import dice
from cifp_jax.inference.segmentation import Segmentation

_MARGIN = 32  # the margin around the foreground is this part of each side


class Evidence(NamedTuple):
    """What the ranking needs of a scan."""

    uncertainty: float  # mean normalised entropy in and around the foreground, from 0 to 1
    disagreement: float  # of the predictions of mirror images, from 0 to 1
    features: Float[np.ndarray, " c"]

    @property
    def score(self) -> float:
        """Mean of uncertainty and disagreement."""
        return (self.uncertainty + self.disagreement) / 2


class Preview(NamedTuple):
    """The slice of a scan that the network is least sure of."""

    image: UInt8[np.ndarray, "h w"]  # 0 and 255: the percentiles 0.5 and 99.5 of the scan
    label: UInt8[np.ndarray, "h w"]  # predicted
    entropy: UInt8[np.ndarray, "h w"]  # 255: all classes are equally likely


class Place(NamedTuple):
    """A scan's place in the ranking."""

    case: str
    distance: float | None  # to the nearest scan ranked before; the first has none


def surroundings(foreground: Bool[np.ndarray, "a b c"]) -> Bool[np.ndarray, "a b c"]:
    """The foreground with a margin of 1/32 of each side (at least a voxel), where a network that
    misses part of a structure is unsure."""
    size = [2 * -(-side // _MARGIN) + 1 for side in foreground.shape]
    return ndimage.maximum_filter(foreground, size=size, mode="constant")


def uncertainty(label: Integer[np.ndarray, "a b c"], entropy: Float[np.ndarray, "a b c"]) -> float:
    """Mean entropy in the predicted foreground and its surroundings.

    Of a scan without any predicted foreground it is the largest entropy of a voxel: where the
    foreground would appear first.
    """
    foreground = label > 0
    if not foreground.any():
        return float(entropy.max())
    return float(entropy[surroundings(foreground)].mean())


def disagreement(label: Integer[np.ndarray, "*s"], other: Integer[np.ndarray, "*s"]) -> float:
    """1 - Dice of two predictions, the mean over the foreground classes that either has.

    0 where both have none.
    """
    found = np.union1d(np.unique(label), np.unique(other))
    lost = [1 - dice(label == k, other == k) for k in found[found > 0]]
    return float(np.mean(lost)) if lost else 0.0


def middle(foreground: Bool[np.ndarray, "a b c"]) -> tuple[float, ...]:
    """Centre of the foreground (of all, where there is none) as a share of each side, in (0, 1)."""
    if not foreground.any():
        return (0.5,) * foreground.ndim
    shares = []
    for axis, side in enumerate(foreground.shape):
        across = tuple(a for a in range(foreground.ndim) if a != axis)
        counts = foreground.sum(axis=across)
        shares.append(float((counts * (np.arange(side) + 0.5)).sum() / counts.sum() / side))
    return tuple(shares)


def gather(
    segmented: Callable[[Float[np.ndarray, "..."]], Segmentation],
    describe: Callable[[Float[np.ndarray, "..."], Sequence[float]], Float[np.ndarray, " c"]],
    image: Float[np.ndarray, "..."],
    found: Segmentation,
    shown: Shaped[np.ndarray, "a b c"],
    mirrored: tuple[int, ...],
) -> tuple[Evidence, Preview]:
    """What the ranking needs of a scan, and a slice of it to look at.

    Args:
      segmented: image to segmentation, called once for each mirror image.
      describe: `(image, middle of the foreground, as a share of each side) -> features`.
      image: the record that the network sees, (a', b', c') or (a', b', c', channels).
      found: its segmentation, with the uncertainty.
      shown: the scan as it is drawn, on the grid of the segmentation.
      mirrored: the axes along which training mirrors images (`prediction.mirrored_axes`).

    Raises:
      ValueError: `found` holds no uncertainty.
    """
    label, entropy = found.label, found.uncertainty
    if entropy is None:
        raise ValueError("A scan is ranked by its uncertainty: segment it with uncertainty=True.")
    disagreements = [
        disagreement(label, np.flip(segmented(np.flip(image, axis)).label, axis))
        for axis in mirrored
    ]
    evidence = Evidence(
        uncertainty(label, entropy),
        float(np.mean(disagreements)),
        describe(image, middle(label > 0)),
    )
    across = int(np.argmin(label.shape))
    planes = tuple(a for a in range(3) if a != across)
    doubt = entropy * surroundings(label > 0) if label.any() else entropy
    z = int(np.argmax(doubt.sum(axis=planes)))
    low, high = np.percentile(shown, (0.5, 99.5))
    gray = (np.take(shown, z, across) - low) / max(high - low, 1e-12)
    preview = Preview(_bytes(gray), label.take(z, across), _bytes(entropy.take(z, across)))
    return evidence, preview


def _bytes(array: Shaped[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s"]:
    return np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)


def rank(cases: Mapping[str, Evidence]) -> list[Place]:
    """The scans in the order in which to label them; the rule is that of this module.

    Takes time in proportion to the square of their number. Of scans with equal products (all
    duplicates have 0) the one with the larger score goes first, and then that with the first name.
    """
    left = sorted(cases)
    if not left:
        return []
    features = np.stack([cases[name].features for name in left]).astype(np.float64)
    score = np.array([cases[name].score for name in left])
    nearest = np.full(len(left), np.inf)
    places: list[Place] = []
    free = np.ones(len(left), bool)
    for _ in left:
        gain = score * nearest if places else score
        # The last key counts most; lexsort is stable, so names decide what is left.
        best = int(np.lexsort((-score, -gain, ~free))[0])
        places.append(Place(left[best], float(nearest[best]) if places else None))
        free[best] = False
        nearest = np.minimum(nearest, np.linalg.norm(features - features[best], axis=1))
    return places
