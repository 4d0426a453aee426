"""The guard against slowing down: `python -m benchmarks.check [--update]`.

It counts what the training step of every method asks for, in 2D and in 3D at small shapes, and
compares that with `results/check.json`. Nothing is timed, and the counts are the same on every
computer: gradients of kernels have the form for AVX-512, whatever this one has. A count that has
grown by more than 5 % is an error.

- flops, bytes: XLA's count for the step as it is written, before anything is fused
- temporary_bytes, compiled_bytes: of CIFP's step, compiled for a CPU with AVX2: what it holds
  beside its arguments and results, and what the fused program reads and writes
- host_transfers: calls of the host out of the step
- programs, programs_again: what a small run compiles, and what is compiled once more when it is
  resumed and evaluated
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest.mock
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from benchmarks import jax_works, record
from cifp_jax import parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.methods import METHODS
from cifp_jax.models import convolution
from cifp_jax.training import build, checks

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "benchmarks/results/check.json"
SHAPES = {"unet": (32, 32), "vnet": (16, 16, 16)}
COMPILED = "cifp"  # whose step holds the layers of all, and takes seconds to compile
GROWTH = 0.05
Figures = dict[str, float]


def _calls_of_host(jaxpr: Jaxpr) -> int:
    """Operations of a program, and of those inside it, that leave the device."""
    count = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        count += "callback" in name or name in ("debug_print", "infeed", "outfeed")
        inner = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        )
        for part in inner:
            if isinstance(part, ClosedJaxpr | Jaxpr):
                count += _calls_of_host(part.jaxpr if isinstance(part, ClosedJaxpr) else part)
    return count


def measure(network: str, method: str) -> Figures:
    """The figures of one training step of 2 + 2 images.

    Args:
      network: unet or vnet, whose layouts are ACDC's and LA's.
      method: one of `METHODS`.
    """
    config = jax_works.configuration(network, method, SHAPES[network], 2)
    state = jax.eval_shape(lambda: build.make_state(config))
    batch = checks.batch_shapes(config)
    step = parallel.compile_step(build.make_step(config), "none", make_mesh())
    with unittest.mock.patch.object(convolution, "_has_avx512", return_value=True):
        traced = step.trace(state, batch)
        lowered = traced.lower()
    written: Any = lowered.cost_analysis()
    figures = {
        "flops": written["flops"],
        "bytes": written["bytes accessed"],
        "host_transfers": float(_calls_of_host(traced.jaxpr.jaxpr)),
    }
    if method == COMPILED:
        # Neither changes what is counted, but the one the time, and the other the kind of CPU.
        options = {"xla_backend_optimization_level": 0, "xla_cpu_max_isa": "AVX2"}
        compiled = lowered.compile(compiler_options=options)
        found: Any = compiled.cost_analysis()
        memory: Any = compiled.memory_analysis()
        figures["temporary_bytes"] = float(memory.temp_size_in_bytes)
        figures["compiled_bytes"] = found["bytes accessed"]
    return figures


def measure_run(folder: pathlib.Path) -> Figures:
    """How many programs a small run compiles, and how many more its resume and its evaluation do.

    Args:
      folder: an empty one, for the run and the compiled programs.
    """
    cache, run = folder / "programs", folder / "run"
    told = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # programs count, not their speed
    }
    command = (sys.executable, "-m", "cifp_jax.main", "--config=demo", f"--workdir={run}")
    settings = {
        **{"compare": "()", "method.name": "supervised", "model.filters": "(2,2,2,2,2)"},
        **{"parallel": "none", "data.root": folder / "data", "data.phantoms": 4, "data.labeled": 2},
        **{"training.steps": 2, "training.checkpoint_every": 1, "training.evaluate_every": 1},
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]

    def programs(*more: str) -> int:
        subprocess.run(
            [*command, *flags, *more],
            cwd=ROOT,
            env=os.environ | told,
            check=True,
            text=True,
            stdout=subprocess.DEVNULL,
        )
        return sum(1 for file in cache.iterdir() if file.name.endswith("-cache"))

    trained = programs()
    shutil.rmtree(run / "checkpoints" / "2")
    programs()
    return {"programs": trained, "programs_again": programs("--mode=evaluate") - trained}


def grown(found: Figures, known: Figures) -> list[str]:
    """A line for each figure that has grown by more than 5 %, or that is not known."""
    return [
        f"{name} {known[name]:.4g} -> {value:.4g}" if name in known else f"{name} is new"
        for name, value in found.items()
        if name not in known or value > (1 + GROWTH) * known[name]
    ]


def works() -> dict[str, Callable[[], Figures]]:
    """What is checked, by its name in the file of figures."""
    steps = {
        f"{network} {method}": functools.partial(measure, network, method)
        for network in SHAPES
        for method in sorted(METHODS)
    }

    def run() -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            return measure_run(pathlib.Path(folder))

    return {**steps, "a run": run}


def known() -> dict[str, Figures]:
    """The figures that are committed."""
    return json.loads(PATH.read_text(encoding="utf-8"))["works"]


def main() -> int:
    """Runs the command; returns its exit status: 1 where a figure has grown."""
    parser = record.command("check", __doc__)
    parser.add_argument("--update", action="store_true", help="write the figures that are found")
    parser.add_argument("--only", default="", help="works whose name contains this")
    arguments = parser.parse_args()
    committed = known() if PATH.exists() else {}
    worse = False
    for name, work in works().items():
        if arguments.only not in name:
            continue
        found = work()
        lines = grown(found, committed.get(name, {}))
        worse = worse or bool(lines)
        record.CONSOLE.print(f"{name}: {'; '.join(lines) or 'not more than before'}")
        committed[name] = found
    if arguments.update:
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")}
        content = {"benchmark": "check", "versions": versions, "works": committed}
        PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return 0
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
