"""Makes a data set for training: `python -m cifp_jax.prepare RAW OUTPUT`.

RAW is a folder of nnU-Net or of the Medical Segmentation Decathlon (with `dataset.json`), the raw
ACDC or LA challenge, or any folder of scans together with `--masks=FOLDER`, which may be the same.
Scans are NIfTI, NRRD, MetaImage, MGZ or DICOM. OUTPUT gets the arrays, the lists,
`fingerprint.json`, `files.csv` (which file was used, and why not) and `config.py`, all or none:

    python -m cifp_jax.main --config=OUTPUT/config.py
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line; ends the process where they are wrong."""
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
    parser.add_argument(
        "--memory", type=float, help="GiB that a step may take (default: found out)"
    )
    parser.add_argument("--lists", type=pathlib.Path, help="ACDC, LA: folder of the field's lists")
    parser.add_argument(
        "--truth-crop",
        action="store_true",
        help="LA: cut scans around their true mask as the field does, which tells where it is",
    )
    parser.add_argument("--jobs", type=int, default=2, help="scans read at once, each in memory")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1.")
    if arguments.memory is not None and arguments.memory <= 0:
        parser.error("--memory must be above 0.")
    if arguments.validation is not None and arguments.validation < 0:
        parser.error("--validation must be at least 0.")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be prepared."""
    arguments = parse(argv)
    from cifp_jax.commands import prepare

    return prepare.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
