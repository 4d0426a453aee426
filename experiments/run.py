"""Runs the cells of a table that have no result yet: `python -m experiments.run --table=acdc`.

    python -m experiments.run --table=acdc --budget=cpu --seeds=0,1,2 --only=cifp,supervised
    python -m experiments.run --table=protocol --budget=full --minutes=8
    python -m experiments.run --table=smoke

Each cell is one run of `cifp_jax.main` in a folder of its own, with its log; a result is one JSON
in `experiments/results/<data, or ablation>_<variant of its configuration>/`. Stop it at any time,
or let `--minutes` do so: the same command goes on where the cell stopped. A cell that fails leaves
`status.json` and its log, is tried again by the next call, and does not keep the others from
running.

Where `test.list` lies beside a data set's other lists, its cases are scored. LA's full budget has
no other cases to score: without that list a cell ends as trained, without a result, and its network
is exported (`cifp_jax.export`).
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from cifp_jax.files import locked, write_json
from experiments import planned_runs
from experiments.collect import collect, read_results
from experiments.seed_groups import RESULTS
from experiments.stop import Stop, stoppable


def quick(cache: pathlib.Path) -> dict[str, str]:
    """Variables for runs on phantoms: they mostly compile, so programs are kept as they come."""
    return {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(cell: planned_runs.Cell, folder: pathlib.Path) -> list[str]:
    """The command line of a cell."""
    settings = [f"--config.{key}={value}" for key, value in cell.settings.items()]
    return [
        *(sys.executable, "-m", "cifp_jax.main", f"--config={cell.config}"),
        *(f"--workdir={folder}", *settings),
    ]


def at_its_end(folder: pathlib.Path) -> bool:
    """Whether a run has made all of its steps and saved the last."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    steps = json.loads(file.read_text())["training"]["steps"]
    return (folder / "checkpoints" / str(steps)).is_dir()


def status_of(folder: pathlib.Path) -> dict[str, Any]:
    """What the last call left in a cell's folder; `seconds` of all tries."""
    file = folder / "status.json"
    return json.loads(file.read_text()) if file.is_file() else {"status": "new", "seconds": 0.0}


