"""What is written of a segmented scan: the mask, and what stands beside it."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cifp_jax.evaluation.measurements import measure
from cifp_jax.inference.mask_folder import MaskFolder
from cifp_jax.inference.scans import ReadyScan
from cifp_jax.inference.segmentation import LEVELS, Segmentation
from cifp_jax.reports.measurement_table import write_measurements
from cifp_jax.scans import segmentations, writers
from cifp_jax.scans.dicom import Series
from cifp_jax.scans.preparation import Preparation


def write_scan(
    folder: MaskFolder,
    name: str,
    ready: ReadyScan,
    found: Segmentation,
    preparation: Preparation,
    names: Mapping[int, str],
    beside: Collection[str],
) -> None:
    """Writes the mask of a scan, last of all that is written for it.

    Args:
      folder: of the masks.
      name: of the scan.
      ready: the scan.
      found: on the grid of `ready.turned`, with its uncertainty.
      preparation: that was done to the scan.
      names: of the values of a mask, in the order of the classes.
      beside: what else is written: probabilities, uncertainty, preview.

    Raises:
      ValueError: a DICOM segmentation is asked for, of a scan that is no DICOM.
    """
    scan, label, uncertainty = ready.scan, found.label, found.uncertainty
    assert uncertainty is not None

    def in_file(array: np.ndarray) -> np.ndarray:
        return array if scan.prepared else preparation.turned_back(array, scan)

    def write(path: pathlib.Path, array: np.ndarray, **more: Any) -> None:
        writers.write(path, in_file(array), scan, **more)

    if "uncertainty" in beside:
        write(folder.beside("uncertainty", name), uncertainty)
    if found.probabilities is not None:
        write(folder.beside("probabilities", name), found.probabilities, scale=1 / LEVELS)
    image = ready.turned if ready.turned.ndim == 3 else ready.turned[..., 0]
    rows = measure(name, image, label, uncertainty, names=names, voxel_ml=ready.voxel_ml)
    write_measurements(folder.beside("measurements", name), rows)
    if "preview" in beside:
        # Here, so that masks alone need no plotting library.
        from cifp_jax.reports.previews import draw_preview

        draw_preview(
            folder.beside("preview", name),
            image,
            label,
            uncertainty,
            spacing=ready.spacing,
            names=dict(enumerate(names.values())),
        )
    mask = preparation.to_mask(label)
    if folder.is_dicom(name):
        segmentations.write(folder.mask(name), in_file(mask), series_of(ready), names)
    else:
        write(folder.mask(name), mask, names=names)


def series_of(ready: ReadyScan) -> Series:
    """The DICOM series that a segmentation of this scan refers to.

    Raises:
      ValueError: the scan is no DICOM.
    """
    if isinstance(ready.source, Series):
        return ready.source
    raise ValueError(
        f"{ready.source}: a DICOM segmentation refers to a DICOM scan, and this is none. Leave "
        f"--format=dicom-seg out for it."
    )
