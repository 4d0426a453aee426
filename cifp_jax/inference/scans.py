"""Scans as they come to a network that segments them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from cifp_jax.config import Config
from cifp_jax.data.layouts import find_layout
from cifp_jax.inference.prediction import expected, preparation_of_new
from cifp_jax.scans import readers
from cifp_jax.scans.preparation import intensity_range
from cifp_jax.scans.readers import Source
from cifp_jax.scans.volumes import Volume, refuse


class ReadyScan(NamedTuple):
    """A scan that is ready for the network.

    Attributes:
      source: its files, or those of its first channel.
      scan: as it was read.
      turned: its array with the axes of the record, at its own resolution.
      spacing: of `turned`, mm.
      image: the record.
      doubts: why the network may be none for it.
    """

    source: Source
    scan: Volume
    turned: Shaped[np.ndarray, "a b c *channels"]
    spacing: tuple[float, ...]
    image: Float[np.ndarray, "x y z *channels"]
    doubts: tuple[str, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel of the scan, millilitres; NaN where its file does not say."""
        if self.scan.prepared and not self.scan.oriented:
            return math.nan
        return abs(float(np.linalg.det(self.scan.affine[:3, :3]))) / 1000


def read_scan(sources: Sequence[Source], config: Config) -> ReadyScan:
    """Reads a scan and prepares it as those were that a run was trained on.

    Args:
      sources: of its channels.
      config: of the run.

    Raises:
      FileNotFoundError, ValueError: it cannot be read or prepared.
    """
    scan = readers.read_channels(sources, config.data.channels)
    if scan.prepared:
        intensity_range(scan.array, scan.path)
        return ReadyScan(sources[0], scan, scan.array, scan.spacing, scan.array.astype(np.float32))
    if not find_layout(config.data.name).takes_scans:
        refuse(
            scan.path,
            f"the network is one of files that were prepared elsewhere "
            f"(config.data.name={config.data.name!r}), and how is not known here. Give it HDF5 "
            f"files that were prepared in the same way.",
        )
    prepare = preparation_of_new(config)
    order = prepare.source_axes(scan)
    spacing = tuple(scan.spacing[i] for i in order)
    turned, image = prepare.turned(scan.array, scan), prepare.image(scan)
    doubts = expected(config).doubts(sources[0], scan, spacing)
    return ReadyScan(sources[0], scan, turned, spacing, image, tuple(doubts))