def run_cell(
    cell: planned_runs.Cell,
    folder: pathlib.Path,
    result: pathlib.Path,
    stop: Stop,
    arguments: Sequence[str],
    environment: dict[str, str],
) -> str:
    """Runs a cell to its end and writes its result.

    Returns:
      done, trained (to its end, with nothing to score), stopped or failed; it stands in
      `status.json` too, with the seconds of all tries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = status_of(folder)["seconds"]
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
    if code == 0:
        try:
            write_json(result, collect(folder, label=cell.label, seconds=seconds))
            status = "done"
        except FileNotFoundError:
            if not stop.asked and at_its_end(folder):
                status = "trained"
    write_json(folder / "status.json", {"status": status, "exit": code, "seconds": seconds})
    return status


def run_table(
    cells: Sequence[planned_runs.Cell],
    runs: pathlib.Path,
    results: pathlib.Path,
    *,
    environment: dict[str, str],
    stop: Stop,
    jobs: int = 1,
) -> dict[str, str]:
    """Runs those of `cells` that have no result, in their order.

    Args:
      cells: of a table.
      runs: folder of their workdirs, held while this runs.
      results: folder of their results.
      environment: variables of the runs.
      stop: ends it early.
      jobs: cells that run at once.

    Returns:
      What became of each cell that has had no result; waiting, where it was not started.

    Raises:
      BlockingIOError: another process holds `runs`.
      ValueError: a result there is of another protocol.
    """
    results.mkdir(parents=True, exist_ok=True)
    with locked(runs, "`experiments.run`"):
        known = read_results(results)
        left = [cell for cell in cells if cell.name not in known]

        def run_one(number: int, cell: planned_runs.Cell) -> str:
            folder = runs / cell.name
            if status_of(folder)["status"] == "trained" and "data.test_list" not in cell.settings:
                return "trained"
            if not stop.room():
                return "waiting"
            result = results / f"{cell.name}.json"
            place = f"{number}/{len(left)} {cell.name}"
            print(f"{place}: started, log in {folder / 'log.txt'}", flush=True)
            outcome = run_cell(cell, folder, result, stop, command(cell, folder), environment)
            print(f"{place}: {outcome}", flush=True)
            return outcome

        with futures.ThreadPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(run_one, itertools.count(1), left))
    return dict(zip((cell.name for cell in left), outcomes, strict=True))


def choose(
    table: str, budget: str, seeds: tuple[int, ...], only: str, data: pathlib.Path
) -> list[planned_runs.Cell]:
    """The cells of a table whose names hold one of the parts of `only`, with their data's folder.

    Raises:
      ValueError: none does; names those there are.
    """
    cells = []
    for cell in planned_runs.cells(table, budget, seeds):
        settings = dict(cell.settings)
        if cell.data in planned_runs.FOLDERS:
            root = data / planned_runs.FOLDERS[cell.data]
            settings["data.root"] = root
            if (root / "test.list").is_file():
                settings["data.test_list"] = "test.list"
        cells.append(cell._replace(settings=settings))
    chosen = [c for c in cells if not only or any(part in c.name for part in only.split(","))]
    if not chosen:
        names = ", ".join(cell.name for cell in cells)
        raise ValueError(f"no cell of {table} is named like {only!r}; there are: {names}.")
    return chosen


def folder_name(cell: planned_runs.Cell, table: str) -> str:
    """The folder of a cell's run and of its result; it names the configuration's variant.

    Cells of the table protocol are those of their data's table.
    """
    if table == "smoke":
        return "smoke"
    return f"{'ablation' if table == 'ablation' else cell.data}_{cell.variant}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--table",
        choices=planned_runs.TABLES,
        required=True,
        help="which runs: acdc, la, protocol (the first of both), ablation or smoke",
    )
    parser.add_argument(
        "--budget",
        choices=planned_runs.BUDGETS,
        default="cpu",
        help="the scale: cpu (two cores), gpu (one) or full",
    )
    parser.add_argument("--seeds", default="0", help="for example 0,1,2")
    parser.add_argument("--only", default="", help="parts of cell names, for example cifp,acdc3")
    parser.add_argument("--data", type=pathlib.Path, default="data", help="holds ACDC/ and LA/")
    parser.add_argument(
        "--runs", type=pathlib.Path, default="runs/experiments", help="folder of the runs"
    )
    parser.add_argument("--minutes", type=float, help="stop by then; what is left goes on later")
    given = parser.parse_args(arguments)
    outcome: dict[str, str] = {}
    try:
        seeds = tuple(int(seed) for seed in given.seeds.split(","))
        cells = choose(given.table, given.budget, seeds, given.only, given.data)
        with stoppable(given.minutes) as stop:
            for name, part in itertools.groupby(cells, lambda c: folder_name(c, given.table)):
                # A smoke test is no result: its JSON stays beside its runs.
                runs = given.runs / name
                smoke = given.table == "smoke"
                results = runs / "results" if smoke else RESULTS / name
                outcome |= run_table(
                    list(part),
                    runs,
                    results,
                    environment=quick(runs / "xla") if smoke else {},
                    stop=stop,
                    # One in 2D and one in 3D: the first of each writes the phantoms of the others.
                    jobs=2 if smoke else 1,
                )
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    found = {s: [c for c, status in outcome.items() if status == s] for s in set(outcome.values())}
    left = found.get("stopped", []) + found.get("waiting", [])
    if left:
        print(f"{len(left)} left, the same command goes on: {', '.join(left)}")
    if "trained" in found:
        print(f"trained, with no test.list to score them on: {', '.join(found['trained'])}")
    if "failed" in found:
        sys.exit(f"failed: {', '.join(found['failed'])}; see log.txt in their folders")


if __name__ == "__main__":
    main()
