"""Trains and evaluates: `python -m cifp_jax.main --config=configs/la.py`.

Settings are overridden by name: `--config.data.root=DIR --config.training.steps=2000`. They stand,
with their meaning, in `cifp_jax/config.py`.
"""

import difflib
import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cifp_jax import host
from cifp_jax.config import Config, default_config, method_defaults
from cifp_jax.evaluation.evaluate import CaseError
from cifp_jax.methods import METHODS
from cifp_jax.training import build, compare, loop, scoring

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, with a variant after a colon: configs/la.py:laptop."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run; the same command resumes it. Default: runs/<configuration>_<method>.",
)
_MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate a finished run."
)
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "With --mode=evaluate: a file of `cifp_jax.export` in place of a run."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "This is one process of several (TPU pod, cluster): join them first."
)
flags.mark_flag_as_required("config")


def default_workdir(config_file: str, method: str) -> pathlib.Path:
    """`configs/la.py:laptop` and `cifp` give `runs/la_laptop_cifp`.

    `prepare` names every configuration `config.py`: then the folder's name stands for it, so that
    two data sets do not share a run.
    """
    path, _, variant = config_file.partition(":")
    file = pathlib.Path(path).resolve()
    name = file.parent.name if file.name == "config.py" else file.stem
    return pathlib.Path("runs") / "_".join(filter(None, (name, variant, method)))


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line.

    A setting that does not exist is answered with the nearest ones, and one of another method with
    those that the chosen method has.
    """
    known = default_config().to_dict()
    names = [f"{part}.{key}" for part, own in known.items() if isinstance(own, dict) for key in own]
    names += [name for name, own in known.items() if not isinstance(own, dict)]
    given = []  # settings of the method
    chosen = any(a.lstrip("-").startswith("config.method.name") for a in argv)
    for argument in argv:
        flag, _, name = argument.split("=")[0].lstrip("-").partition(".")
        if flag == "config" and name and name not in names:
            nearest = difflib.get_close_matches(name, names, cutoff=0.0)
            sys.exit(f"error: no setting config.{name}; the nearest are {', '.join(nearest)}.")
        if flag == "config" and name.startswith("method.") and name != "method.name":
            given.append(name.removeprefix("method."))
    try:
        left, config = app.parse_flags_with_usage(argv), _CONFIG.value
    except OSError as error:
        sys.exit(f"error: --config: {error}")
    if config is not None and config.compare and chosen:
        compared = ", ".join(config.compare)
        sys.exit(f"error: this configuration compares {compared}; choose by --config.compare.")
    if config is not None and not config.compare and config.method.name in METHODS:
        own = method_defaults(config.method.name)
        for name in given:
            if name not in own:
                has = ", ".join(own) or "none"
                sys.exit(f"error: {config.method.name} has no setting {name}; it has: {has}.")
    return left


def _join() -> None:
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            f"--distributed: no cluster is found, start without it ({error})"
        ) from error


def run(config: Config, workdir: pathlib.Path, *, mode: str, weights: str | None = None) -> None:
    """Trains and scores what the configuration says, or (`mode` evaluate) scores it alone.

    The data files are read and checked once for all of it, before anything else.

    Args:
      config: checked, see `build.check_config`.
      workdir: folder of the run.
      mode: train or evaluate.
      weights: file of a network to be scored in place of a run's.

    Raises:
      ValueError, OSError, CaseError: with a message for the person who started it.
    """
    split = build.make_split(config)
    if config.compare:
        compare.run(config, split, workdir, mode=mode)
    elif mode == "train":
        loop.train(config, split, workdir)
    elif weights:
        scoring.score_weights(config, split, pathlib.Path(weights), workdir)
    else:
        scoring.score_run(config, split, workdir)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Not a flag: {' '.join(argv[1:])}")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.ERROR)  # Orbax remarks on every save below that
    host.use_compilation_cache()
    host.keep_memory()
    config = _CONFIG.value
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    name = "compare" if config.compare else config.method.name
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(file, name))
    trains = _MODE.value == "train"
    if trains and _WEIGHTS.value:
        sys.exit(
            "error: --weights is for --mode=evaluate; training starts from its own checkpoint."
        )
    if config.compare and _WEIGHTS.value:
        sys.exit(
            "error: --weights is one network, and this configuration compares several methods; "
            "take another configuration of the same data, or leave --weights out."
        )
    try:
        if _DISTRIBUTED.value:
            _join()
        if config.parallel != "none":
            sizes = build.batch_sizes(config) if trains else {}
            host.use_cores(tuple(sizes.values()), build.batch_unit(config))
        build.check_config(config, trains=trains)
        run(config, workdir, mode=_MODE.value, weights=_WEIGHTS.value)
    except (ValueError, OSError, CaseError) as error:
        # Wrong input gets one clear message; --verbosity=1 adds where it was noticed.
        logging.debug("", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
