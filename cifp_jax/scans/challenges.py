"""Recognises the raw folders of ACDC and LA, and makes the HDF5 files that the field shares.

Of ACDC each volume is scaled to [0, 1], and its slices become files of their own. Of LA each scan
is scaled to mean 0 and standard deviation 1 over all its voxels, and then cut in X and Y.

The field cuts LA around the true mask, with margins drawn at random, for all 80 training scans:
then the "unlabelled" ones give away where their atrium is, and no scan from a scanner comes so
framed. It is offered, for comparison with published figures. Without it the cut is made around all
voxels brighter than the darkest value, which takes no mask.
"""

import itertools
import pathlib
import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Integer

from cifp_jax.files import write_list, write_record
from cifp_jax.scans import preparation, readers, volumes
from cifp_jax.scans.fingerprint import image_box

_FRAME = re.compile(r"(patient\d+)_frame(\d+)\.nii(\.gz)?$")
_LA_SIZE = 112  # voxels that the field's cut has at least, in X and Y
TRAIN_LISTS = {"acdc": "train_slices.list", "la": "train.list"}
_LA_MARGIN = (10, 20)  # drawn from 10 to 19


def find_acdc(raw: pathlib.Path) -> dict[str, pathlib.Path]:
    """`patient001_frame01` (relaxed) and `_frame02` (contracted) to their files.

    The challenge numbers the frames of the heart's cycle (01 and 12, say); the field's files
    number the two that have masks.
    """
    frames: dict[str, dict[str, pathlib.Path]] = defaultdict(dict)
    for path in sorted(raw.rglob("patient*_frame*.nii*")):
        if match := _FRAME.search(path.name):
            # One of `frame01.nii` and `frame01.nii.gz`, which some copies hold both of.
            frames[match[1]].setdefault(match[2], path)
    return {
        f"{patient}_frame{number:02}": path
        for patient, paths in sorted(frames.items())
        for number, (_, path) in enumerate(sorted(paths.items()), start=1)
    }


def find_la(raw: pathlib.Path) -> dict[str, pathlib.Path]:
    """The name of each scan's folder to its `lgemri.nrrd`."""
    return {path.parent.name: path for path in sorted(raw.rglob("lgemri.nrrd"))}


def recognize(raw: pathlib.Path) -> str:
    """Returns "acdc" or "la" where a folder holds scans that are named as theirs are, else "".

    A folder with `dataset.json` is neither: nnU-Net's own copy of ACDC keeps the patients' names.
    """
    if (raw / "dataset.json").is_file():
        return ""
    return "acdc" if find_acdc(raw) else "la" if find_la(raw) else ""


def truth_box(label: Integer[np.ndarray, "x y z"], rng: np.random.Generator) -> tuple[slice, slice]:
    """The field's cut in X and Y: the mask's box, widened to 112 voxels, and a margin drawn."""
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(label.any(axis=(1 - axis, 2)))
        first, last = int(places[0]), int(places[-1])
        wider = max(_LA_SIZE - (last - first), 0) // 2
        start, stop = first - wider - rng.integers(*_LA_MARGIN), last + wider
        stop += rng.integers(*_LA_MARGIN)
        box.append(slice(max(int(start), 0), min(int(stop), label.shape[axis])))
    return box[0], box[1]


def _masked(image: pathlib.Path, mask: pathlib.Path) -> tuple[volumes.Volume, volumes.Volume]:
    scan, label = readers.read_channels([image], 1), readers.read_channels([mask], 1)
    volumes.check_same_geometry(scan, label)
    return scan, label


def write_acdc(name: str, path: pathlib.Path, out: pathlib.Path) -> list[str]:
    """Writes a volume and its slices; returns the slices' names."""
    prepare = preparation.ACDC
    scan, mask = _masked(path, path.with_name(path.name.replace(".nii", "_gt.nii")))
    record = {"image": prepare.image(scan), "label": prepare.label(mask, 4)}
    write_record(out / f"data/{name}.h5", record)
    names = [f"{name}_slice_{z}" for z in range(1, len(record["image"]) + 1)]
    for z, own in enumerate(names):
        write_record(out / f"data/slices/{own}.h5", {k: a[z] for k, a in record.items()})
    return names


def write_la(name: str, path: pathlib.Path, out: pathlib.Path, *, truth: bool) -> list[str]:
    """Writes a scan, cut around the true mask if `truth`; returns its name."""
    prepare = preparation.LA
    scan, mask = _masked(path, path.with_name("laendo.nrrd"))
    if not np.isin(mask.array, (0, 255)).all():
        raise ValueError(f"{mask.path}: LA's masks hold 0 and 255 alone. Correct its values.")
    image, label = prepare.image(scan), (mask.array == 255).astype(np.uint8)
    if truth and not label.any():
        raise ValueError(f"{path}: its mask is empty, so it cannot be cut around it. Leave it out.")
    # The margins follow from the name, so that a second run gives the same files.
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    cut = truth_box(label, rng) if truth else image_box(scan.array)
    write_record(out / name / "mri_norm2.h5", {"image": image[cut], "label": label[cut]})
    return [name]


def _shuffled(names: Sequence[str], shares: Sequence[float]) -> Iterator[list[str]]:
    """Cuts names in random order into parts of these shares, the same ones at every call."""
    order = np.random.default_rng(0).permutation(sorted(names)).tolist()
    ends = np.round(np.cumsum((0, *shares)) * len(order)).astype(int)
    for start, stop in itertools.pairwise(ends):
        yield order[start:stop]


def prepare(
    kind: str,
    raw: pathlib.Path,
    out: pathlib.Path,
    *,
    lists: pathlib.Path | None,
    truth: bool,
) -> list[str]:
    """Writes the field's files of a challenge, and its lists.

    Args:
      kind: "acdc" or "la".
      raw: folder of the challenge's training scans.
      out: folder to write to.
      lists: folder with the field's lists, which are taken over; None: patients are shared out at
        random, always alike: ACDC 70, 10 and 20 %, LA 80 and 20 %.
      truth: of LA: cut around the true mask.

    Returns:
      What is wrong with each scan that could not be prepared.

    Raises:
      ValueError: none could.
    """
    found = find_acdc(raw) if kind == "acdc" else find_la(raw)
    written: dict[str, list[str]] = {}
    failures = []
    for name, path in found.items():
        try:
            written[name] = (
                write_acdc(name, path, out)
                if kind == "acdc"
                else write_la(name, path, out, truth=truth)
            )
        except (ValueError, FileNotFoundError) as error:
            failures.append(str(error))
    if not written:
        raise ValueError("\n- ".join(("none of the scans can be prepared:", *failures)))
    if lists is not None:
        for path in sorted(lists.glob("*.list")):
            shutil.copyfile(path, out / path.name)
    elif kind == "la":
        train, test = _shuffled(list(written), (0.8, 0.2))
        write_list(out / TRAIN_LISTS[kind], train)
        write_list(out / "test.list", test)
    else:
        patients = sorted({name.split("_")[0] for name in written})
        sets = [
            [name for patient in part for name in written if name.startswith(f"{patient}_")]
            for part in _shuffled(patients, (0.7, 0.1, 0.2))
        ]
        write_list(out / TRAIN_LISTS[kind], [s for name in sets[0] for s in written[name]])
        for listing, names in zip(("train", "val", "test"), sets, strict=True):
            write_list(out / f"{listing}.list", names)
    return failures
