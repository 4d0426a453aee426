"""Writes prepared data sets: a record for each case, and the lists that share them out."""

import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cifp_jax import files
from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.data.splits import patient
from cifp_jax.host import in_order
from cifp_jax.scans import fingerprint
from cifp_jax.scans.fingerprint import CaseFacts
from cifp_jax.scans.geometry import resampled_shape
from cifp_jax.scans.plan import Plan

# Of scans of one's own; that of slices has the same files.
LAYOUT = LAYOUTS["volumes"]
TEST_LIST = "test.list"
VALIDATION_SHARE = 5  # one labelled patient in so many is set aside


def write_records(
    facts: Sequence[CaseFacts],
    planned: Plan,
    labels: Mapping[int, str],
    identity: str,
    out: pathlib.Path,
    jobs: int = 1,
) -> Iterator[str]:
    """Writes a record for each case; yields what is wrong with it, or "".

    Args:
      facts: of the cases.
      planned: how they are prepared.
      labels: names of the values of a mask.
      identity: of the data set; each record keeps it.
      out: folder of the data set.
      jobs: cases that are written at once.

    Raises:
      OSError: the disk is full, or may not be written.
    """
    preparation = planned.preparation

    def tried(fact: CaseFacts) -> str:
        try:
            scan, mask = fingerprint.read_pair(fact.case, planned.channels, labels)
            record = {"image": preparation.image(scan)}
            if mask is not None:
                record["label"] = preparation.label(mask, planned.classes)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
        path = out / LAYOUT.volume_file.format(fact.case.name)
        attributes = {"affine": preparation.affine(scan), "identity": identity}
        files.write_record(path, record, attributes=attributes, sliced=True)
        return ""

    return in_order(tried, facts, jobs)


def check_room(facts: Sequence[CaseFacts], planned: Plan, out: pathlib.Path) -> int:
    """The bytes that the records take at most; raises OSError where the disk has less room."""
    preparation = planned.preparation
    voxels = 0
    for fact in facts:
        order = preparation.order(fact.spacing)
        shape = [fact.shape[i] for i in order]
        own = [fact.spacing[i] for i in order]
        voxels += math.prod(resampled_shape(shape, own, preparation.spacing))
    needed = voxels * (4 * planned.channels + 1)
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{out}: up to {needed / 2**20:.1f} MiB are needed, and {free / 2**20:.1f} MiB are "
            f"free on this disk. Free some, or name another folder."
        )
    return needed


def share_out(
    facts: Sequence[CaseFacts], written: Sequence[str], wanted: int | None
) -> dict[str, list[str]]:
    """Shares the written cases out to four lists; returns their names by the file of the list.

    Unlabelled cases of validation and test patients stand in none, so that no patient is both
    trained on and scored; a patient may have labelled and unlabelled cases.

    Args:
      facts: of the cases.
      written: names of those that have a record.
      wanted: labelled patients for validation; None: one in five.

    Raises:
      ValueError: that leaves nobody to train on.
    """
    there = [fact.case for fact in facts if fact.case.name in written]
    tested = {patient(case.name) for case in there if case.test}
    labeled = [case.name for case in there if case.label and patient(case.name) not in tested]
    patients = list(dict.fromkeys(map(patient, labeled)))
    count = len(patients) // VALIDATION_SHARE if wanted is None else wanted
    if not 0 <= count < max(len(patients), 1):
        raise ValueError(
            f"--validation={count} leaves none of the {len(patients)} labelled patient(s) to train "
            f"on."
        )
    held_out = set(np.random.default_rng(0).permutation(patients)[:count].tolist())
    free = [c.name for c in there if not c.label and patient(c.name) not in held_out | tested]
    return {
        LAYOUT.train_list: [name for name in labeled if patient(name) not in held_out],
        LAYOUT.unlabeled_list: free,
        LAYOUT.validation_list: [name for name in labeled if patient(name) in held_out],
        TEST_LIST: [case.name for case in there if case.test],
    }
