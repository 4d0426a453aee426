"""Trains and evaluates: `python -m cifp_jax.main --config=configs/la.py --workdir=runs/la`."""

import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cifp_jax.training import build, compare, loop

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon: configs/la.py:laptop."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; a second start resumes it.")
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train (and evaluate), or evaluate a finished run."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
    logging.set_verbosity(logging.WARNING)  # Orbax and Grain tell much at INFO
    try:
        build.check_config(config)
        if config.compare:
            compare.run(config, workdir, mode=_MODE.value)
        elif _MODE.value == "train":
            loop.train(config, workdir)
        else:
            loop.evaluate(config, workdir)
    except (ValueError, FileNotFoundError) as error:
        # Wrong input is answered in one line; a fault of this package keeps its traceback.
        logging.debug("", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(main)
