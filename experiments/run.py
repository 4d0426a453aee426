"""Runs the cells of a table that have no result yet: `python -m experiments.run --table=acdc`.

    python -m experiments.run --table=acdc --budget=laptop --seeds=0,1,2 --only=cifp,supervised
    python -m experiments.run --table=smoke

Each cell is one run of `cifp_jax.main` in a folder of its own, with its log; a result is one JSON
in `experiments/results/<table>_<budget>/`. Stop it at any time: the same command goes on where the
cell stopped. A cell that fails leaves `status.json` and its log, is tried again by the next call,
and does not keep the others from running.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from cifp_jax.evaluation.report import write_json
from experiments import tables
from experiments.collect import collect, read_results
from experiments.report import RESULTS


def quick(cache: pathlib.Path) -> dict[str, str]:
    """Variables for runs on phantoms: they mostly compile, so programs are kept as they come."""
    return {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds `folder` for this process; a RuntimeError where another one holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"{folder} is in use by another `experiments.run`: wait for it, or name another "
                f"folder with --runs."
            ) from error
        yield


class Stop:
    """Passes the first SIGINT or SIGTERM on to the running cell, which saves and ends."""

    def __init__(self) -> None:
        self.asked = False
        self._child: subprocess.Popen | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._child is not None and not self.asked:
            self._child.send_signal(signal.SIGTERM)
        self.asked = True

    def wait(self, child: subprocess.Popen) -> int:
        """The child's exit status."""
        self._child = child
        code = child.wait()
        self._child = None
        return code


def command(cell: tables.Cell, folder: pathlib.Path) -> list[str]:
    """The command line of a cell."""
    settings = [f"--config.{key}={value}" for key, value in cell.settings.items()]
    return [
        *(sys.executable, "-m", "cifp_jax.main", f"--config={cell.config}"),
        *(f"--workdir={folder}", *settings),
    ]


def run_cell(
    cell: tables.Cell,
    folder: pathlib.Path,
    result: pathlib.Path,
    stop: Stop,
    arguments: Sequence[str],
    environment: dict[str, str],
) -> str:
    """Runs a cell to its end and writes its result.

    Returns:
      done, stopped or failed; it stands in `status.json` too, with the seconds of all tries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    status_file = folder / "status.json"
    before = json.loads(status_file.read_text())["seconds"] if status_file.is_file() else 0.0
    start = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        child = subprocess.Popen(
            list(arguments),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C reaches it once, through `Stop`
        )
        code = stop.wait(child)
    seconds = before + time.monotonic() - start
    status = "stopped" if stop.asked else "failed"
    if code == 0 and not stop.asked:
        with contextlib.suppress(FileNotFoundError):
            write_json(result, collect(folder, label=cell.label, seconds=seconds))
            status = "done"
    write_json(status_file, {"status": status, "exit": code, "seconds": seconds})
    return status


def run_table(
    cells: Sequence[tables.Cell],
    runs: pathlib.Path,
    results: pathlib.Path,
    *,
    environment: dict[str, str],
) -> dict[str, str]:
    """Runs those of `cells` that have no result, one after the other.

    Args:
      cells: of a table.
      runs: folder of their workdirs, held while this runs.
      results: folder of their results.
      environment: variables of the runs.

    Returns:
      What became of each cell that was run.

    Raises:
      RuntimeError: another process holds `runs`.
      ValueError: a result there is of another protocol.
    """
    outcome: dict[str, str] = {}
    stop = Stop()
    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with locked(runs):
            known = read_results(results)
            left = [cell for cell in cells if cell.name not in known]
            for number, cell in enumerate(left, start=1):
                if stop.asked:
                    break
                folder = runs / cell.name
                print(f"{number}/{len(left)} {cell.name}", end=" ", flush=True)
                arguments = command(cell, folder)
                result = results / f"{cell.name}.json"
                outcome[cell.name] = run_cell(cell, folder, result, stop, arguments, environment)
                print(outcome[cell.name], flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return outcome


def choose(
    table: str, budget: str, seeds: tuple[int, ...], only: str, data: pathlib.Path
) -> list[tables.Cell]:
    """The cells of a table whose names hold one of the parts of `only`, with their data's folder.

    Raises:
      ValueError: none does; names those there are.
    """
    cells = tables.cells(table, budget, seeds)
    if table != "smoke":
        kind = "la" if table == "la" else "acdc"
        root = {"data.root": data / tables.FOLDERS[kind]}
        cells = [cell._replace(settings=cell.settings | root) for cell in cells]
    chosen = [c for c in cells if not only or any(part in c.name for part in only.split(","))]
    if not chosen:
        names = ", ".join(cell.name for cell in cells)
        raise ValueError(f"no cell of {table} is named like {only!r}; there are: {names}.")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=tables.TABLES, required=True)
    parser.add_argument("--budget", choices=tables.BUDGETS, default="laptop")
    parser.add_argument("--seeds", default="0", help="for example 0,1,2")
    parser.add_argument("--only", default="", help="parts of cell names, for example cifp,acdc3")
    parser.add_argument("--data", type=pathlib.Path, default="data", help="holds ACDC/ and LA/")
    parser.add_argument("--runs", type=pathlib.Path, default="runs/experiments")
    given = parser.parse_args(arguments)
    name = "smoke" if given.table == "smoke" else f"{given.table}_{given.budget}"
    # A smoke test is no result: its JSON stays beside its runs.
    runs = given.runs / name
    results = runs / "results" if given.table == "smoke" else RESULTS / name
    try:
        seeds = tuple(int(seed) for seed in given.seeds.split(","))
        cells = choose(given.table, given.budget, seeds, given.only, given.data)
        environment = quick(runs / "xla") if given.table == "smoke" else {}
        outcome = run_table(cells, runs, results, environment=environment)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    failed = [cell for cell, status in outcome.items() if status == "failed"]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see log.txt in their folders below {runs}")


if __name__ == "__main__":
    main()
