"""How long the first step of every method takes to compile: `python -m benchmarks.compilation`.

The sizes are those of `configs/acdc.py:cpu` and `configs/la.py:cpu`, and nothing is taken from the
cache of compiled programs. Seconds of the clock are what a person waits; those of the processor,
over all cores, also mean something where other work is running.
"""

import importlib
import pathlib
import time
from typing import Any

import jax
from rich.table import Table

from benchmarks import record
from cifp_jax import host, parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.methods import METHODS
from cifp_jax.training import build, checks

CONFIGS = ("acdc", "la")


def compile_seconds(name: str, method: str) -> dict[str, float]:
    """Seconds until the step of a configuration can run, of the clock and of the processor.

    Args:
      name: of a file in `configs/`, whose variant `cpu` is taken.
      method: one of `METHODS`.
    """
    config: Any = importlib.import_module(f"configs.{name}").get_config("cpu")
    config.method.name = method
    state = jax.eval_shape(lambda: build.make_state(config))
    batch = checks.batch_shapes(config)
    step = parallel.compile_step(build.make_step(config), "none", make_mesh())
    clocks = {"": time.perf_counter, "processor_": time.process_time}
    begun = {of: clock() for of, clock in clocks.items()}
    lowered = step.lower(state, batch)
    made = {of: clock() for of, clock in clocks.items()}
    lowered.compile()
    return {
        f"{of}{part}_s": clock() - start[of]
        for of, clock in clocks.items()
        for part, start in (("first", begun), ("xla", made))
    }


def main() -> None:
    parser = record.command("compilation", __doc__)
    parser.add_argument("--only", default="", help="works whose name contains this")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/compilation.json"),
        help="the JSON that is written",
    )
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    host.keep_memory()
    columns = ("first_s", "xla_s", "processor_first_s", "processor_xla_s")
    table = Table("work", *(column.replace("_", " ") for column in columns))
    rows = []
    for work, name, method in ((f"{n} {m}", n, m) for n in CONFIGS for m in sorted(METHODS)):
        if arguments.only in work:
            found = compile_seconds(name, method)
            rows.append({"work": work, **found})
            table.add_row(work, *(f"{found[column]:.1f}" for column in columns))
            record.CONSOLE.print(f"{work}: {found['first_s']:.1f} s")
    record.CONSOLE.print(table)
    record.write(arguments.out, "compilation", {}, rows)


if __name__ == "__main__":
    main()
