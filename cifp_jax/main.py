"""Trains and evaluates: `python -m cifp_jax.main --config=configs/la.py`.

Settings are overridden by name: `--config.data.root=DIR --config.training.steps=2000`. They stand,
with their meaning, in `cifp_jax/config.py`, and those of a method in its file in
`cifp_jax/methods/`.
"""

import io
import os
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import app, flags, logging
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from cifp_jax import host, processes
from cifp_jax.config import Config, default_config
from cifp_jax.evaluation.evaluate import CaseError
from cifp_jax.settings import unknown
from cifp_jax.training import build, checks, compare, loop, scoring
from cifp_jax.training.progress import CONSOLE
from cifp_jax.training.stopping import Stopped

_PACKAGE = pathlib.Path(__file__).parent
# Where configurations lie that are called by their name: in an installed package, or a clone.
_NAMED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Name or file of a configuration, with a variant after a colon: la:cpu, configs/la.py:cpu. "
    "A file is run as Python: take none from strangers.",
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
    "weights",
    None,
    "With --mode=evaluate: a file of `cifp_jax.export`, or the name of a released network, in "
    "place of a run.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this TPU pod or cluster (Slurm, MPI, GKE)."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Elsewhere: address of process 0, HOST:PORT; with the next two."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes of the run.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0 on.")
flags.mark_flag_as_required("config")

# Exit status of a run that a signal has stopped: the same command goes on. sysexits.h calls it a
# temporary failure, and schedulers can be told to start such a job again.
RESUME = os.EX_TEMPFAIL


def config_file(given: str) -> str:
    """The file of a configuration, with its variant: a path stays, `la:cpu` is looked up.

    Raises:
      ValueError: there is none of this name.
    """
    name, colon, variant = given.partition(":")
    if pathlib.Path(name).suffix or not name:
        return given
    for folder in _NAMED:
        if (folder / f"{name}.py").is_file():
            return f"{folder / name}.py{colon}{variant}"
    known = sorted(path.stem for folder in _NAMED for path in folder.glob("*.py"))
    raise ValueError(
        f"--config={given}: there is no configuration of this name; known: {', '.join(known)}. "
        f"Name one of them, or a file that ends in .py."
    )


def with_config_file(argv: Sequence[str]) -> list[str]:
    """The command line with the file of its configuration in place of a name.

    Raises:
      ValueError: as `config_file`.
    """
    made = list(argv)
    for i, argument in enumerate(made):
        flag, equals, value = argument.partition("=")
        if flag in ("-config", "--config"):
            if equals:
                made[i] = f"{flag}={config_file(value)}"
            elif i + 1 < len(made):
                made[i + 1] = config_file(made[i + 1])
    return made


def default_workdir(config_file: str, method: str) -> pathlib.Path:
    """`configs/la.py:cpu` and `cifp` give `runs/la_cpu_cifp`.

    `prepare` names every configuration `config.py`: then the folder's name stands for it, so that
    two data sets do not share a run.
    """
    path, _, variant = config_file.partition(":")
    file = pathlib.Path(path).resolve()
    name = file.parent.name if file.name == "config.py" else file.stem
    return pathlib.Path("runs") / "_".join(filter(None, (name, variant, method)))


def check_overrides(argv: Sequence[str], config: Config | None = None) -> None:
    """Raises ValueError at the first `--config.<setting>=` that would change nothing.

    Without a `config`, it asks whether there is such a setting at all; with one, whether it is of
    another method than those that this configuration trains.
    """
    known = list(flatten_dict(default_config().to_dict(), sep="."))
    parts = (argument.lstrip("-").split("=")[0].partition(".") for argument in argv)
    for name in (setting for flag, _, setting in parts if flag == "config" and setting):
        group, _, last = name.partition(".")
        if name not in known:
            # Settings of methods once stood in `config.method`, all together.
            places = [
                f"config.{other}"
                for other in known
                if group == "method" and other.endswith((f".{last}", f".{last}.kind"))
            ]
            if places:
                raise ValueError(
                    f"there is no setting config.{name}: config.method holds the name alone. Say "
                    f"{' or '.join(places)}."
                )
            raise unknown(f"config.{name}", (f"config.{other}" for other in known))
        if config is None:
            continue
        if name == "method.name" and config.compare:
            compared = ", ".join(config.compare)
            raise ValueError(f"this configuration compares {compared}; choose by --config.compare.")
        if group == "methods" and last.split(".")[0] not in build.trained_methods(config):
            chosen = f"method.name is {config.method.name}"
            if config.compare:
                chosen = f"compare is {tuple(config.compare)}"
            raise ValueError(f"config.{chosen}, so config.{name} would change nothing.")


