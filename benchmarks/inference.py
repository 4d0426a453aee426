"""Prediction of whole volumes beside PyTorch's: `python -m benchmarks.inference [--quick]`.

A V-Net over sliding windows of a 200x150x88 scan (stride 18, 18, 4 as LA's protocol has it; 36, 36,
20 with `--quick`), and a U-Net over the ten slices of an ACDC volume. With `--la data/LA` it is an
evaluation in their place: the first twenty of LA's scans by that V-Net, with Dice, Jaccard, 95HD
and ASD of one mask each, once.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks import jax_works, record, torch_works
from benchmarks.sides import interleave

SCAN, PATCH = (200, 150, 88), (112, 112, 80)
VOLUME = (10, 216, 256)


def predicted(args: argparse.Namespace, stride: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of one random volume each."""
    works = {
        f"V-Net, {'x'.join(map(str, SCAN))}, stride {stride}": ("vnet", SCAN, PATCH, stride),
        f"U-Net, {'x'.join(map(str, VOLUME))}": ("unet", VOLUME, (256, 256), ()),
    }
    rows = []
    sides = {"cifp_jax": jax_works.predict, "pytorch": torch_works.predict}
    for name, work in works.items():
        arguments = dict(zip(("network", "shape", "patch", "stride"), work, strict=True))
        record.CONSOLE.print(name)
        results, errors = interleave(
            sides, arguments | {"batch": args.batch}, 1 if args.quick else args.repeats
        )
        rows.append(record.row(name, results, errors, {}))
    return rows


def evaluated(
    args: argparse.Namespace, parser: argparse.ArgumentParser, stride: Sequence[int]
) -> list[dict[str, Any]]:
    """The row of LA's scans, predicted and scored."""
    files = sorted(map(str, args.la.glob("*/mri_norm2.h5")))[: args.scans]
    if not files:
        parser.error(f"{args.la} has no */mri_norm2.h5: --la is the folder of LA's scans")
    sides = {"cifp_jax": jax_works.evaluate, "pytorch": torch_works.evaluate}
    arguments = {"files": files, "patch": PATCH, "stride": stride, "batch": args.batch}
    results, errors = interleave(sides, arguments, 1)
    return [record.row(f"{len(files)} scans of LA, stride {stride}", results, errors, {})]


def main() -> None:
    parser = record.command("inference", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer windows, one turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--batch", type=int, default=2, help="windows or slices in one pass")
    parser.add_argument("--la", type=pathlib.Path, help="the folder of LA's scans")
    parser.add_argument("--scans", type=int, default=20, help="how many of LA's, by name")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="default: inference.json or evaluation.json in benchmarks/results",
    )
    args = parser.parse_args()
    stride = (36, 36, 20) if args.quick else (18, 18, 4)
    name = "evaluation" if args.la else "inference"
    rows = evaluated(args, parser, stride) if args.la else predicted(args, stride)
    record.show("prediction of whole volumes", rows)
    record.write(args.out or pathlib.Path(f"benchmarks/results/{name}.json"), name, {}, rows)


if __name__ == "__main__":
    main()
