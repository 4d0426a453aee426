"""Trains and evaluates: `python -m cifp_jax.main --config=configs/la.py`.

Settings are overridden by name: `--config.data.root=DIR --config.training.steps=2000`. They stand,
with their meaning, in `cifp_jax/config.py`, and those of a method in its file in
`cifp_jax/methods/`.
"""

import io
import pathlib
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags

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


def config_file(given: str) -> str:
    """The file of a configuration, with its variant: a path stays, `la:cpu` is looked up.

    Raises:
      ValueError: there is none of this name.
    """
    name, colon, variant = given.partition(":")
    if not name or (pathlib.Path(name).suffix and pathlib.Path(name).is_file()):
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


def _check_overrides(argv: Sequence[str], config: Any = None) -> None:
    if any(argument.lstrip("-").startswith("config.") for argument in argv):
        from cifp_jax.commands.overrides import check_overrides

        check_overrides(argv, config)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with a setting is said in one line."""
    try:
        argv = with_config_file(argv)
        _check_overrides(argv)
        left = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            # `a,b` is one text to ml_collections, and an empty list one empty text.
            names = ",".join(map(str, _CONFIG.value.get("compare", ()))).split(",")
            _CONFIG.value.compare = tuple(filter(None, map(str.strip, names)))
            _check_overrides(argv, _CONFIG.value)
    except SystemExit as end:
        sys.exit(0 if end.code == 1 else end.code)  # absl's 1 stands for a help that was asked for
    except OSError as error:
        sys.exit(f"error: --config: {error}")
    except (flags.Error, ValueError) as error:
        said = _said_of_file(error) or str(error)
        if "--config=None" in said:
            said = "no configuration is named: give --config=acdc:cpu, say, or a file."
        sys.exit(f"error: {said}")
    except (AttributeError, KeyError) as error:
        if said := _said_of_file(error):
            sys.exit(f"error: {said}")
        raise
    return left


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]} is no flag; a setting is --config.training.steps=100, say.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows how far the run is
    config = _CONFIG.value
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    name = "compare" if config.compare else config.method.name
    workdir = pathlib.Path(_WORKDIR.value or default_workdir(file, name))
    if _MODE.value == "train" and _WEIGHTS.value:
        sys.exit(
            "error: --weights is for --mode=evaluate; training starts from its own checkpoint."
        )
    if config.compare and _WEIGHTS.value:
        sys.exit(
            "error: --weights is one network, and this configuration compares several methods; "
            "take another configuration of the same data, or leave --weights out."
        )
    named = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    several = _DISTRIBUTED.value or any(x is not None for x in named)
    from cifp_jax.commands import train

    train.run_or_end(
        config,
        workdir,
        mode=_MODE.value,
        weights=_WEIGHTS.value,
        cluster=named if several else None,
        quiet=not flags.FLAGS["verbosity"].present,
    )


def console() -> None:
    """The command `cifp-train`."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    console()
