"""Writes the tables of the documents from the committed results: `python -m experiments.figures`.

In a page a table stands between `<!-- table: NAME -->` and `<!-- end -->`. What is between them is
made of the JSON in `experiments/results/` and `benchmarks/results/`. Where the JSON of a
measurement was not kept, the figures that were printed stand in `recorded.json` there, with date
and hardware. A test fails where a page differs.
"""

import argparse
import pathlib
import re
import sys

from experiments import (
    first_form_tables,
    pod_tables,
    result_tables,
    search_tables,
    speed_tables,
)

PAGES = (
    *("README.md", "benchmarks/RESULTS.md", "benchmarks/TRIED.md", "docs/start.md"),
    *("docs/howto/label_next.md", "docs/howto/own_data.md", "docs/howto/short_slots.md"),
    "experiments/weights/README.md",
    *("docs/explanation/scaling.md", "experiments/results/core_search.md"),
    *(page.as_posix() for page in sorted(pathlib.Path("experiments/results").rglob("README.md"))),
    *(card.as_posix() for card in sorted(pathlib.Path("docs/models").glob("*.md"))),
)
TABLES = (
    result_tables.TABLES
    | first_form_tables.TABLES
    | search_tables.TABLES
    | speed_tables.TABLES
    | pod_tables.TABLES
)
_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """The page with every marked table made anew.

    Raises:
      ValueError: a table is not known.
    """

    def made(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"no table {found[2]!r}; known: {', '.join(TABLES)}.")
        return f"{found[1]}{TABLES[found[2]]()}\n{found[3]}"

    return _MARKED.sub(made, text)


def pages() -> dict[pathlib.Path, str]:
    """The pages with tables, as they should be."""
    files = map(pathlib.Path, PAGES)
    return {file: fill(file.read_text(encoding="utf-8")) for file in files}


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m experiments.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        for file, text in pages().items():
            file.write_text(text, encoding="utf-8")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
