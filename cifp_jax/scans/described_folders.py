"""Reads data sets with a description, `dataset.json`: nnU-Net's and the Decathlon's."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from cifp_jax.scans import discovery
from cifp_jax.scans.discovery import Found
from cifp_jax.scans.raw_folders import (
    BACKGROUND,
    RawData,
    by_case,
    collected,
    masks_left_out,
    no_scan,
)


def _found_if_there(folder: pathlib.Path) -> Found:
    return discovery.discover(folder) if folder.is_dir() else Found({}, {}, {}, [])


def _described(root: pathlib.Path) -> dict[str, Any]:
    path = root / "dataset.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: this is no valid JSON ({error}). Correct it.") from error
    if not isinstance(described, dict) or not isinstance(described.get("labels"), dict):
        raise ValueError(f'{path}: it names no labels. Add "labels": {{"background": 0, ...}}.')
    channels = described.get("channel_names") or described.get("modality") or {}
    if not isinstance(channels, dict) or not all(key.isdigit() for key in channels):
        raise ValueError(
            f'{path}: its channels are {channels!r}. Name them as {{"0": "MRI"}}, in '
            f'"channel_names".'
        )
    return described


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
        named[0] = BACKGROUND
    return dict(sorted(named.items()))


def read_described(root: pathlib.Path) -> RawData:
    """A folder with `dataset.json`, `imagesTr` and `labelsTr`: nnU-Net's or the Decathlon's.

    Images of `imagesTr` without a mask, and those of `imagesUn`, are unlabelled. Images of
    `imagesTs` are test cases if `labelsTs` holds their masks, and are left alone if not.

    Raises:
      FileNotFoundError, ValueError: of the folder or its description.
    """
    description = _described(root)
    path = root / "dataset.json"
    channels = description.get("channel_names") or description.get("modality") or {}
    count = len(channels) or None
    folders = ("imagesTr", "imagesUn", "imagesTs", "labelsTr", "labelsTs")
    found = {name: _found_if_there(root / name) for name in folders}
    training, unlabeled, test = (by_case(found[name].scans, count) for name in folders[:3])
    if not training:
        raise FileNotFoundError(no_scan(root / "imagesTr", found["imagesTr"].ignored))
    masks, test_masks = ({**found[n].scans, **found[n].segmentations} for n in folders[3:])
    problems = [problem for part in found.values() for problem in part.problems]
    problems += [
        f"{masks[name]}: this mask has no image in {root / 'imagesTr'}. Add it, or remove the mask."
        for name in sorted(set(masks) - set(training))
    ]
    ignored = {file: why for part in found.values() for file, why in part.ignored.items()}
    for name in folders[:3]:
        ignored.update(masks_left_out(found[name].segmentations))
    sets = {
        "imagesTr": {name: (files, masks.get(name), False) for name, files in training.items()},
        "imagesUn": {name: (files, None, False) for name, files in unlabeled.items()},
        "imagesTs": {
            name: (files, test_masks[name], True)
            for name, files in test.items()
            if name in test_masks
        },
    }
    alone = {name: files for name, files in test.items() if name not in test_masks}
    for files in alone.values():
        for file in (file for source in files for file in discovery.files_of(source)):
            ignored[file] = "a test scan without a mask in labelsTs"
    return RawData(
        collected(root, sets),
        tuple(str(channels[key]) for key in sorted(channels, key=int)),
        _named(path, description["labels"]),
        ignored,
        tuple(problems),
    )
