"""Scans and masks in folders as people keep them: which are the cases, and which mask is whose."""

import dataclasses
import pathlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from cifp_jax.scans import dicom, discovery, readers
from cifp_jax.scans.discovery import Found
from cifp_jax.scans.readers import Source
from cifp_jax.scans.segmentations import Segmentation

_CHANNEL = re.compile(r"_(\d{4})$")
# `case_seg`, `case.seg` of 3D Slicer and `case_mask_2`; `segmentation-0` and `mask_case`.
_WORDS = "gt|d?seg|segmentations?|masks?|labels?"
_MASK = re.compile(rf"^({_WORDS})[-_.]|(^|[-_.])({_WORDS})([-_.]?\d+)?$", re.IGNORECASE)
# LiTS has `volume-0` beside `segmentation-0`, others `image_0` beside `label_0`.
_SCAN = re.compile(r"^(volume|image|img|scan)[-_.]", re.IGNORECASE)
BACKGROUND = "background"
_A_MASK = "named as a mask; `prepare` takes masks of the folder that --masks names"
_SEGMENTATION = "a segmentation; `prepare` takes it in the folder that --masks names"


@dataclasses.dataclass(frozen=True)
class RawCase:
    """A scan: its name, what holds each channel (or all of them), and its mask if it has one."""

    name: str
    images: tuple[Source, ...]
    label: Source | Segmentation | None
    test: bool = False


@dataclasses.dataclass(frozen=True)
class RawData:
    """A data set before it is prepared.

    Attributes:
      cases: sorted by name; no name stands twice.
      channels: names of the image's channels; () where nobody says.
      labels: name of each value of a mask, background first; {} where nobody says.
      ignored: files that are left out, and why.
      problems: what is wrong with files that were to be scans or masks.
    """

    cases: tuple[RawCase, ...]
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    ignored: Mapping[pathlib.Path, str]
    problems: tuple[str, ...] = ()


class Scans(NamedTuple):
    """The scans of a folder by name, with what holds their channels, and the other files."""

    cases: dict[str, tuple[Source, ...]]
    ignored: dict[pathlib.Path, str]
    problems: list[str]


def _part_masks(found: Found) -> tuple[dict[str, Source], dict[str, Source | Segmentation]]:
    """The scans in a folder, and what is a mask by its name or its kind."""
    named = {name: source for name, source in found.scans.items() if _MASK.search(name)}
    scans = {name: source for name, source in found.scans.items() if name not in named}
    return scans, {**named, **found.segmentations}


def masks_left_out(masks: Mapping[str, Source | Segmentation]) -> dict[pathlib.Path, str]:
    """The files of masks that lie among scans, and why they are left out."""
    left_out: dict[pathlib.Path, str] = {}
    for mask in masks.values():
        why = _SEGMENTATION if isinstance(mask, Segmentation) else _A_MASK
        left_out.update(dict.fromkeys(discovery.files_of(mask), why))
    return left_out


def by_case(entries: Mapping[str, Source], channels: int | None) -> dict[str, tuple[Source, ...]]:
    """Puts the channels of a case together; `channels` as in `find_scans`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in entries:
        groups[_CHANNEL.sub("", name)].append(name)
    if channels is None:
        together = all(
            [name[-5:] for name in names] == [f"_{i:04}" for i in range(len(names))]
            for names in groups.values()
        )
    else:
        # Names that merely end in a number, patient_0001 and patient_0002, are cases of their own.
        firsts = [name.endswith("_0000") for name in entries]
        together = all(firsts) if channels == 1 else any(firsts)
    if not together:
        return {name: (entries[name],) for name in sorted(entries)}
    return {case: tuple(entries[name] for name in groups[case]) for case in sorted(groups)}


def find_scans(
    path: pathlib.Path, channels: int | None = None, leave_out: Collection[pathlib.Path] = ()
) -> Scans:
    """The scans in a file or folder, and in all folders below it.

    The slices of a DICOM series are one scan. Files named `<case>_0000`, `<case>_0001`, ... are the
    channels of one case. What is named as a mask is none.

    Args:
      path: a file or a folder.
      channels: of each scan; None where it is not known: then files are put together only if all
        of them are numbered so, without a gap.
      leave_out: folders that are not looked into.

    Raises:
      FileNotFoundError: there is nothing at `path`, or no scan in it.
      ValueError: it is a data set with a description.
    """
    if (path / "dataset.json").is_file():
        raise ValueError(
            f"{path}: this is a data set, with masks among its folders. Name the one with the "
            f"scans, such as {path / 'imagesTs'}."
        )
    found = discovery.discover(path, leave_out)
    scans, masks = (found.scans, found.segmentations) if path.is_file() else _part_masks(found)
    ignored = {**found.ignored, **masks_left_out(masks)}
    if not scans:
        raise FileNotFoundError(no_scan(path, ignored))
    return Scans(by_case(scans, channels), ignored, found.problems)


def no_scan(path: pathlib.Path, ignored: Mapping[pathlib.Path, str]) -> str:
    """Says that there is no scan at a path, and why the first files there are none."""
    reasons = "".join(f"; {file.name} is left out: {why}" for file, why in [*ignored.items()][:3])
    return (
        f"{path}: there is no scan {'in this folder' if path.is_dir() else 'in it'}. Known are "
        f"{', '.join(readers.SUFFIXES)} and "
        f"DICOM series{reasons}."
    )


def collected(root: pathlib.Path, sets: Mapping[str, Mapping[str, Any]]) -> tuple[RawCase, ...]:
    """Cases of several folders of images; each of `sets` maps names to (images, label, test)."""
    cases: dict[str, RawCase] = {}
    for folder, found in sets.items():
        for name, (images, label, test) in found.items():
            if name in cases:
                raise ValueError(
                    f"{root / folder}: the case {name!r} stands in another folder of images too, "
                    f"{cases[name].images[0]}. Rename or remove one."
                )
            cases[name] = RawCase(name, images, label, test)
    return tuple(cases[name] for name in sorted(cases))


def _namesakes(mask: str, scans: Collection[str]) -> list[str]:
    """The scans that bear the name of a mask, apart from the words that say what each is."""
    base = _MASK.sub("", mask)
    for exact in (mask, base):
        if exact in scans:
            return [exact]
    return [scan for scan in scans if base != mask and _SCAN.sub("", scan) == base]


def _owners(
    name: str, mask: Source | Segmentation, scans: Mapping[str, tuple[Source, ...]]
) -> list[str]:
    """The scans that a mask may belong to: by its references, its name, or its patient's name."""
    if isinstance(mask, Segmentation):
        drawn_on = [
            scan
            for scan, (first, *_) in scans.items()
            if isinstance(first, dicom.Series) and first.uid in mask.series
        ]
        if drawn_on:
            return drawn_on
    if namesakes := _namesakes(name, scans):
        return namesakes
    base = _MASK.sub("", name)
    before = f"{base}_" if base else ""
    return [scan for scan in scans if base != name and scan.startswith(before)]


