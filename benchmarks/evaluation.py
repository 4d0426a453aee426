"""What both sides of an evaluation of LA's scans share: the files, and the order of the work."""

from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

MOVED = 2  # voxels


def read_scan(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Image, float32, and label, uint8, of one of LA's files."""
    with h5py.File(file) as data:
        return np.asarray(data["image"], np.float32), np.asarray(data["label"], np.uint8)


def evaluation_run(
    predictor: Callable[[np.ndarray], Any],
    score: Callable[[np.ndarray, np.ndarray], object],
    files: Sequence[str],
) -> Callable[[], object]:
    """Predicts every scan and scores a mask beside its label.

    The networks are not trained, so the mask is the label moved by two voxels, on both sides. The
    first run, which compiles, takes the first scan alone.
    """
    compiled = False

    def run() -> None:
        nonlocal compiled
        for image, label in map(read_scan, files if compiled else files[:1]):
            predictor(image)
            score(np.roll(label, MOVED, axis=0), label)
        compiled = True

    return run
