"""From a fingerprint and the memory at hand to a configuration, with the reasons.

The rules are ours, in the manner of nnU-Net's: medians of the training set, and the largest patch
that fits. The memory that a step takes is estimated, not measured.
"""

import collections
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifp_jax.scans.preparation import MOST_VALUES, Preparation, across_slices

FILTERS = (16, 32, 64, 128, 256)
_STRIDES = 16  # both networks halve the resolution four times
_APART = 3.0  # ratio of the largest spacing to the middle one from which slices are apart
_SIDES = ("right", "anterior", "superior")
_THIN = 32  # voxels along the shortest side below which a 3D network has little to see
# Arrays of a resolution's channels that a training step keeps: four layers of three, and skips.
_MAPS = 16
_AIR = -500.0  # Hounsfield units: what lies below was not measured by MRI


@dataclasses.dataclass(frozen=True)
class Machine:
    """What training runs on: memory in bytes, devices, and whether they are accelerators."""

    memory: int
    devices: int
    accelerated: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings planned, and why."""

    rank: int
    preparation: Preparation
    patch: tuple[int, ...]
    batch: int  # of each stream
    filters: tuple[int, ...]
    steps: int
    channels: int
    classes: int
    reasons: tuple[str, ...]


def step_bytes(patch: Sequence[int], batch: int, filters: Sequence[int]) -> int:
    """Estimate of what a training step of CIFP keeps in memory.

    One pass over labelled and unlabelled images, which keeps `_MAPS` arrays a resolution of each,
    in float32, and half as much again for the teacher, which sees larger crops.
    """
    voxels = math.prod(patch)
    by_resolution = [f / 2 ** (i * len(patch)) for i, f in enumerate(filters)]
    return int(3 * batch * voxels * _MAPS * sum(by_resolution) * 4)


def _rounded_up(sides: Sequence[float]) -> list[int]:
    return [max(math.ceil(side / _STRIDES) * _STRIDES, _STRIDES) for side in sides]


def _choose_rank(
    spacing: Sequence[float], box: Sequence[float], wanted: int | None
) -> tuple[int, str]:
    low, middle, high = sorted(spacing)
    if wanted is not None:
        return wanted, "as asked for"
    if high / middle >= _APART:
        why = f"the slices are {high:.3g} mm apart, {high / middle:.1f} times the next spacing"
        return 2, f"{why}: little of a voxel's neighbours shows in the next slice"
    if min(box) < _THIN:
        return 2, f"the median scan has {min(box):.0f} voxels along its shortest side"
    return 3, f"the spacings, {low:.3g} to {high:.3g} mm, and the sides are alike enough"


def _normalization(
    fingerprint: Mapping[str, Any], channels: Sequence[str], count: int
) -> tuple[tuple[tuple[Any, ...], ...], str]:
    rules: list[tuple[Any, ...]] = []
    reasons = []
    for i in range(count):
        name = channels[i] if channels else ""
        air = fingerprint["highest_minimum"][i] <= _AIR
        if (name.upper() == "CT" or (not name and air)) and fingerprint["foreground_intensity"]:
            f = fingerprint["foreground_intensity"][i]
            rules.append(("fixed", f["low"], f["high"], f["mean"], max(f["std"], 1e-6)))
            reasons.append(
                f"channel {i} is CT ({'by its name' if name else 'every scan holds air'}): cut off "
                f"at {f['low']:.4g} and {f['high']:.4g}, as its values mean the same in all scans"
            )
        else:
            rules.append(("zscore",))
            reasons.append(f"channel {i}: mean 0 and deviation 1 in each scan")
    return tuple(rules), "; ".join(reasons)


def _grid(
    cases: Sequence[Mapping[str, Any]],
) -> tuple[list[float], list[float], tuple[int, ...], str, str]:
    """Medians over the scans of spacing and box, and which axes of the patient they are of.

    Where most scans have slices, the third number is that across each scan's own ones, whichever
    axis they run across: those of the heart lie askew, and may be nearest to any.

    Returns:
      Spacing in mm, box in voxels, axes, "last" where most scans have slices and else "", and a
      remark on scans whose slices run across another axis than most.
    """
    thick = [across_slices(case["spacing"]) for case in cases]
    across = collections.Counter(axis for axis in thick if axis is not None).most_common()
    slices = "last" if 2 * sum(count for _, count in across) > len(cases) else ""
    axes, remark = (0, 1, 2), ""
    if slices:
        (most, count), *others = across
        axes = (*(axis for axis in axes if axis != most), most)
        if few := sum(count for _, count in others):
            remark = f" (in {count} scans, and in {few} across another one)"
    order = Preparation(axes=axes, slices=slices).order
    spacing, box = (
        np.median([[c[of][i] for i in order(c["spacing"])] for c in cases], axis=0).tolist()
        for of in ("spacing", "box")
    )
    return [float(f"{s:.6g}") for s in spacing], box, axes, slices, remark


def make_plan(
    fingerprint: Mapping[str, Any],
    *,
    channels: Sequence[str],
    channel_count: int,
    labels: Mapping[int, str],
    machine: Machine,
    rank: int | None = None,
) -> Plan:
    """Plans a run.

    Args:
      fingerprint: of `fingerprint.summary`.
      channels: their names; () where nobody says.
      channel_count: number of channels.
      labels: name of each value of a mask, background first.
      machine: what training will run on.
      rank: 2 or 3 where the user decides.

    Raises:
      ValueError: there is no labelled case, one class only, or more than masks can hold.
    """
    if not fingerprint["labeled"]:
        raise ValueError(
            "None of the cases has a mask, so there is nothing to learn from. Draw masks for a few "
            "scans (three are a start) and prepare the data again."
        )
    if len(labels) < 2:
        raise ValueError(
            f"The masks hold one value only, {list(labels)}. At least one of them must mark "
            f"something."
        )
    if len(labels) > MOST_VALUES:
        raise ValueError(
            f"The masks hold {len(labels)} values together; {MOST_VALUES} are the most. They may "
            f"number single objects, or be scans; give each structure one value."
        )
    cases = list(fingerprint["by_case"].values())
    spacing, box, axes, slices, remark = _grid(cases)
    planned_rank, why = _choose_rank(spacing, box, rank)
    reasons = [f"{planned_rank}D: {why}."]
    if planned_rank == 2:
        slices = "first" if slices else ""
        # Where no axis is thick, the thinnest side of the box is.
        across = 2 if slices else box.index(min(box))
        kept = [i for i in range(3) if i != across]
        axes = (axes[across], *(axes[i] for i in kept))
        target, sides = (0.0, *(spacing[i] for i in kept)), [box[i] for i in kept]
        reasons.append(f"Slices run across the {_SIDES[axes[0]]} axis{remark}.")
        reasons.append("Their distance is kept.")
    else:
        target, sides = tuple(spacing), box
        if slices:
            reasons.append(f"Slices run across the {_SIDES[axes[2]]} axis{remark}, and come last.")
    written = " x ".join(f"{s:.3g}" if s else "own" for s in target)
    reasons.append(f"Spacing {written} mm: the median of the scans.")
    normalization, why = _normalization(fingerprint, channels, channel_count)
    reasons.append(f"Intensities: {why}.")
    patch, batch, filters, why = _fitted(planned_rank, _rounded_up(sides), machine)
    reasons.append(why)
    steps = (30_000 if planned_rank == 2 else 15_000) if machine.accelerated else 4000
    reasons.append(f"{steps} steps: {'the literature' if machine.accelerated else 'for a CPU'}.")
    reasons.append("Strong augmentation and AdamW: the recipe that gave the best figures on ACDC.")
    preparation = Preparation(
        True, axes, slices, target, normalization, tuple(labels.values()), tuple(labels)
    )
    return Plan(
        planned_rank,
        preparation,
        tuple(patch),
        batch,
        filters,
        steps,
        channel_count,
        len(labels),
        tuple(reasons),
    )


def _fitted(
    rank: int, sides: Sequence[int], machine: Machine
) -> tuple[list[int], int, tuple[int, ...], str]:
    """The largest patch and batch that fit: the batch shrinks first in 2D, the patch in 3D."""
    patch, pair = list(sides), 2 * machine.devices
    if machine.accelerated:
        largest, batch = {2: 512, 3: 160}[rank], {2: 12, 3: 2}[rank]
    else:  # A step would take minutes otherwise.
        largest, batch = {2: 128, 3: 64}[rank], {2: 4, 3: 2}[rank]
    batch = max(-(-batch // pair) * pair, pair)
    smallest = pair if rank == 3 else max(-(-4 // pair) * pair, pair)
    filters, whole = FILTERS, tuple(patch)
    patch = [min(side, largest) for side in patch]
    while step_bytes(patch, batch, filters) > machine.memory:
        if batch > smallest:
            batch -= pair
        elif max(patch) > 2 * _STRIDES:
            patch[patch.index(max(patch))] -= _STRIDES
        elif filters[0] > 4:
            filters = tuple(f // 2 for f in filters)
        else:
            break
    text = " x ".join(map(str, patch))
    limit = "" if tuple(patch) == whole else f", of {' x '.join(map(str, whole))} that would be all"
    where = "" if machine.accelerated else " on a CPU"
    return (
        patch,
        batch,
        filters,
        f"Patches of {text}{limit}, {batch} + {batch} in a batch: about "
        f"{step_bytes(patch, batch, filters) / 2**30:.1f} GiB of {machine.memory / 2**30:.1f} GiB"
        f"{where}, by estimate.",
    )


def identity(plan: Plan, fingerprint: Mapping[str, Any]) -> str:
    """What tells a prepared data set from another one: a digest of its plan and its scans."""
    made_of = (dataclasses.asdict(plan.preparation), plan.channels, fingerprint)
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
