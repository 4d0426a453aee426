"""Trains and evaluates: the work of `cifp_jax.main`."""

import pathlib
import signal
import sys
from typing import NoReturn

import jax
from absl import logging
from flax.traverse_util import flatten_dict

from cifp_jax import host, processes
from cifp_jax.config import Config
from cifp_jax.evaluation.evaluate import CaseError
from cifp_jax.training import build, checks, compare, loop, scoring
from cifp_jax.training.progress import CONSOLE
from cifp_jax.training.stopping import RESUME, Stopped

# Address of process 0, number of processes, number of this one; None where the cluster tells.
Cluster = tuple[str | None, int | None, int | None]


def run(
    config: Config,
    workdir: pathlib.Path,
    *,
    mode: str,
    weights: str | None = None,
    may_exit: bool = False,
) -> None:
    """Trains and scores what the configuration says, or (`mode` evaluate) scores it alone.

    The data files are read and checked once for all of it, before anything else.

    Args:
      config: checked, see `checks.check_config`.
      workdir: folder of the run.
      mode: train or evaluate.
      weights: file or name of a network to be scored in place of a run's.
      may_exit: see `loop.train`.

    Raises:
      ValueError, OSError, CaseError: with a message for the person who started it.
    """
    settings = flatten_dict({"config": config.to_dict()}, sep=".")
    processes.check_equal({"--workdir": str(workdir), "--mode": mode, **settings})
    split = processes.together(lambda: build.make_split(config))
    processes.check_equal({"the files of the data (a hash of names and sizes)": split.digest()})
    if config.compare:
        compare.run(config, split, workdir, mode=mode, may_exit=may_exit)
    elif mode == "train":
        loop.train(config, split, workdir, may_exit=may_exit)
    elif weights:
        scoring.score_weights(config, split, pathlib.Path(weights), workdir)
    else:
        scoring.score_run(config, split, workdir)


def run_or_end(
    config: Config,
    workdir: pathlib.Path,
    *,
    mode: str,
    weights: str | None = None,
    cluster: Cluster | None = None,
    quiet: bool = True,
) -> None:
    """Sets up the devices and runs; the process ends with one line where something is wrong.

    Args:
      config: as it was given.
      workdir: folder of the run.
      mode: train or evaluate.
      weights: file or name of a network to be scored in place of a run's.
      cluster: how the other processes of the run are found; None: it has no others.
      quiet: whether other libraries are to log nothing.
    """
    if quiet:
        host.quiet()
    host.use_compilation_cache()
    host.keep_memory()
    # As SIGINT does; the steps of a run, and JAX where there are several processes, catch both.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trains = mode == "train"
    try:
        if cluster is not None:
            # One device a process where it computes on a CPU, or as many as JAX_NUM_CPU_DEVICES.
            processes.join(*cluster)
            CONSOLE.quiet = not processes.first()
        elif config.parallel != "none":
            sizes = build.batch_sizes(config) if trains else {}
            host.use_cores(tuple(sizes.values()), build.batch_unit(config))
        checks.check_config(config, trains=trains)
        run(config, workdir, mode=mode, weights=weights, may_exit=True)
    except (Stopped, KeyboardInterrupt) as stopped:
        CONSOLE.print(str(stopped) or "stopped; the same command goes on")
        # A prediction may be under way still, and Python's own end, which takes its arrays away,
        # has crashed on it.
        processes.end("", RESUME)
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
