"""What lies in a folder: each file is of a scan, a segmentation, or left out, and why."""

import os
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pydicom

from cifp_jax.scans import dicom, readers, segmentations
from cifp_jax.scans.readers import Source
from cifp_jax.scans.segmentations import Segmentation

MASKS_MARK = "network.json"  # which `predict` leaves among its masks
# What stands beside these files belongs to them.
_PARTNERS = {
    ".hdr": (".img",),
    ".raw": (".mhd", ".nhdr"),
    ".zraw": (".mhd",),
    ".raw.gz": (".nhdr",),
}


class Found(NamedTuple):
    """The content of a folder.

    Attributes:
      scans: their names and where they are.
      segmentations: of DICOM and 3D Slicer, by name.
      ignored: every other file, and why it is left out.
      problems: what is wrong with files that were to be scans.
    """

    scans: dict[str, Source]
    segmentations: dict[str, Segmentation]
    ignored: dict[pathlib.Path, str]
    problems: list[str]


def _walk(
    folder: pathlib.Path, leave_out: Collection[pathlib.Path], above: tuple[pathlib.Path, ...] = ()
) -> Iterator[list[pathlib.Path]]:
    """The files of a folder, then those of each folder below it; links are followed.

    A folder that is not looked into stands for its files: one that may not be read, or of masks
    that `predict` wrote. If that is the first one, it has its masks, but not what is beside them.
    """
    own = folder.resolve()
    if own in above or own in leave_out:
        return
    of_masks = (folder / MASKS_MARK).is_file()
    if of_masks and above:
        yield [folder]
        return
    try:
        entries = sorted(folder.iterdir())
    except PermissionError:
        yield [folder]
        return
    yield [path for path in entries if not path.is_dir()]
    if of_masks:
        return
    for path in entries:
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, leave_out, (*above, own))


def _name(root: pathlib.Path, path: pathlib.Path) -> str:
    """The name of a scan: its folders below `root` and its own, unless that says the first one.

    `p1/ct.nii` is p1_ct, and BIDS' `sub-01/anat/sub-01_T1w.nii` is sub-01_T1w.
    """
    if path == root:
        return readers.stem(path.resolve())
    *folders, _ = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    own = readers.stem(path)
    return own if folders and own.startswith(folders[0]) else "_".join((*folders, own))


def _why_unknown(path: pathlib.Path) -> str:
    """Why a file that is neither of a known ending nor DICOM is left out."""
    if path.name.startswith("."):
        return "a hidden file"
    if path.is_dir():
        of_masks = (path / MASKS_MARK).is_file()
        return "a folder of masks" if of_masks else "a folder that may not be read"
    if not path.exists():
        return "a link that leads nowhere"
    for ending, others in _PARTNERS.items():
        if path.name.lower().endswith(ending):
            for other in others:
                partner = path.with_name(path.name[: -len(ending)] + other)
                if partner.exists():
                    return f"belongs to {partner.name}"
    return "no scan of a known kind"


def _named_series(root: pathlib.Path, series: list[dicom.Series]) -> Iterator[tuple[str, Source]]:
    """Names of the series of a folder: that of the folder, if it holds no other one."""
    stacks = [one for one in series if one.path.is_dir()]
    numbers = [one.number for one in stacks]
    for one in series:
        name = _name(root, one.path)
        if one in stacks and len(stacks) > 1:
            unique = one.number and numbers.count(one.number) == 1
            name = f"{name}_{one.number if unique else one.uid}"
        yield name, one


