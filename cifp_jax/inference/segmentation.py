"""A prediction of any size, piece by piece: in memory that does not grow with the scan."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from cifp_jax.inference.prediction import Predict
from cifp_jax.inference.sliding_window import window_starts
from cifp_jax.scans import geometry

LEVELS = 65535  # probabilities are kept as whole numbers from 0 to this
_NUMBERS = 2**26  # probabilities of one slab


class Segmentation(NamedTuple):
    """What is kept of a prediction, on the grid asked for."""

    label: UInt8[np.ndarray, "a b c"]
    uncertainty: Float[np.ndarray, "a b c"] | None  # normalised entropy, from 0 to 1
    probabilities: UInt16[np.ndarray, "a b c k"] | None  # in units of 1 / LEVELS


def normalized_entropy(probabilities: Float[np.ndarray, "*s k"]) -> Float[np.ndarray, "*s"]:
    """`-sum_c p_c log p_c / log k`, from 0 (one class is certain) to 1 (all are equally likely)."""
    p = np.clip(probabilities, 1e-12, 1)
    return -(p * np.log(p)).sum(axis=-1) / np.log(p.shape[-1])


def slabs(length: int, patch: int, stride: int, most: int) -> list[tuple[slice, slice]]:
    """Cuts an axis into slabs that, predicted one by one, give what the whole would give.

    Args:
      length: of the axis.
      patch: side of a window along it.
      stride: between windows.
      most: rows of a slab; it has more where a window and its overlaps take more.

    Returns:
      Pairs of the rows to read and the rows that are then final. All windows that touch the second
      lie within the first, and the rows to read start and end with a window.
    """
    if length <= patch:
        return [(slice(0, length), slice(0, length))]
    starts = window_starts(length, patch, stride)
    ends = [*starts[1:], length]  # up to which no later window reaches
    cut, done = [], 0
    while done < length:
        first = next(i for i, start in enumerate(starts) if start + patch > done)
        last = next(i for i, end in enumerate(ends) if end > done)
        while last + 1 < len(starts) and starts[last + 1] + patch - starts[first] <= most:
            last += 1
        cut.append((slice(starts[first], starts[last] + patch), slice(done, ends[last])))
        done = ends[last]
    return cut


def segment(
    predict: Predict,
    image: Float[np.ndarray, "..."],
    *,
    shape: Sequence[int],
    classes: int,
    patch: int,
    stride: int,
    uncertainty: bool = False,
    probabilities: bool = False,
    advance: Callable[[float], object] = lambda share: None,
) -> Segmentation:
    """Predicts a record slab by slab and brings it to the grid of another resolution.

    Probabilities are interpolated linearly, and the likeliest class is taken there.

    Args:
      predict: `image (rows, b, c) or (rows, b, c, channels) -> probabilities (rows, b, c, k)`.
      image: the record.
      shape: of the result; that of the record leaves everything as it is.
      classes: number of classes, background included.
      patch: rows of a window, 1 for slices.
      stride: rows between windows.
      uncertainty: whether to keep the normalised entropy.
      probabilities: whether to keep the probabilities.
      advance: called with the share of the record that was done since the last call.
    """
    label = np.empty(tuple(shape), np.uint8)
    entropy = np.empty(tuple(shape), np.float32) if uncertainty else None
    kept = np.empty((*shape, classes), np.uint16) if probabilities else None
    numbers = int(np.prod(image.shape[1:3])) * classes
    most = max(_NUMBERS // numbers, 1)

    def pieces() -> Iterator[np.ndarray]:
        for read, own in slabs(len(image), patch, stride, most):
            found = predict(image[read])
            yield found[own.start - read.start : own.stop - read.start]
            advance((own.stop - own.start) / len(image))

    for rows, block in geometry.restore_rows(pieces(), len(image), shape):
        label[rows] = block.argmax(axis=-1)
        if entropy is not None:
            entropy[rows] = normalized_entropy(block)
        if kept is not None:
            kept[rows] = np.rint(block * LEVELS)
    return Segmentation(label, entropy, kept)
