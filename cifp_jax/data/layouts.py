"""Folders of raw scans and masks, as people keep them: nnU-Net, Decathlon, or plain."""

import dataclasses
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from cifp_jax.data import volumes

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


def find_scans(path: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """The scans in a file or folder by name, with the files of their channels.

    Where all files are named `<case>_0000`, `<case>_0001`, ..., these are the channels of one case.
    A folder of DICOM slices is one scan, as are folders of them below `path`.

    Raises:
      FileNotFoundError: there is nothing at `path`, or no scan in it.
      ValueError: two scans have one name.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder. Name one that exists.")
    if path.is_file() or _is_series(path):
        entries = [path]
    else:
        entries = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
        entries = [p for p in entries if (_is_series(p) if p.is_dir() else volumes.suffix(p))]
    groups: dict[str, list[pathlib.Path]] = defaultdict(list)
    for entry in entries:
        groups[_CHANNEL.sub("", volumes.stem(entry))].append(entry)
    # Names that merely end in a number, patient_0001 and patient_0002, are cases of their own.
    numbered = all(
        [volumes.stem(p)[-5:] for p in paths] == [f"_{i:04}" for i in range(len(paths))]
        for paths in groups.values()
    )
    if not numbered:
        groups = defaultdict(list)
        for entry in entries:
            groups[volumes.stem(entry)].append(entry)
    for name, paths in groups.items():
        if len(paths) > 1 and not numbered:
            raise ValueError(
                f"{paths[1]}: {paths[0]} is named alike, so both would be the case {name!r}. "
                f"Rename or remove one."
            )
    if not groups:
        raise FileNotFoundError(
            f"{path}: there is no scan in this folder. Known are {', '.join(volumes.SUFFIXES)} and "
            f"folders of DICOM slices."
        )
    return {name: tuple(paths) for name, paths in sorted(groups.items())}


def _find_if_there(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    there = folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())
    return find_scans(folder) if there else {}


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
    training, test = (find_scans(root / "imagesTr"), _find_if_there(root / "imagesTs"))
    masks, test_masks = (_masks(root / "labelsTr"), _masks(root / "labelsTs"))
    for name in sorted(set(masks) - set(training)):
        raise ValueError(
            f"{masks[name]}: this mask has no image in {root / 'imagesTr'}. Add it, or remove the "
            f"mask."
        )
    sets = {
        "imagesTr": {name: (files, masks.get(name), False) for name, files in training.items()},
        "imagesUn": {
            name: (files, None, False) for name, files in _find_if_there(root / "imagesUn").items()
        },
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


def _masks(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return {name: files[0] for name, files in _find_if_there(folder).items()}


def read_plain(images: pathlib.Path, masks: pathlib.Path) -> RawData:
    """A folder of scans and a folder of masks for some of them.

    The mask of `case.nii.gz` is `case` or `case_seg` (`_gt`, `_mask`, `_label`), of any format.

    Raises:
      FileNotFoundError, ValueError: of the folders; a mask that belongs to no scan.
    """
    scans = find_scans(images)
    found: dict[str, pathlib.Path] = {}
    for name, path in _masks(masks).items():
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
    return RawData(_collected(images.parent, sets), (), {})