def _segment_names(masks: Collection[Source | Segmentation]) -> dict[int, str]:
    """Values for the segments of segmentations, by their names; {} for masks of values."""
    segmented = [mask for mask in masks if isinstance(mask, Segmentation)]
    if not segmented:
        return {}
    if others := [mask for mask in masks if not isinstance(mask, Segmentation)]:
        raise ValueError(
            f"{segmented[0]}: this segmentation names its segments, and "
            f"{others[0]} is a mask of values without names. Save all masks in one of these ways."
        )
    names = dict.fromkeys(name for mask in segmented for _, name in mask.names)
    return dict(enumerate((BACKGROUND, *names)))


def read_plain(
    images: pathlib.Path, masks: pathlib.Path, leave_out: Collection[pathlib.Path] = ()
) -> RawData:
    """A folder of scans, and the same or another folder of masks for some of them.

    The mask of `case.nii.gz` is `case_seg` (`_gt`, `_mask`, `_label`), or `case` in a folder of its
    own, of any format; `segmentation-0` is that of `volume-0`, `label_0` that of `image_0`, and
    `p1_seg` that of the only scan whose name starts with `p1_`. A DICOM segmentation is that of the
    series that it names.

    Args:
      images: folder of scans.
      masks: folder of masks.
      leave_out: folders that are not looked into.

    Raises:
      FileNotFoundError: there is no scan.
      ValueError: some masks name their segments and others do not.
    """
    together = masks.resolve() == images.resolve()
    found = discovery.discover(images, leave_out if together else (*leave_out, masks))
    entries, drawn = _part_masks(found)
    ignored, problems = dict(found.ignored), list(found.problems)
    if not together:
        ignored.update(masks_left_out(drawn))
        others = discovery.discover(masks, (*leave_out, images))
        drawn = {**others.scans, **others.segmentations}
        ignored.update(others.ignored)
        problems += others.problems
    if not entries:
        raise FileNotFoundError(no_scan(images, ignored))
    scans, alone = by_case(entries, None), by_case(entries, 1)
    if any(_namesakes(name, alone) for name in drawn):
        scans = alone  # a mask for each file: none of them is a mere channel
    labels: dict[str, Source | Segmentation] = {}
    for name, mask in drawn.items():
        owners = _owners(name, mask, scans)
        if not owners:
            problems.append(
                f"{mask}: this mask belongs to no scan in {images}. Give both the same name, or "
                f"remove the mask."
            )
        elif len(owners) > 1:
            problems.append(
                f"{mask}: this mask may belong to any of {', '.join(owners)}. Name it after one."
            )
        elif owners[0] in labels:
            problems.append(
                f"{mask}: {labels[owners[0]]} is a mask of {owners[0]!r} too, and only that is "
                f"taken. Remove one."
            )
        else:
            labels[owners[0]] = mask
    sets = {images.name: {name: (files, labels.get(name), False) for name, files in scans.items()}}
    names = _segment_names(labels.values())
    return RawData(collected(images.parent, sets), (), names, ignored, tuple(problems))
