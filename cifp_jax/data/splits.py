"""Lists of cases to labelled, unlabelled, validation and test sets, for each layout of files."""

import dataclasses
import pathlib
import re

from cifp_jax.data.sources import Case, slices_of
from cifp_jax.scans import preparation
from cifp_jax.scans.preparation import Preparation


@dataclasses.dataclass(frozen=True)
class Split:
    """The cases of a run. No patient is in two of training (both parts), validation and test."""

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a data set keeps its files. Paths hold `{}` for the name that stands in the list."""

    rank: int  # number of axes of a training record
    train_list: str
    train_file: str
    validation_list: str  # "": the last cases of the training list are set aside
    volume_file: str  # of a validation or test case
    preparation: Preparation | None  # of the scans; None: the configuration says
    unlabeled_list: str = ""  # "": the training list goes on with the unlabelled cases
    own: bool = False  # data of one's own: crops at their spacing, and lists that may be empty


_OWN = ("labelled.list", "volumes/{}.h5", "validation.list", "volumes/{}.h5")
LAYOUTS = {
    "la": Layout(3, "train.list", "{}/mri_norm2.h5", "", "{}/mri_norm2.h5", preparation.LA),
    "acdc": Layout(
        2,
        "train_slices.list",
        "data/slices/{}.h5",
        "val.list",
        "data/{}.h5",
        preparation.ACDC,
    ),
    "volumes": Layout(3, *_OWN, preparation=None, unlabeled_list="unlabelled.list", own=True),
    "slices": Layout(2, *_OWN, preparation=None, unlabeled_list="unlabelled.list", own=True),
}


def patient(name: str) -> str:
    """The patient of a case: its name without the frame and slice at its end, if it has them."""
    return re.sub(r"(_frame\d+)?(_slice_\d+)?$", "", name)


def read_list(
    root: pathlib.Path, listing: str, file: str, *, may_be_empty: bool = False
) -> tuple[Case, ...]:
    """The cases of the list `root/listing`, one name a line; a case's file is `root/file`.

    Raises:
      FileNotFoundError: the list or the file of a case is missing.
      ValueError: the list is empty or names a case twice.
    """
    path = root / listing
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this list of cases is missing. data.root must be the folder that holds the "
            f"lists; the README shows how the data is laid out."
        )
    lines: dict[str, int] = {}
    cases = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name in lines:
            raise ValueError(
                f"{path}, line {number}: {name!r} stands on line {lines[name]} already. "
                f"Remove one of the two."
            )
        lines[name] = number
        case = Case(name, root / file.format(name))
        if not case.path.is_file():
            raise FileNotFoundError(
                f"{path}, line {number}: {name!r} has no file {case.path}. "
                f"Put it there, or remove the line."
            )
        cases.append(case)
    if not cases and not may_be_empty:
        raise ValueError(f"{path}: this list is empty. Write the name of one case on each line.")
    return tuple(cases)


def _refuse_overlap(root: pathlib.Path, sets: dict[str, tuple[Case, ...]]) -> None:
    """Raises ValueError where a patient is in more than one of `sets`."""
    owner: dict[str, tuple[str, str]] = {}
    for kind, cases in sets.items():
        for case in cases:
            first_kind, first_name = owner.setdefault(patient(case.name), (kind, case.name))
            if first_kind != kind:
                raise ValueError(
                    f"{root}: {case.name!r} of the {kind} cases and {first_name!r} of the "
                    f"{first_kind} cases are of the same patient, so the figures would be too "
                    f"good. Remove one of them from its list."
                )


def load_split(
    layout: str, root: pathlib.Path, *, labeled: int, validation: int = 0, test_list: str = ""
) -> Split:
    """Reads the lists of a data set.

    Args:
      layout: a key of `LAYOUTS`. Of "slices", each slice of a listed volume is a training case.
      root: folder that holds the lists.
      labeled: the cases of this many patients, in the order of the training list, are labelled. LA
        has one scan a patient; 1, 3, 7 and 14 patients of ACDC are the 32, 68, 136 and 256 slices
        of the literature. All patients leave no unlabelled case, but for those of a list of their
        own.
      validation: LA only: the scans of this many patients, the last of the list, are set aside.
      test_list: a list of test volumes beside the others (or its absolute path), "" for none.

    Raises:
      FileNotFoundError: the folder, a list or a case's file is missing.
      ValueError: an unknown layout, numbers that the lists cannot serve, or sets that overlap.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown data layout {layout!r}; known: {', '.join(LAYOUTS)}.")
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: this folder of data is missing. The README shows how to get the data and how "
            f"it is laid out; set data.root to the folder that holds the lists."
        )
    files = LAYOUTS[layout]
    listed = read_list(root, files.train_list, files.train_file)
    unlisted = ()
    if files.unlabeled_list:
        unlisted = read_list(root, files.unlabeled_list, files.train_file, may_be_empty=True)
    if files.own and files.rank == 2:
        listed, unlisted = (
            tuple(part for case in cases for part in slices_of(case))
            for cases in (listed, unlisted)
        )
    patients = list(dict.fromkeys(patient(case.name) for case in listed))
    if files.validation_list and validation:
        raise ValueError(
            f"data.validation is {validation}, but the {layout} layout takes its validation "
            f"cases from {root / files.validation_list}: set it to 0."
        )
    if labeled < 1 or validation < 0 or labeled + validation > len(patients):
        raise ValueError(
            f"{root / files.train_list} lists {len(patients)} patients, which cannot give "
            f"{labeled} labelled and {validation} for validation: data.labeled must be at least 1, "
            f"data.validation at least 0, and their sum at most {len(patients)}."
        )
    first, last = set(patients[:labeled]), set(patients[len(patients) - validation :])
    split = Split(
        labeled=tuple(c for c in listed if patient(c.name) in first),
        unlabeled=tuple(c for c in listed if patient(c.name) not in first | last) + unlisted,
        validation=read_list(root, files.validation_list, files.volume_file, may_be_empty=files.own)
        if files.validation_list
        else tuple(c for c in listed if patient(c.name) in last),
        test=read_list(root, test_list, files.volume_file) if test_list else (),
    )
    training = split.labeled + split.unlabeled
    _refuse_overlap(
        root, {"training": training, "validation": split.validation, "test": split.test}
    )
    return split
