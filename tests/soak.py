"""Kills a run at random moments, many times, and compares its end with that of one left alone.

    python -m tests.soak --kills=30 --out=runs/soak
    python -m tests.soak --kills=10 --rank=3d --out=runs/soak_3d

The run is one of `configs/demo.py`, small enough for a step of some milliseconds, so that many
kills fall into saving, validating and writing. Every start goes on by itself. At the end all arrays
of the last checkpoint, the place in the data, and the rows of the log (but for the speed) have to
be bit-identical. Prints what was done, and fails where they are not. Where the run comes to its end
before all kills were done, the number that is printed is smaller.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from cifp_jax.training import build, run_folder
from cifp_jax.training.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = {
    "compare": "()",
    "method.name": "cifp",
    "model.filters": "(2,2,4,4,4)",
    "data.phantoms": 8,
    "data.batch_labeled": 2,
    "data.batch_unlabeled": 2,
    "training.supervised_steps": 100,
    "training.log_every": 7,
    "training.evaluate_every": 60,
    "training.checkpoint_every": 25,
    "evaluation.overlays": 0,
}
RANKS = {
    "2d": {"data.patch_size": "(32,32)", "training.steps": 900},
    "3d": {
        **{"data.patch_size": "(16,16,16)", "training.steps": 400},
        **{"data.downsample": 2, "data.validation": 2},
    },
}


def command(rank: str, out: pathlib.Path, name: str) -> list[str]:
    settings = {**SETTINGS, **RANKS[rank], "data.root": out / "phantoms"}
    return [
        *(sys.executable, "-m", "cifp_jax.main", f"--config=configs/demo.py:{rank}"),
        *(f"--workdir={out / name}", *(f"--config.{k}={v}" for k, v in settings.items())),
    ]


def left(workdir: pathlib.Path) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    """Arrays of the last checkpoint, its progress, and the rows of the log without the speed."""
    like = build.make_state(run_folder.load_config(workdir))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, progress, damaged = checkpoints.resume(like)
    assert not damaged, damaged
    state = dataclasses.replace(state, rng=jax.random.key_data(state.rng))
    arrays = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return arrays, progress, [r for row in rows if (r := dict(row)).pop("images_per_second", 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rank", choices=RANKS, default="2d")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True)
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(out / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }

    def start(name: str) -> subprocess.Popen[Any]:
        with (out / f"{name}.txt").open("a") as log:
            return subprocess.Popen(
                command(given.rank, out, name),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    begun = time.monotonic()
    if start("whole").wait():
        sys.exit((out / "whole.txt").read_text())
    begun_again = time.monotonic()
    if start("whole").wait():  # from its last checkpoint: how long it takes to start and to score
        sys.exit((out / "whole.txt").read_text())
    idle = time.monotonic() - begun_again
    working = max(begun_again - begun - idle, 1.0)
    moments, kills, starts = random.Random(given.seed), 0, 0
    while True:
        child, starts = start("killed"), starts + 1
        # Between two kills, on the average, the share of the work that makes all kills fit in.
        later = moments.uniform(0.3 * idle, idle + 2 * working / given.kills)
        try:
            if child.wait(later if kills < given.kills else None):
                sys.exit((out / "killed.txt").read_text())
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
    arrays, place, rows = left(out / "whole")
    own_arrays, own_place, own_rows = left(out / "killed")
    assert arrays.keys() == own_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, own_arrays[name], err_msg=name)
    assert place == own_place, (place, own_place)
    assert rows == own_rows
    resumed = (out / "killed.txt").read_text().count("resumed")
    print(
        f"{kills} kills, {starts} starts, {resumed} of them from a checkpoint, "
        f"{time.monotonic() - begun:.0f} s: {len(arrays)} arrays and {len(rows)} rows are identical"
    )


if __name__ == "__main__":
    main()
