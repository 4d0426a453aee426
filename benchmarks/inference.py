"""Prediction of whole volumes beside PyTorch's: `python -m benchmarks.inference [--quick]`.

A V-Net over sliding windows of a 200x150x88 scan (stride 18, 18, 4 as LA's protocol has it; 36, 36,
20 with `--quick`), and a U-Net over the ten slices of an ACDC volume.
"""

import argparse
import pathlib

from benchmarks import jax_works, record, torch_works
from benchmarks.sides import interleave

SCAN, PATCH = (200, 150, 88), (112, 112, 80)
VOLUME = (10, 216, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer windows, one turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--batch", type=int, default=2, help="windows or slices in one pass")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/inference.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    stride = (36, 36, 20) if args.quick else (18, 18, 4)
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
    record.show("prediction of one volume", rows)
    record.write(args.out, "inference", {}, rows)


if __name__ == "__main__":
    main()
