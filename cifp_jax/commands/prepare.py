"""Makes a data set for training: the work of `cifp_jax.prepare`."""

import argparse
import pathlib
import shlex
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
from rich.console import Console
from rich.progress import track

from cifp_jax import files, host
from cifp_jax.commands import INTERRUPTED
from cifp_jax.data import prepared
from cifp_jax.data.splits import patient
from cifp_jax.scans import (
    challenges,
    described_folders,
    discovery,
    file_report,
    fingerprint,
    plan,
    plan_config,
    raw_folders,
)
from cifp_jax.scans.fingerprint import CaseFacts
from cifp_jax.scans.raw_folders import RawCase, RawData

CONSOLE = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
_Item = TypeVar("_Item")
_GIB = 2**30
_CONFIG = "config.py"  # written last: until all is there, nothing trains on a mixture


def find_machine(memory: float | None) -> plan.Machine:
    """The accelerators of this computer, or half of its memory, unless `memory` (GiB) is given."""
    device = jax.local_devices()[0]
    accelerated = device.platform != "cpu"
    limit = (device.memory_stats() or {}).get("bytes_limit") if accelerated else None
    found = limit or host.memory() // 2
    devices = jax.local_device_count()
    share = 0.9 * devices if limit else 1
    return plan.Machine(int(memory * _GIB if memory else share * found), devices, accelerated)


def _progress(items: Iterable[_Item], what: str, total: int) -> Iterable[_Item]:
    return track(items, what, total, console=CONSOLE, transient=True)


def _read_raw(arguments: argparse.Namespace) -> RawData:
    """Reads the folder of raw scans by its description, or together with a folder of masks."""
    raw = arguments.raw
    if arguments.masks is not None:
        return raw_folders.read_plain(raw, arguments.masks, [arguments.output])
    if (raw / "dataset.json").is_file():
        return described_folders.read_described(raw)
    raise ValueError(
        f"{raw}: this folder has no dataset.json (nnU-Net, Decathlon) and no scans named as those "
        f"of ACDC or LA. For a plain folder of scans give --masks=FOLDER with the masks; it may "
        f"be the same folder."
    )


def _uses(case: RawCase, problem: str, doubt: str) -> list[file_report.FileUse]:
    images = [file for source in case.images for file in discovery.files_of(source)]
    uses = file_report.uses_of(images, case.name, "image", problem)
    if case.label is not None:
        masks = discovery.files_of(case.label)
        uses += file_report.uses_of(masks, case.name, "mask", problem, doubt)
    return uses


def _write(
    data: RawData,
    facts: Sequence[CaseFacts],
    problems: dict[str, str],
    arguments: argparse.Namespace,
) -> dict[str, list[str]]:
    """Plans and writes a data set, all of it or nothing; adds to what is wrong with its cases."""
    out = arguments.output
    found = fingerprint.summary(facts)
    labels = data.labels or {
        value: f"label {value}" if value else "background"
        for value in sorted({0, *found["values"]})
    }
    planned = plan.make_plan(
        found,
        channels=data.channels,
        channel_count=len(facts[0].intensities),
        labels=labels,
        machine=find_machine(arguments.memory),
        rank=arguments.dimension,
    )
    prepared.share_out(facts, [fact.case.name for fact in facts], arguments.validation)
    size = prepared.check_room(facts, planned, out)
    identity = plan.identity(planned, found)
    with files.staged(out, _CONFIG) as stage:
        written = prepared.write_records(facts, planned, labels, identity, stage, arguments.jobs)
        for fact, problem in zip(facts, _progress(written, "writing", len(facts)), strict=True):
            if problem:
                problems[fact.case.name] = problem
        names = [fact.case.name for fact in facts if fact.case.name not in problems]
        lists = prepared.share_out(facts, names, arguments.validation)
        # The two training lists in one, for tools that want that.
        both = lists[prepared.LAYOUT.train_list] + lists[prepared.LAYOUT.unlabeled_list]
        for listing, listed in {**lists, "train.list": both}.items():
            files.write_list(stage / listing, listed)
        files.write_json(stage / "fingerprint.json", found)
        doubts = {fact.case.name: fingerprint.doubts(fact) for fact in facts}
        uses = [
            use
            for case in data.cases
            for use in _uses(case, problems.get(case.name, ""), doubts.get(case.name, ""))
        ]
        file_report.write_report(stage / "files.csv", uses, data.ignored)
        values = plan_config.settings(
            planned,
            identity=identity,
            labeled=len({patient(name) for name in lists[prepared.LAYOUT.train_list]}),
            validation=len(lists[prepared.LAYOUT.validation_list]),
            tested=bool(lists[prepared.TEST_LIST]),
            bytes_on_disk=size,
        )
        files.write_text(stage / _CONFIG, plan_config.config_text(planned, values))
    for name, doubt in doubts.items():
        if doubt:
            CONSOLE.print(f"- look at {name}: {doubt}")
    counts = ", ".join(f"{len(own)} {pathlib.Path(name).stem}" for name, own in lists.items())
    CONSOLE.print(f"{out}: {counts}. Classes: {', '.join(labels.values())}.")
    for reason in planned.reasons:
        CONSOLE.print(f"- {reason}")
    return lists


