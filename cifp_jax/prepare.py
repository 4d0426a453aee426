"""Makes a data set for training: `python -m cifp_jax.prepare RAW OUTPUT`.

RAW is a folder of nnU-Net or of the Medical Segmentation Decathlon (with `dataset.json`), the raw
ACDC or LA challenge, or any folder of scans together with `--masks=FOLDER`. Scans are NIfTI, NRRD
or folders of DICOM slices. OUTPUT gets the arrays, the lists, `fingerprint.json` and `config.py`:

    python -m cifp_jax.main --config=OUTPUT/config.py
"""

import argparse
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from cifp_jax import files
from cifp_jax.data.splits import patient
from cifp_jax.scans import challenges, fingerprint, plan, raw_folders
from cifp_jax.scans.fingerprint import CaseFacts
from cifp_jax.scans.geometry import resampled_shape
from cifp_jax.scans.raw_folders import RawData

CONSOLE = Console(highlight=False, soft_wrap=True)
_Item = TypeVar("_Item")
_VALIDATION_SHARE = 5  # one labelled patient in so many is set aside
_GIB = 2**30


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cifp_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("raw", type=pathlib.Path, metavar="RAW", help="folder of raw scans")
    parser.add_argument("output", type=pathlib.Path, metavar="OUTPUT", help="folder to write to")
    parser.add_argument("--masks", type=pathlib.Path, help="folder of masks, for a plain folder")
    parser.add_argument(
        "--validation", type=int, help="labelled patients set aside (default: 1 in 5)"
    )
    parser.add_argument("--dimension", type=int, choices=(2, 3), help="2D or 3D (default: planned)")
    parser.add_argument("--memory", type=float, help="GB that a step may take (default: found out)")
    parser.add_argument("--lists", type=pathlib.Path, help="ACDC, LA: folder of the field's lists")
    parser.add_argument(
        "--truth-crop",
        action="store_true",
        help="LA: cut scans around their true mask as the field does, which tells where it is",
    )
    arguments = parser.parse_args(argv)
    if arguments.memory is not None and arguments.memory <= 0:
        parser.error("--memory must be above 0.")
    return arguments


def find_machine(memory: float | None) -> plan.Machine:
    """The accelerators of this computer, or half of its memory, unless `memory` (GB) is given."""
    device = jax.local_devices()[0]
    accelerated = device.platform != "cpu"
    limit = (device.memory_stats() or {}).get("bytes_limit") if accelerated else None
    found = limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    devices = jax.local_device_count()
    share = 0.9 * devices if limit else 1
    return plan.Machine(int(memory * _GIB if memory else share * found), devices, accelerated)


def _progress(items: Sequence[_Item], what: str) -> Iterable[_Item]:
    return track(items, what, console=CONSOLE, transient=True)


def _read_raw(arguments: argparse.Namespace) -> RawData:
    """Reads the folder of raw scans by its description, or together with a folder of masks."""
    raw = arguments.raw
    if arguments.masks is not None:
        if arguments.masks.resolve() == raw.resolve():
            raise ValueError(f"--masks={raw} is the folder of the scans. Name that of the masks.")
        return raw_folders.read_plain(raw, arguments.masks)
    if (raw / "dataset.json").is_file():
        return raw_folders.read_described(raw)
    raise ValueError(
        f"{raw}: this folder has no dataset.json (nnU-Net, Decathlon) and no scans named as those "
        f"of ACDC or LA. For a plain folder of scans give --masks=FOLDER with the masks."
    )


def _write(
    facts: Sequence[CaseFacts], channels: int, planned: plan.Plan, out: pathlib.Path
) -> tuple[list[str], list[str]]:
    """Writes `volumes/<case>.h5`; returns the names written and what is wrong with the others."""
    preparation, written, failures = planned.preparation, [], []
    for fact in _progress(facts, "writing"):
        try:
            scan, mask = fingerprint.read_pair(fact.case, channels)
            record = {"image": preparation.image(scan)}
            if mask is not None:
                record["label"] = preparation.label(mask, planned.classes)
            path, affine = out / f"volumes/{fact.case.name}.h5", preparation.affine(scan)
            files.write_record(path, record, attributes={"affine": affine}, sliced=True)
            written.append(fact.case.name)
        except (ValueError, FileNotFoundError) as error:
            failures.append(str(error))
    return written, failures


def _check_room(
    facts: Sequence[CaseFacts], channels: int, planned: plan.Plan, out: pathlib.Path
) -> int:
    """The bytes that the records take at most; raises OSError where the disk has less room."""
    spacing = planned.preparation.spacing
    voxels = 0
    for fact in facts:
        shape = [fact.shape[i] for i in planned.preparation.axes]
        own = [fact.spacing[i] for i in planned.preparation.axes]
        voxels += math.prod(resampled_shape(shape, own, spacing))
    needed = voxels * (4 * channels + 1)
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise OSError(
            f"{out}: up to {needed / _GIB:.1f} GB are needed, and {free / _GIB:.1f} GB are free on "
            f"this disk. Free some, or name another folder."
        )
    return needed


