"""Reads folders of raw scans and masks as people keep them: nnU-Net, Decathlon, or plain."""

import dataclasses
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from cifp_jax.scans import readers

_CHANNEL = re.compile(r"_(\d{4})$")
_MASK = re.compile(r"[-_](gt|seg|segmentation|mask|label|labels)$", re.IGNORECASE)
_BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class RawCase:
    """A scan: its name, a file for each channel (or one for all), and its mask if it has one."""

    name: str
    images: tuple[pathlib.Path, ...]
    label: pathlib.Path | None
    test: bool = False


@dataclasses.dataclass(frozen=True)
class RawData:
    """A data set before it is prepared.

    Attributes:
      cases: sorted by name; no name stands twice.
      channels: names of the image's channels; () where nobody says.
      labels: name of each value of a mask, background first; {} where nobody says.
      remarks: what a person should know of how the folder was understood.
    """

    cases: tuple[RawCase, ...]
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    remarks: tuple[str, ...] = ()


def _is_series(folder: pathlib.Path) -> bool:
    """Whether a folder holds the slices of a DICOM series, by their marks or their ending."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            if path.suffix.lower() == ".dcm":
                return True
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"
    return False


def _entries(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """The files and series in a folder (or the one at `path`) by their names without ending."""
    if path.is_file() or _is_series(path):
        return {readers.stem(path): path}
    entries = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
    found: dict[str, pathlib.Path] = {}
    for entry in entries:
        if not (_is_series(entry) if entry.is_dir() else readers.suffix(entry)):
            continue
        name = readers.stem(entry)
        if name in found:
            raise ValueError(
                f"{entry}: {found[name]} is named alike, so both would be the case {name!r}. "
                f"Rename or remove one."
            )
        found[name] = entry
    return found


def _left_alone(folder: pathlib.Path) -> tuple[str, ...]:
    """A remark on the files of a folder that are of no kind that can be read."""
    plain = folder.is_dir() and not _is_series(folder)
    files = [p for p in folder.iterdir() if p.is_file()] if plain else []
    unknown = sorted(p.name for p in files if not (p.name.startswith(".") or readers.suffix(p)))
    if not unknown:
        return ()
    return (f"{folder}: {len(unknown)} file(s) of unknown kinds are left alone: {unknown[0]}, ...",)


def _by_case(
    entries: Mapping[str, pathlib.Path], channels: int | None
) -> dict[str, tuple[pathlib.Path, ...]]:
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
    path: pathlib.Path, channels: int | None = None
) -> dict[str, tuple[pathlib.Path, ...]]:
    """The scans in a file or folder by name, with the files of their channels.

    A folder of DICOM slices is one scan, as are folders of them below `path`. Files named
    `<case>_0000`, `<case>_0001`, ... are the channels of one case.

    Args:
      path: a file or a folder.
      channels: of each scan; None where it is not known: then files are put together only if all
        of them are numbered so, without a gap.

    Raises:
      FileNotFoundError: there is nothing at `path`, or no scan in it.
      ValueError: two scans have one name.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder. Name one that exists.")
    if not (entries := _entries(path)):
        raise FileNotFoundError(
            f"{path}: there is no scan in this folder. Known are {', '.join(readers.SUFFIXES)} and "
            f"folders of DICOM slices."
        )
    return _by_case(entries, channels)


def _entries_if_there(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return _entries(folder) if folder.is_dir() else {}


def _described(root: pathlib.Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: this is no valid JSON ({error}). Correct it.") from error


def _named(path: pathlib.Path, labels: Mapping[str, Any]) -> dict[int, str]:
    """Value to name, of {"1": "heart"} (Decathlon) and of {"heart": 1} (nnU-Net)."""
    if all(key.isdigit() for key in labels):
        named = {int(value): str(name) for value, name in labels.items()}
    elif all(isinstance(value, int) for value in labels.values()):
        named = {value: name for name, value in labels.items()}
    else:
        raise ValueError(
            f"{path}: some of its labels are regions of several values, which cannot be trained. "
            f"Give each label one value."
        )
    if "ignore" in named.values():
        raise ValueError(
            f"{path}: it has a label 'ignore', for which there is no rule here. Remove the cases "
            f"that use it, and the label."
        )
    if 0 not in named:
        named[0] = _BACKGROUND
    return dict(sorted(named.items()))


def _collected(root: pathlib.Path, sets: Mapping[str, Mapping[str, Any]]) -> tuple[RawCase, ...]:
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


def read_described(root: pathlib.Path) -> RawData:
    """A folder with `dataset.json`, `imagesTr` and `labelsTr`: nnU-Net's or the Decathlon's.

    Images of `imagesTr` without a mask, and those of `imagesUn`, are unlabelled. Images of
    `imagesTs` are test cases if `labelsTs` holds their masks, and are left alone if not.

    Raises:
      FileNotFoundError, ValueError: of the folder or its description.
    """
    description = _described(root)
    path = root / "dataset.json"
    if not isinstance(description.get("labels"), dict):
        raise ValueError(f'{path}: it names no labels. Add "labels": {{"background": 0, ...}}.')
    channels = description.get("channel_names") or description.get("modality") or {}
    count = len(channels) or None
    training = find_scans(root / "imagesTr", count)
    unlabeled, test = (
        _by_case(_entries_if_there(root / folder), count) for folder in ("imagesUn", "imagesTs")
    )
    masks, test_masks = (_entries_if_there(root / folder) for folder in ("labelsTr", "labelsTs"))
    for name in sorted(set(masks) - set(training)):
        raise ValueError(
            f"{masks[name]}: this mask has no image in {root / 'imagesTr'}. Add it, or remove the "
            f"mask."
        )
    sets = {
        "imagesTr": {name: (files, masks.get(name), False) for name, files in training.items()},
        "imagesUn": {name: (files, None, False) for name, files in unlabeled.items()},
        "imagesTs": {
            name: (files, test_masks[name], True)
            for name, files in test.items()
            if name in test_masks
        },
    }
    alone = len(test) - len(sets["imagesTs"])
    remark = f"{root / 'imagesTs'}: {alone} test scan(s) without masks are left alone."
    return RawData(
        _collected(root, sets),
        tuple(str(channels[key]) for key in sorted(channels, key=int)),
        _named(path, description["labels"]),
        (remark,) if alone else (),
    )


def read_plain(images: pathlib.Path, masks: pathlib.Path) -> RawData:
    """A folder of scans and a folder of masks for some of them.

    The mask of `case.nii.gz` is `case` or `case_seg` (`_gt`, `_mask`, `_label`), of any format.

    Raises:
      FileNotFoundError, ValueError: of the folders; a mask that belongs to no scan.
    """
    scans, entries = find_scans(images), _entries_if_there(masks)
    alone = _by_case(_entries(images), 1)
    if any(name in alone or _MASK.sub("", name) in alone for name in entries):
        scans = alone  # a mask for each file: none of them is a mere channel
    found: dict[str, pathlib.Path] = {}
    for name, path in entries.items():
        name = name if name in scans else _MASK.sub("", name)
        if name not in scans:
            raise ValueError(
                f"{path}: this mask belongs to no scan in {images}. Give both the same name, or "
                f"remove the mask."
            )
        if name in found:
            raise ValueError(f"{path}: {found[name]} is a mask of {name!r} too. Remove one.")
        found[name] = path
    sets = {images.name: {name: (files, found.get(name), False) for name, files in scans.items()}}
    remarks = _left_alone(images) + _left_alone(masks)
    return RawData(_collected(images.parent, sets), (), {}, remarks)
