"""Segments scans: `python -m cifp_jax.predict --weights=RUN INPUT OUTPUT`.

INPUT is a scan (NIfTI, NRRD, MetaImage, MGZ, DICOM, or a prepared HDF5 file) or a folder that is
looked through for them, with the channels of a scan as `<case>_0000`, `<case>_0001`, ... OUTPUT is
a folder, which gets `<case>.nii.gz` for each, or the scan's own format (NRRD, MetaImage, MGZ), a
mask on the scan's own grid; `measurements.csv` with the volume of each structure; and `files.csv`,
which says of every file whether it was used.
Given again, the command goes on with what is missing. The training data is not needed.

With --rank it also says which of the scans to label next: OUTPUT/ranking.csv, best first, and
OUTPUT/ranking.png with the first twelve. The rule is that of `cifp_jax.evaluation.ranking`.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line; ends the process where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m cifp_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        type=pathlib.Path,
        required=True,
        help="folder of a run, a file of cifp_jax.export, or a released network: acdc-7, la-8",
    )
    parser.add_argument("input", type=pathlib.Path, metavar="INPUT", help="a scan or a folder")
    parser.add_argument("output", type=pathlib.Path, metavar="OUTPUT", help="folder for the masks")
    parser.add_argument(
        "--probabilities", action="store_true", help="also write OUTPUT/probabilities/<case>.nii.gz"
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write OUTPUT/uncertainty/<case>.nii.gz: entropy, from 0 to 1",
    )
    parser.add_argument(
        "--flips", action="store_true", help="average over mirror images (4 times the time)"
    )
    parser.add_argument(
        "--rank",
        action="store_true",
        help="also write OUTPUT/ranking.csv and .png: which scan to label next (3 times the time)",
    )
    parser.add_argument(
        "--format",
        choices=("nifti", "nrrd", "metaimage", "mgz", "dicom-seg"),
        help="of the masks; dicom-seg is for DICOM scans alone (default: that of the scan; nifti "
        "for DICOM and HDF5)",
    )
    parser.add_argument(
        "--preview", action="store_true", help="also write OUTPUT/preview/<case>.png"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make masks anew that are there already"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "gpu", "tpu"),
        help="what computes (default: an accelerator where there is one)",
    )
    parser.add_argument(
        "--spatial-partitions",
        type=int,
        default=1,
        help="devices that share each window, where one device has not the memory for it",
    )
    parser.add_argument("--jobs", type=int, default=1, help="scans read ahead, each in memory")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1.")
    if arguments.spatial_partitions < 1:
        parser.error("--spatial-partitions must be at least 1.")
    if arguments.rank and arguments.flips:
        parser.error(
            "--rank compares the predictions of mirror images, of which --flips leaves only the "
            "mean. Give one of the two."
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 where a scan, or all, could not be segmented."""
    arguments = parse(argv)
    from cifp_jax.commands import predict

    return predict.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