def _share_out(
    facts: Sequence[CaseFacts], written: Sequence[str], wanted: int | None
) -> dict[str, list[str]]:
    """Shares the written cases out to four lists; returns their names by the name of the list.

    Unlabelled cases of validation and test patients stand in none, so that no patient is both
    trained on and scored; a patient may have labelled and unlabelled cases.
    """
    there = [fact.case for fact in facts if fact.case.name in written]
    tested = {patient(case.name) for case in there if case.test}
    labeled = [case.name for case in there if case.label and patient(case.name) not in tested]
    patients = list(dict.fromkeys(map(patient, labeled)))
    count = len(patients) // _VALIDATION_SHARE if wanted is None else wanted
    if not 0 <= count < max(len(patients), 1):
        raise ValueError(
            f"--validation={count} leaves none of the {len(patients)} labelled patient(s) to train "
            f"on."
        )
    held_out = set(np.random.default_rng(0).permutation(patients)[:count].tolist())
    free = [c.name for c in there if not c.label and patient(c.name) not in held_out | tested]
    return {
        "labelled": [name for name in labeled if patient(name) not in held_out],
        "unlabelled": free,
        "validation": [name for name in labeled if patient(name) in held_out],
        "test": [case.name for case in there if case.test],
    }


def prepare_scans(arguments: argparse.Namespace) -> list[str]:
    """Prepares scans of one's own; returns what is wrong with the cases that were left out."""
    data, out = _read_raw(arguments), arguments.output
    for remark in data.remarks:
        CONSOLE.print(remark)
    channels = fingerprint.count_channels(data)
    facts, failures = fingerprint.examine_all(
        _progress(data.cases, "reading"), data.labels, channels
    )
    if not facts:
        return failures
    found = fingerprint.summary(facts)
    labels = data.labels or {
        value: f"label {value}" if value else "background"
        for value in sorted({0, *found["values"]})
    }
    planned = plan.make_plan(
        found,
        channels=data.channels,
        channel_count=channels,
        labels=labels,
        machine=find_machine(arguments.memory),
        rank=arguments.dimension,
    )
    _share_out(facts, [fact.case.name for fact in facts], arguments.validation)
    size = _check_room(facts, channels, planned, out)
    (out / "config.py").unlink(missing_ok=True)  # until all is there, nothing trains on a mixture
    written, unwritten = _write(facts, channels, planned, out)
    lists = _share_out(facts, written, arguments.validation)
    # The two training lists in one, for tools that want that.
    for key, names in {**lists, "train": lists["labelled"] + lists["unlabelled"]}.items():
        challenges.write_list(out / f"{key}.list", names)
    files.write_json(out / "fingerprint.json", found)
    values = plan.settings(
        planned,
        labeled=len({patient(name) for name in lists["labelled"]}),
        validation=len(lists["validation"]),
        tested=bool(lists["test"]),
        bytes_on_disk=size,
    )
    files.write_text(out / "config.py", plan.config_text(planned, values))
    counts = ", ".join(f"{len(names)} {key}" for key, names in lists.items())
    CONSOLE.print(f"{out}: {counts}. Classes: {', '.join(labels.values())}.")
    for reason in planned.reasons:
        CONSOLE.print(f"- {reason}")
    if not lists["validation"]:
        CONSOLE.print(
            f"- No validation: it takes {_VALIDATION_SHARE} labelled patients, or --validation=N. "
            f"The last checkpoint is used."
        )
    run = f"runs/{out.resolve().name}"
    CONSOLE.print(
        f"Train: python -m cifp_jax.main --config={out / 'config.py'} --workdir={run}\n"
        f"Then:  python -m cifp_jax.predict --weights={run} SCANS MASKS"
    )
    return failures + unwritten


def prepare_challenge(kind: str, arguments: argparse.Namespace) -> list[str]:
    """Prepares ACDC or LA as the field does; returns what is wrong with scans left out."""
    out = arguments.output
    failures = challenges.prepare(
        kind, arguments.raw, out, lists=arguments.lists, truth=arguments.truth_crop
    )
    CONSOLE.print(
        f"{out}: the files of {kind.upper()}.\n"
        f"Train: python -m cifp_jax.main --config=configs/{kind}.py --config.data.root={out}"
    )
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be prepared."""
    arguments = parse(argv)
    try:
        for folder in (arguments.raw, arguments.masks):
            if folder is not None and not folder.exists():
                raise FileNotFoundError(f"{folder}: this folder is missing. Name another.")
        kind = "" if arguments.masks else challenges.recognize(arguments.raw)
        failures = prepare_challenge(kind, arguments) if kind else prepare_scans(arguments)
    except (ValueError, OSError) as error:
        CONSOLE.print(f"error: {error}", markup=False)
        return 1
    if failures:
        CONSOLE.print(f"{len(failures)} case(s) were left out:", markup=False)
    for failure in failures:
        CONSOLE.print(f"- {failure}", markup=False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