def prepare_scans(arguments: argparse.Namespace) -> list[str]:
    """Prepares scans of one's own; returns what is wrong with the cases that were left out."""
    out = arguments.output
    if ":" in str(out):
        raise ValueError(
            f"{out}: what follows a colon in --config would be read as the name of a variant. Name "
            f"another OUTPUT."
        )
    data = _read_raw(arguments)
    for line in file_report.summarize(data.ignored):
        CONSOLE.print(line)
    channels = fingerprint.count_channels(data)
    problems: dict[str, str] = {}
    facts: list[CaseFacts] = []
    if arguments.masks and not any(case.label for case in data.cases):
        name = data.cases[0].name
        raise ValueError(
            f"{arguments.masks}: it holds no mask for any of the {len(data.cases)} scans. That of "
            f"{name} is called {name} or {name}_seg."
        )
    examined = fingerprint.examine_all(data.cases, data.labels, channels, arguments.jobs)
    for case, found in zip(
        data.cases, _progress(examined, "reading", len(data.cases)), strict=True
    ):
        if isinstance(found, str):
            problems[case.name] = found
        else:
            facts.append(found)
    drawn = [case.name for case in data.cases if case.label is not None]
    if drawn and not any(fact.values for fact in facts):
        reasons = [problems[name] for name in drawn if name in problems]
        raise ValueError("\n- ".join((f"none of the {len(drawn)} masks can be used:", *reasons)))
    if facts:
        lists = _write(data, facts, problems, arguments)
        if not lists[prepared.LAYOUT.validation_list]:
            CONSOLE.print(
                f"- No validation: it takes {prepared.VALIDATION_SHARE} labelled patients, or "
                f"--validation=N. The last checkpoint is used."
            )
        run = f"runs/{out.resolve().name}"
        config = shlex.quote(f"--config={out / _CONFIG}")
        CONSOLE.print(
            f"Train: python -m cifp_jax.main {config} {shlex.quote(f'--workdir={run}')}\n"
            f"Then:  python -m cifp_jax.predict {shlex.quote(f'--weights={run}')} SCANS MASKS"
        )
    return [*data.problems, *problems.values()]


def prepare_challenge(kind: str, arguments: argparse.Namespace) -> list[str]:
    """Prepares ACDC or LA as the field does; returns what is wrong with scans left out."""
    out = arguments.output
    with files.staged(out, challenges.TRAIN_LISTS[kind]) as stage:
        failures = challenges.prepare(
            kind, arguments.raw, stage, lists=arguments.lists, truth=arguments.truth_crop
        )
    CONSOLE.print(
        f"{out}: the files of {kind.upper()}.\n"
        f"Train: python -m cifp_jax.main --config={kind} "
        f"{shlex.quote(f'--config.data.root={out}')}"
    )
    return failures


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be prepared.

    Args:
      arguments: as `cifp_jax.prepare.parse` returns them.
    """
    try:
        for folder in filter(None, (arguments.raw, arguments.masks)):
            if not folder.exists():
                raise FileNotFoundError(f"{folder}: this folder is missing. Name another.")
            if not folder.is_dir():
                raise ValueError(f"{folder}: this is a file. Name the folder that it lies in.")
            if folder.resolve() == arguments.output.resolve():
                raise ValueError(
                    f"{folder}: the data would lie among the scans. Name another OUTPUT."
                )
        kind = "" if arguments.masks else challenges.recognize(arguments.raw)
        failures = prepare_challenge(kind, arguments) if kind else prepare_scans(arguments)
    except (ValueError, OSError) as error:
        CONSOLE.print(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        CONSOLE.print(f"stopped: {arguments.output} is as it was. Give the command again.")
        return INTERRUPTED
    if failures:
        CONSOLE.print(f"{len(failures)} case(s) were left out:")
    for failure in failures:
        CONSOLE.print(f"- {failure}")
    return 1 if failures else 0
