"""What is done to a scan before a network sees it, and to what the network says of it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from cifp_jax.scans import geometry
from cifp_jax.scans.volumes import Volume, check_oriented, refuse
from cifp_jax.settings import Checked, setting

THICK = 1.5  # ratio of a scan's largest spacing to the next one from which it has slices
MOST_VALUES = 256  # of masks: classes are stored as 8 bits
_FEW_VALUES = 2**16  # of whole numbers, which are counted faster than sorted
_LARGEST = 1e10  # no scanner gives more; a voxel that does would flatten all others


def mask_values(
    array: Shaped[np.ndarray, "*s"],
) -> tuple[Shaped[np.ndarray, " n"], Integer[np.ndarray, " n"]]:
    """The values of a mask, rising, and how many voxels have each: `np.unique`, in less time."""
    whole = np.issubdtype(array.dtype, np.integer) and array.size
    if not whole or array.min() < 0 or array.max() >= _FEW_VALUES:
        return np.unique(array, return_counts=True)
    counts = np.bincount(array.ravel().astype(np.intp))
    values = np.flatnonzero(counts)
    return values.astype(array.dtype), counts[values]


def intensity_range(
    array: Shaped[np.ndarray, "*s"], path: pathlib.Path
) -> tuple[np.float64, np.float64]:
    """The smallest and the largest value of a channel.

    Raises:
      ValueError: one is not finite, none of a scanner's, or all are alike; `path` is named.
    """
    low, high = np.float64(array.min()), np.float64(array.max())
    if not np.isfinite(low + high):
        refuse(path, "it holds voxels that are NaN or infinite. Replace them, or leave it out.")
    if max(-low, high) > _LARGEST:
        refuse(
            path,
            f"its values reach from {low:.3g} to {high:.3g}, which no scanner gives, and would "
            f"drown all others. Replace them, or leave this scan out.",
        )
    if low == high:
        refuse(
            path,
            f"all its voxels have the value {low:g}, so it cannot be normalised. Leave this scan "
            f"out.",
        )
    return low, high


def across_slices(spacing: Sequence[float]) -> int | None:
    """The axis across a scan's slices, which is the thickest one; None where it has none."""
    across = int(np.argmax(spacing))
    return across if spacing[across] >= THICK * sorted(spacing)[1] else None


