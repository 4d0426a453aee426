"""The lists of a data set, read into labelled, unlabelled, validation and test cases."""

import dataclasses
import hashlib
import pathlib
import re

from cifp_jax.data.layouts import find_layout
from cifp_jax.data.sources import Case, slices_of

_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(_|$)")


@dataclasses.dataclass(frozen=True)
class Split:
    """The cases of a run. No patient is in two of training (both parts), validation and test."""

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]

    def digest(self) -> str:
        """SHA-256 of the cases' names and the sizes of their files, list by list."""
        lists = (self.labeled, self.unlabeled, self.validation, self.test)
        facts = [[(case.name, case.path.stat().st_size) for case in cases] for cases in lists]
        return hashlib.sha256(repr(facts).encode()).hexdigest()


def patient(name: str) -> str:
    """The patient of a case: its name without the frame and slice at its end, if it has them.

    A frame is `_frame01`, `_ED` (end of diastole) or `_ES` (of systole). A file that is named as a
    slice has a slice too: `p1_slice_3_slice_0` is of `p1`. Of a name of BIDS, such as
    `sub-01_ses-2_T1w`, it is the subject.
    """
    if match := _SUBJECT.match(name):
        return match[1]
    return re.sub(r"(_frame\d+|_E[DS])?(_slice_\d+)*$", "", name)


def read_list(
    root: pathlib.Path, listing: str, file: str, *, may_be_empty: bool = False
) -> tuple[Case, ...]:
    """The cases of the list `root/listing`, one name a line; a case's file is `root/file`.

    Raises:
      FileNotFoundError: the list or the file of a case is missing.
      ValueError: the list is no text, is empty, names a case twice, or one outside of `root`.
    """
    path = root / listing
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this list of cases is missing. config.data.root must be the folder that "
            f"holds the lists; docs/reference/files.md shows how the data is laid out."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: this list is no text ({error}). Write the name of one case on each line."
        ) from error
    lines: dict[str, int] = {}
    cases = []
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if not name.isprintable() or ".." in name.split("/") or name.startswith("/"):
            raise ValueError(
                f"{path}, line {number}: {name!r} is no name of a case, or lies outside of {root}. "
                f"Remove the line."
            )
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
      layout: a key of `layouts.LAYOUTS`.
      root: folder that holds the lists.
      labeled: the cases of this many patients, in the order of the training list, are labelled. LA
        has one scan a patient; 1, 3, 7 and 14 patients of ACDC are the 32, 68, 136 and 256 slices
        of the literature. Where all patients are labelled, only the layout's list of unlabelled
        cases, if it has one, leaves any unlabelled.
      validation: the cases of this many patients, the last of the training list, are set aside;
        0 where the layout has a list of validation volumes.
      test_list: a list of test volumes beside the others (or its absolute path), "" for none.

    Raises:
      FileNotFoundError: the folder, a list or a case's file is missing.
      ValueError: an unknown layout, numbers that the lists cannot serve, or sets that overlap.
    """
    files = find_layout(layout)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: this folder of data is missing. Set config.data.root to the folder that "
            f"holds the lists; docs/reference/files.md shows how the data is laid out."
        )

    def listed(listing: str, file: str) -> tuple[Case, ...]:
        if not listing:
            return ()
        return read_list(root, listing, file, may_be_empty=listing in files.may_be_empty)

    cases, more = (
        listed(name, files.train_file) for name in (files.train_list, files.unlabeled_list)
    )
    if files.trains_on_slices_of_volumes:
        cases, more = (
            tuple(z for volume in part for z in slices_of(volume)) for part in (cases, more)
        )
    patients = list(dict.fromkeys(patient(case.name) for case in cases))
    if files.validation_list and validation:
        raise ValueError(
            f"config.data.validation is {validation}, but the {layout} layout takes its "
            f"validation cases from {root / files.validation_list}: set it to 0."
        )
    if labeled < 1 or validation < 0 or labeled + validation > len(patients):
        raise ValueError(
            f"{root / files.train_list} lists {len(patients)} patients, which cannot give "
            f"{labeled} labelled and {validation} for validation: config.data.labeled must be at "
            f"least 1, config.data.validation at least 0, and their sum at most {len(patients)}."
        )
    first, last = set(patients[:labeled]), set(patients[len(patients) - validation :])
    split = Split(
        labeled=tuple(c for c in cases if patient(c.name) in first),
        unlabeled=tuple(c for c in cases if patient(c.name) not in first | last) + more,
        validation=listed(files.validation_list, files.volume_file)
        or tuple(c for c in cases if patient(c.name) in last),
        test=read_list(root, test_list, files.volume_file) if test_list else (),
    )
    training = split.labeled + split.unlabeled
    _refuse_overlap(
        root, {"training": training, "validation": split.validation, "test": split.test}
    )
    return split