def _said_of_file(error: BaseException | None) -> str:
    """What is wrong with a configuration file, in one line; "" where it is something else."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if inside := [frame for frame in frames if frame.name == "get_config"]:
            said = str(error.args[0]).strip("'\"").partition(" Other fields present")[0]
            written = "" if isinstance(error, ValueError) else f" ({inside[-1].line})"
            return f"{inside[-1].filename}, line {inside[-1].lineno}: {said}{written}"
        error = error.__context__
    return ""


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with a setting is said in one line."""
    try:
        argv = with_config_file(argv)
        check_overrides(argv)
        left = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            check_overrides(argv, _CONFIG.value)
    except OSError as error:
        sys.exit(f"error: --config: {error}")
    except (flags.Error, ValueError) as error:
        sys.exit(f"error: {_said_of_file(error) or error}")
    except (AttributeError, KeyError) as error:
        if said := _said_of_file(error):
            sys.exit(f"error: {said}")
        raise
    return left


def run(config: Config, workdir: pathlib.Path, *, mode: str, weights: str | None = None) -> None:
    """Trains and scores what the configuration says, or (`mode` evaluate) scores it alone.

    The data files are read and checked once for all of it, before anything else.

    Args:
      config: checked, see `checks.check_config`.
      workdir: folder of the run.
      mode: train or evaluate.
      weights: file or name of a network to be scored in place of a run's.

    Raises:
      ValueError, OSError, CaseError: with a message for the person who started it.
    """
    settings = flatten_dict({"config": config.to_dict()}, sep=".")
    processes.check_equal({"--workdir": str(workdir), "--mode": mode, **settings})
    split = processes.together(lambda: build.make_split(config))
    processes.check_equal({"the files of the data (a hash of names and sizes)": split.digest()})
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
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax remarks on every save below that
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows how far the run is
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
    named = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    try:
        if _DISTRIBUTED.value or any(x is not None for x in named):
            # One device a process where it computes on a CPU, or as many as JAX_NUM_CPU_DEVICES.
            processes.join(*named)
            CONSOLE.quiet = not processes.first()
        elif config.parallel != "none":
            sizes = build.batch_sizes(config) if trains else {}
            host.use_cores(tuple(sizes.values()), build.batch_unit(config))
        checks.check_config(config, trains=trains)
        run(config, workdir, mode=_MODE.value, weights=_WEIGHTS.value)
    except Stopped as stopped:
        CONSOLE.print(str(stopped))
        sys.exit(RESUME)
    except KeyboardInterrupt:
        CONSOLE.print("stopped; the same command goes on")
        sys.exit(RESUME)
    except (ValueError, OSError, CaseError) as error:
        # Wrong input gets one clear message; --verbosity=1 adds where it was noticed.
        logging.debug("", exc_info=True)
        _fail(f"error: {error}")
    except (processes.AnotherProcessFailed, jax.errors.JaxRuntimeError) as error:
        if not processes.several():
            raise
        logging.debug("", exc_info=True)
        _fail(
            f"error: another process of this run has failed or ended ({error}). Start "
            f"all of them again, and the run goes on from its last checkpoint."
        )


def _fail(message: str) -> NoReturn:
    if processes.several():
        # Without JAX's farewell, which waits minutes for processes that have ended.
        processes.end(message)
    sys.exit(message)


def console() -> None:
    """The command `cifp-train`."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    console()
