"""Imports PyTorch weights: `python -m cifp_jax.import_torch FILE.pth OUT.safetensors`.

It reads checkpoints of the field's 2D U-Net and 3D V-Net by the names that their layers have in
SSL4MIS, UA-MT and BCP (UniMatch's U-Net has those of SSL4MIS), and writes a file of weights that
`--mode=evaluate --weights=OUT` reads. Only tensors are loaded from FILE, and no code. PyTorch has
to be installed, `pip install '.[torch]'` in the clone, unless FILE is a safetensors file.

A V-Net with residual blocks has the same names and shapes as one without, and another output; BCP
and UA-MT train the one without, which is the one that is meant here.
"""

import argparse
import pathlib
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cifp_jax.import_torch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=pathlib.Path, help="the PyTorch checkpoint")
    parser.add_argument("out", type=pathlib.Path, help="file.safetensors")
    given = parser.parse_args(arguments)
    from cifp_jax.commands import import_torch

    import_torch.run(given.file, given.out)


if __name__ == "__main__":
    main()