def _joined(
    root: pathlib.Path,
    named: Sequence[tuple[str, Source]],
    places: Mapping[pathlib.Path, tuple[str, str]],
) -> Iterator[tuple[str, Source]]:
    """Puts the parts of a series together that lie in several folders, as on some CDs.

    Segmented by itself, each part would be a scan of half a patient. Where two folders have a slice
    of the same place, they are two scans, whose UID was lost with the patient's name.

    Args:
      root: what is looked through.
      named: scans by name.
      places: of the slices, by their files: whose they are, and where they lie.
    """
    parts: dict[tuple[str, str], list[dicom.Series]] = defaultdict(list)
    for _, source in named:
        if isinstance(source, dicom.Series) and source.uid and source.path.is_dir():
            parts[source.uid, places[source.files[0]][0]].append(source)
    split: dict[dicom.Series, list[dicom.Series]] = {}
    for found in parts.values():
        files = tuple(file for part in found for file in part.files)
        if len(found) > 1 and len({places[file] for file in files}) == len(files):
            folder = pathlib.Path(os.path.commonpath([part.path for part in found]))
            split[found[0]._replace(path=folder, files=files)] = found
    taken = [part for found in split.values() for part in found]
    yield from ((name, source) for name, source in named if source not in taken)
    folders = [series.path for series in split]
    for series in split:
        name = _name(root, series.path)
        several = folders.count(series.path) > 1
        yield f"{name}_{series.number or series.uid}" if several else name, series


def discover(path: pathlib.Path, leave_out: Collection[pathlib.Path] = ()) -> Found:
    """Looks through a folder and all folders below it, or at one file.

    Args:
      path: a folder or a file.
      leave_out: folders in it that are not looked into.

    Raises:
      FileNotFoundError: there is nothing at `path`.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder. Name one that exists.")
    found = Found({}, {}, {}, [])
    named: list[tuple[str, Source]] = []
    places: dict[pathlib.Path, tuple[str, str]] = {}
    left_out = {folder.resolve() for folder in leave_out}
    for files in _walk(path, left_out) if path.is_dir() else [[path]]:
        slices: dict[pathlib.Path, pydicom.Dataset] = {}
        for file in files:
            hidden = file.name.startswith(".")
            if not hidden and readers.suffix(file) not in ("", *dicom.SUFFIXES) and file.exists():
                if path.is_dir() and readers.is_slice(file):
                    found.ignored[file] = "a slice of a prepared volume"
                elif drawn := segmentations.described_by_slicer(file):
                    found.segmentations[_name(path, file)] = drawn
                else:
                    named.append((_name(path, file), file))
                continue
            header = None if hidden else dicom.read_header(file)
            if header is None:
                found.ignored[file] = _why_unknown(file)
            elif dicom.is_segmentation(header):
                found.segmentations[_name(path, file)] = segmentations.described(file, header)
            elif why := dicom.why_no_scan(header):
                found.ignored[file] = why
            else:
                slices[file] = header
                whose = f"{header.get('PatientID')} {header.get('StudyInstanceUID')}"
                places[file] = whose, str(header.get("ImagePositionPatient"))
        series, copies = dicom.group(slices)
        found.ignored.update(copies)
        alone = path if path.is_file() else None
        named += _named_series(alone or path, [s._replace(path=alone or s.path) for s in series])
    _add(found, _joined(path, named, places))
    return found


def _add(found: Found, named: Iterable[tuple[str, Source]]) -> None:
    """Adds scans; of those with one name the first is kept, and the others are problems."""
    for name, source in named:
        # A list has one name on each line.
        if not name.isprintable() or name != name.strip():
            found.problems.append(
                f"{str(source)!a}: its name begins or ends with a space, or holds signs that "
                f"cannot be printed. Rename it."
            )
            found.ignored.update(dict.fromkeys(files_of(source), "a name that no list can hold"))
        elif name in found.scans:
            first = found.scans[name]
            found.problems.append(
                f"{source}: {first} is named alike, so both would be the case {name!r}, and only "
                f"the first is taken. Rename or remove one."
            )
            found.ignored.update(dict.fromkeys(files_of(source), f"named like {first}"))
        else:
            found.scans[name] = source


def files_of(source: Source | Segmentation) -> tuple[pathlib.Path, ...]:
    """The files of a scan or a mask."""
    if isinstance(source, Segmentation):
        return (source.path,)
    return source.files if isinstance(source, dicom.Series) else (source,)