@dataclasses.dataclass(frozen=True)
class Preparation(Checked):
    """How a file becomes a record for training, and a new scan one for prediction."""

    canonical: bool = setting(
        False,
        "Whether the axes are turned to right, anterior, superior first; otherwise they stay as in "
        "the file.",
    )
    axes: tuple[int, ...] = setting(
        (0, 1, 2),
        "The order of those axes in the record. Of slices, the axis across them comes first.",
    )
    slices: str = setting(
        "",
        "Where the axis across a scan's own slices goes in the record, as slices of the heart, for "
        "one, lie askew and may be nearest to another axis in each patient. Empty: to its place in "
        "config.preparation.axes, as that of scans without slices.",
        options=("", "first", "last"),
    )
    spacing: tuple[float, ...] = setting(
        (),
        "Of the record along its axes; 0 keeps that of the file. Empty: all are kept.",
        unit="mm",
    )
    normalization: tuple[tuple[Any, ...], ...] = setting(
        (("zscore",),),
        'A rule for each channel, the last one for those that have none: ("zscore",): mean 0 and '
        'standard deviation 1 over the scan; ("minmax",): to [0, 1]; ("fixed", low, high, mean, '
        "std): cut off at `low` and `high`, less `mean`, over `std`.",
    )
    label_names: tuple[str, ...] = setting(
        (), "Of the classes, background first; empty where they have none."
    )
    label_values: tuple[int, ...] = setting(
        (), "What stands for the classes in masks; empty: 0, 1, 2, ..."
    )

    def order(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """The axes of a scan, turned by `canonical`, in their order in the record.

        Args:
          spacing: along these axes, mm.
        """
        across = across_slices(spacing) if self.slices else None
        if across is None:
            return self.axes
        others = [axis for axis in range(3) if axis != across]
        return (across, *others) if self.slices == "first" else (*others, across)

    def _order(self, volume: Volume) -> tuple[int, ...]:
        affine = volume.affine
        if self.canonical:
            _, affine = geometry.to_canonical(volume.array, affine)
        return self.order(np.linalg.norm(affine[:3, :3], axis=0).tolist())

    def turned(
        self, array: Shaped[np.ndarray, "x y z *c"], volume: Volume
    ) -> Shaped[np.ndarray, "a b d *c"]:
        """An array on the grid of `volume` with its axes as in a record (a view).

        Raises:
          ValueError: the axes are to be turned, and the file does not say how they lie.
        """
        if self.canonical:
            check_oriented(volume)
            array, _ = geometry.to_canonical(array, volume.affine)
        return array.transpose(*self._order(volume), *range(3, array.ndim))

    def turned_back(
        self, array: Shaped[np.ndarray, "a b d *c"], volume: Volume
    ) -> Shaped[np.ndarray, "x y z *c"]:
        """Undoes `turned` (a view)."""
        array = array.transpose(*np.argsort(self._order(volume)), *range(3, array.ndim))
        return geometry.from_canonical(array, volume.affine) if self.canonical else array

    def affine(self, volume: Volume) -> Float[np.ndarray, "4 4"]:
        """The affine of the record."""
        affine = volume.affine
        if self.canonical:
            _, affine = geometry.to_canonical(volume.array, affine)
        affine = affine[:, [*self._order(volume), 3]]
        before = [volume.array.shape[i] for i in self.source_axes(volume)]
        scale = np.array(before) / np.array(self.shape(volume))
        # The first voxel's corner stays; its centre moves.
        shift = (scale - 1) / 2
        resized = affine.copy()
        resized[:3, :3] = affine[:3, :3] * scale
        resized[:3, 3] = affine[:3, 3] + affine[:3, :3] @ shift
        return resized

    def source_axes(self, volume: Volume) -> tuple[int, ...]:
        """The axes of the file in their order in the record."""
        marks = np.empty(tuple(range(2, 5)), bool)  # sides 2, 3 and 4 tell the axes apart
        return tuple(side - 2 for side in self.turned(marks, volume).shape)

    def shape(self, volume: Volume) -> tuple[int, ...]:
        """The spatial shape of the record."""
        order = self.source_axes(volume)
        shape = tuple(volume.array.shape[i] for i in order)
        if not self.spacing:
            return shape
        return geometry.resampled_shape(shape, [volume.spacing[i] for i in order], self.spacing)

    def image(self, volume: Volume) -> Float[np.ndarray, "a b d *c"]:
        """The record of a scan: turned, normalised, resampled by linear interpolation.

        Raises:
          ValueError: as `intensity_range`, or the axes cannot be turned.
        """
        array, shape = self.turned(volume.array, volume), self.shape(volume)
        if array.ndim == 3:
            return geometry.resample_linear(self._normalized(array, 0, volume), shape)
        image = np.empty((*shape, array.shape[3]), np.float32)
        for channel in range(array.shape[3]):
            normalized = self._normalized(array[..., channel], channel, volume)
            image[..., channel] = geometry.resample_linear(normalized, shape)
        return image

    def _normalized(
        self, array: Shaped[np.ndarray, "a b d"], channel: int, volume: Volume
    ) -> Float[np.ndarray, "a b d"]:
        rule = self.normalization[min(channel, len(self.normalization) - 1)]
        # float64, as in the field's scripts; by slices, as whole scans would not fit.
        low, high = intensity_range(array, volume.path)
        if rule[0] == "fixed":
            low, high, middle, width = rule[1:]
        elif rule[0] == "minmax":
            middle, width = low, high - low
        else:
            middle, width = np.mean(array, dtype=np.float64), np.std(array, dtype=np.float64)
        normalized = np.empty(array.shape, np.float32)
        for i, part in enumerate(array):
            normalized[i] = (np.clip(np.asarray(part, np.float64), low, high) - middle) / width
        return normalized

    def label(self, mask: Volume, classes: int) -> Integer[np.ndarray, "a b d"]:
        """The record of a mask: turned, its values made classes, resampled to the spacing.

        Raises:
          ValueError: values that are not whole numbers, or that stand for no class.
        """
        values = np.array(self.label_values or range(classes))
        found, _ = mask_values(mask.array)
        unknown = found[~np.isin(found, values)]
        if mask.array.ndim != 3 or len(unknown):
            raise ValueError(
                f"{mask.path}: as a mask it must have three axes and hold the values "
                f"{values.tolist()} only; it has the shape {mask.array.shape} and holds "
                f"{unknown[:10].tolist()}. Correct the mask, or the labels of the data set."
            )
        ranks = np.argsort(values)
        label = ranks[np.searchsorted(values, self.turned(mask.array, mask), sorter=ranks)]
        return geometry.resample_labels(label.astype(np.uint8), self.shape(mask))

    def to_mask(self, label: Integer[np.ndarray, "*s"]) -> Integer[np.ndarray, "*s"]:
        """Classes as the values that stand for them in masks."""
        if not self.label_values:
            return label.astype(np.uint8)
        largest = np.min_scalar_type(max(self.label_values))
        return np.array(self.label_values, largest)[label]

    def named(self, classes: int) -> dict[int, str]:
        """The names of mask values."""
        values: Sequence[int] = self.label_values or range(classes)
        names = self.label_names or ("background", *(f"class {k}" for k in range(1, classes)))
        return dict(zip(values, names, strict=True))


# Of the two challenges, as the field stores them.
LA = Preparation()
# A new scan as those are: its slices from below upwards, which a network knows in no other order,
# and all voxels of one size. In their plane training turns and mirrors scans by itself.
NEW_LA = Preparation(canonical=True, spacing=(0.625,) * 3)
ACDC = Preparation(axes=(2, 1, 0), normalization=(("minmax",),))
