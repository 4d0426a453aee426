"""Writes a network as one file: `python -m cifp_jax.export --weights=RUN --out=FILE`.

RUN is the folder of a run (the file then holds the network that it reports: the checkpoint and the
weights of its `config.evaluation`), a file of weights, or the name of a released network. The file
says what is needed to use it: network, preparation of the scans, method, training patients.

With --batch_stats_from=DATA, batch statistics are estimated anew on the images of its training list
as they are, as those of training are of augmented images: no label is read, no parameter changes.

The format flax is read by `--weights=FILE` of the other commands; torch, onnx and stablehlo are for
other programs. They take images that are prepared as their metadata says.
"""

import argparse
import pathlib
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cifp_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--weights",
        type=pathlib.Path,
        required=True,
        help="folder of a run, file of weights, or name of a released network",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the file")
    parser.add_argument(
        "--format",
        choices=("flax", "torch", "onnx", "stablehlo"),
        default="flax",
        help="flax (safetensors, for --weights), torch (safetensors with the field's names), onnx, "
        "stablehlo (for jax.export.deserialize)",
    )
    parser.add_argument("--float16", action="store_true", help="half the size, for release")
    parser.add_argument(
        "--batch_stats_from",
        metavar="DATA",
        type=pathlib.Path,
        help="folder of the network's data, its config.data.root: estimate batch statistics anew",
    )
    given = parser.parse_args(arguments)
    if given.float16 and given.format != "flax":
        parser.error("--float16 is for --format=flax.")
    from cifp_jax.commands import export

    export.run(
        given.weights,
        given.out,
        form=given.format,
        half=given.float16,
        batch_stats_from=given.batch_stats_from,
    )


if __name__ == "__main__":
    main()
