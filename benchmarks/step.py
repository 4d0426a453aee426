"""Training steps beside PyTorch's: `python -m benchmarks.step [--quick]`.

The table holds the median time of each side, their ratio (below 1: this package is faster), our
peak memory, and the shares of two limits that our step reaches: its operations a second over the
rate of a large matrix product, and its bytes a second over the rate of a large copy, on the same
device.

Operations are XLA's count for the step as it is written for this platform; bytes are its count for
the compiled one, on a CPU an upper bound, as results that stay in the cache are counted too: the
share may pass 1.

A second table holds what a TPU or GPU would take at its published peaks (`benchmarks.peaks`) for
the operations of the plain step and the bytes of this one. That is an estimate: nothing of it was
measured, and a program compiled for that chip reads and writes other bytes.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from benchmarks import jax_works, peaks, record, torch_works
from benchmarks.sides import interleave

WORKS = {
    "V-Net supervised, 2 x 112x112x80": ("vnet", "supervised", (112, 112, 80), 2),
    "U-Net supervised, 8 x 256x256": ("unet", "supervised", (256, 256), 8),
    "V-Net CIFP, 2 + 2 x 112x112x80": ("vnet", "cifp", (112, 112, 80), 2),
    "U-Net CIFP, 12 + 12 x 256x256": ("unet", "cifp", (256, 256), 12),
}
QUICK = 2  # the first works only, with few turns


def estimates(precision: str, facts: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step by the roofline of each chip of `peaks.PEAKS`.

    Args:
      precision: float32 or bfloat16.
      facts: plain_flops and bytes of the step.
    """
    return {
        chip: peaks.roofline(own, precision, facts["plain_flops"], facts["bytes"])
        for chip, own in peaks.PEAKS.items()
    }


def show_estimates(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the estimates of the rows that have some."""
    table = Table(title="estimated, not measured: one chip at its published peaks, ms")
    table.add_column("work")
    for chip in peaks.PEAKS:
        table.add_column(chip, justify="right")
    for row in rows:
        if "estimated_s" in row:
            cells = (f"{1000 * seconds:.1f}" for seconds in row["estimated_s"].values())
            table.add_row(row["work"], *cells)
    record.CONSOLE.print(table)


def main() -> None:
    parser = record.command("step", __doc__)
    parser.add_argument("--quick", action="store_true", help="supervised steps only, three turns")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--only", default="", help="works whose name contains this")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="config.precision here, autocast in PyTorch",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/step.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    limits = jax_works.limits()
    rows = []
    sides = {"cifp_jax": jax_works.step, "pytorch": torch_works.step}
    for name, work in list(WORKS.items())[: QUICK if args.quick else None]:
        if args.only not in name:
            continue
        arguments = dict(zip(("network", "method", "shape", "batch"), work, strict=True))
        record.CONSOLE.print(name)
        results, errors = interleave(
            sides,
            arguments | {"precision": args.precision},
            3 if args.quick else args.repeats,
        )
        row = record.row(name, results, errors, limits)
        if ours := results.get("cifp_jax"):
            row["estimated_s"] = estimates(args.precision, ours.facts)
        rows.append(row)
    record.show("one training step", rows)
    show_estimates(rows)
    record.write(args.out, "step", limits, rows)


if __name__ == "__main__":
    main()
