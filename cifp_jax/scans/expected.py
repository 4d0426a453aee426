"""Whether a scan is of the kind that a network was trained on."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from cifp_jax.scans import dicom
from cifp_jax.scans.readers import Source
from cifp_jax.scans.volumes import Volume, sampled

_FEW = 16  # different values; a scan has more, and a mask seldom
_SAMPLE = 100_000  # voxels that are looked at for that
_FAR = 1.5  # times the range of spacings that a network has seen
# MR has no values below zero, but for what filters and interpolation leave; air in CT is -1000 HU.
MR_INTENSITY = (-100.0, math.inf)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the scans of a data set are like.

    Attributes:
      modality: as DICOM calls it, e.g. "MR"; "" where it is not known.
      spacing: smallest and largest distance of voxels along each axis of the record, mm; () where
        it is not known.
      intensity: between which all values of a scan lie, as in its file.
    """

    modality: str = ""
    spacing: tuple[tuple[float, float], ...] = ()
    intensity: tuple[float, float] = (-math.inf, math.inf)

    def doubts(self, source: Source, scan: Volume, spacing: Sequence[float]) -> list[str]:
        """Why the network of such data may say nothing of use about a scan.

        Args:
          source: its files.
          scan: as it was read; of several channels the first one counts.
          spacing: along the axes of the record, mm.

        Returns:
          A clause for each reason, without the name of the file.
        """
        found = []
        modality = dicom.modality(source) if isinstance(source, dicom.Series) else ""
        if self.modality and modality not in ("", self.modality):
            found.append(f"it is {modality}, and the network was trained on {self.modality}")
        if any(
            not low / _FAR <= side <= high * _FAR
            for side, (low, high) in zip(spacing, self.spacing, strict=False)
        ):
            seen = " x ".join(
                f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}"
                for low, high in self.spacing
            )
            found.append(
                f"its voxels are {' x '.join(f'{side:.3g}' for side in spacing)} mm, where the "
                f"network expects {seen} mm"
            )
        channel = scan.array if scan.array.ndim == 3 else scan.array[..., 0]
        if (values := len(np.unique(sampled(channel.reshape(-1), _SAMPLE)))) <= _FEW:
            found.append(f"it has {values} different values alone, as a mask has")
        low, high = float(channel.min()), float(channel.max())
        if low < self.intensity[0] or high > self.intensity[1]:
            kind = " (CT?)" if self.modality == "MR" and low <= -500 else ""
            found.append(
                f"its values go from {low:.4g} to {high:.4g}{kind}, where the network expects them "
                f"between {self.intensity[0]:.4g} and {self.intensity[1]:.4g}"
            )
        return found
