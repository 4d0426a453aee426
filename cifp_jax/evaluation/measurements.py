"""What a mask says about each structure: its volume, intensity, wholeness and uncertainty."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Shaped

from cifp_jax.evaluation.evaluate import keep_largest_components


class Measurement(NamedTuple):
    """One structure of one scan.

    Attributes:
      case: name of the scan.
      value: of the structure in the mask.
      structure: its name.
      volume_ml: millilitres; 0 where the structure was not found.
      mean_intensity: of the scan's first channel in the structure, as in the file; NaN where it
        was not found, like the next two.
      largest_component_share: voxels of its largest component over all of its voxels.
      mean_uncertainty: normalised entropy, from 0 to 1.
    """

    case: str
    value: int
    structure: str
    volume_ml: float
    mean_intensity: float
    largest_component_share: float
    mean_uncertainty: float


def measure(
    case: str,
    image: Shaped[np.ndarray, "a b c"],
    label: Integer[np.ndarray, "a b c"],
    uncertainty: Float[np.ndarray, "a b c"],
    *,
    names: Mapping[int, str],
    voxel_ml: float,
) -> list[Measurement]:
    """Measures each structure of a scan, found or not.

    Args:
      case: name of the scan.
      image: its first channel.
      label: classes from 0, the background.
      uncertainty: normalised entropy.
      names: of the values of a mask, in the order of the classes.
      voxel_ml: volume of a voxel, millilitres.
    """
    kept = keep_largest_components(label)
    rows = []
    for k, (value, name) in enumerate(names.items()):
        if k == 0:
            continue
        inside = label == k
        count = int(inside.sum())
        means = [
            float(np.mean(a[inside], dtype=np.float64)) if count else np.nan
            for a in (image, kept == k, uncertainty)
        ]
        rows.append(Measurement(case, value, name, count * voxel_ml, *means))
    return rows
