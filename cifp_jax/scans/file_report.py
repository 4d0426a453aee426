"""Which files were used, which were not, and why: `files.csv`, and a few lines for the terminal."""

import csv
import pathlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cifp_jax.files import whole
from cifp_jax.scans.discovery import files_of
from cifp_jax.scans.readers import Source

_SHOWN = 3  # names of files on one line


class FileUse(NamedTuple):
    """What became of a file.

    Attributes:
      file: its path.
      use: used, refused (it was to be used) or ignored.
      case: name of the scan that it belongs to, "" for none.
      role: image or mask, "" for an ignored file.
      reason: why it is refused or ignored; of a used one, what is worth a look.
    """

    file: pathlib.Path
    use: str
    case: str
    role: str
    reason: str


def uses_of(
    files: Iterable[pathlib.Path], case: str, role: str, problem: str = "", doubt: str = ""
) -> list[FileUse]:
    """Of the files of a case: refused where there is a `problem`, else used."""
    use = "refused" if problem else "used"
    return [FileUse(file, use, case, role, problem or doubt) for file in files]


def uses_of_scans(
    scans: Mapping[str, Iterable[Source]], problems: Mapping[str, str], doubts: Mapping[str, str]
) -> list[FileUse]:
    """Of the files of scans without masks, with what is wrong or doubtful about some of them."""
    return [
        use
        for name, sources in scans.items()
        for source in sources
        for use in uses_of(
            files_of(source), name, "image", problems.get(name, ""), doubts.get(name, "")
        )
    ]


def shown(path: pathlib.Path) -> str:
    """A path as text that can be written and printed, where its bytes are no UTF-8 too."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def write_report(
    path: pathlib.Path, uses: Iterable[FileUse], ignored: Mapping[pathlib.Path, str]
) -> None:
    """Writes `files.csv`: the files of cases, then those that are left out."""
    left_out = (FileUse(file, "ignored", "", "", why) for file, why in sorted(ignored.items()))
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(FileUse._fields)
        writer.writerows((shown(use.file), *use[1:]) for use in (*uses, *left_out))


def summarize(ignored: Mapping[pathlib.Path, str]) -> list[str]:
    """One line for each reason, with the number of files and some of their names."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file, why in sorted(ignored.items()):
        by_reason[why].append(shown(pathlib.Path(file.name)))
    return [
        f"- ignored {len(names)}: {why} ({', '.join(names[:_SHOWN])}"
        f"{', ...' if len(names) > _SHOWN else ''})"
        for why, names in by_reason.items()
    ]
