"""What a step needs on TPU chips or a GPU, by their own compilers: `python -m benchmarks.pod`.

No chip is needed: libtpu (`pip install -e '.[tpu]'`) and XLA's compiler for GPUs (`'.[cuda]'`)
compile for one that is not there; without them their programs end as errors that say so. Each
program is compiled in a process of its own, for the batch of the protocol on every chip, or on
every group of chips that share images. Compiled programs are kept in the JSON, so that the command
goes on where it was stopped. Slices of "cpu" are devices of this computer's CPU, which take a
minute each: they show what sharing images does to memory and collectives.

Memory, operations and bytes are the compiler's counts for one chip. Times and efficiencies are
estimates from published peaks (`benchmarks.peaks`): the roofline of a chip, and the collectives at
the full speed of its links, one after the other.

Of a GPU, whose compiler does not count operations without one, there are kernels and convolutions
in their place (`benchmarks.gpu_program`), compiled without the search for fast forms, which would
need the chip.

Most of compiling for a TPU is the search for the fastest form of every convolution, which changes
these counts little. `--effort=-1`, the default here, leaves it out; 0 is what a training run gets.
"""

import importlib
import json
import multiprocessing
import os
import pathlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import gpu_program, record
from benchmarks.collectives import collective_bytes

# Without these libtpu asks the network for the chips of this machine.
WITHOUT_CHIPS = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
SLICES = ("v5e:2x4", "v5e:8x8", "v5p:2x2x2")
CPU = "cpu:4"
GPU = "H200:1"
PROTOCOLS = {"la": 2, "acdc": 12}  # images of each stream
REMAT = {"la": True, "acdc": False}  # as their configurations have it


class Cell(NamedTuple):
    """One program.

    Attributes:
      slice: generation and shape of the TPU slice; or cpu or a GPU, and how many devices.
      protocol: a file of `configs/`.
      precision: of images and features.
      space: chips that share each image.
      remat: what `config.training.remat` is.
    """

    slice: str
    protocol: str
    precision: str
    space: int = 1
    remat: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others."""
        parts = [self.slice, self.protocol, self.precision]
        parts += [f"{self.space} chips an image"] * (self.space > 1) + ["remat"] * self.remat
        return ", ".join(parts)


def cells() -> Iterator[Cell]:
    """All programs, those that tell most first."""
    for where in SLICES:
        for protocol in PROTOCOLS:
            for precision in ("bfloat16", "float32"):
                yield Cell(where, protocol, precision, remat=REMAT[protocol])
    for protocol in PROTOCOLS:
        for precision in ("bfloat16", "float32"):
            for space, remat in ((1, not REMAT[protocol]), (4, True), (4, False)):
                yield Cell(SLICES[0], protocol, precision, space, remat)
    for protocol in PROTOCOLS:
        for precision in ("bfloat16", "float32"):
            for remat in (False, True):
                yield Cell(GPU, protocol, precision, remat=remat)
    for protocol in PROTOCOLS:
        for space in (1, 2, 4):
            yield Cell(CPU, protocol, "float32", space)


def _devices(where: str) -> Any:
    """The devices of a slice, which are there if it is one of a CPU, and are not otherwise."""
    import jax
    from jax.experimental import topologies

    kind, _, shape = where.partition(":")
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", int(shape))
        return jax.devices("cpu")
    if description := gpu_program.DESCRIPTIONS.get(kind):
        topology: Any = topologies.get_topology_desc(
            where, "cuda", target_config=description, topology=f"1x1x{shape}"
        )
    else:
        topology = topologies.get_topology_desc(topology_name=where, platform="tpu")
    return topology.devices


def compile_cell(cell: Cell) -> dict[str, Any]:
    """Compiles one program.

    Returns:
      chips; batch (images of each stream); of one chip temporary_bytes, argument_bytes, bytes,
      flops (of a GPU kernels and convolutions instead), and collectives: number and bytes by kind;
      lower_s and compile_s.
    """
    import jax

    from cifp_jax import parallel
    from cifp_jax.mesh import DATA, make_mesh
    from cifp_jax.training import build, checks

    config = importlib.import_module(f"configs.{cell.protocol}").get_config()
    config.precision, config.spatial_partitions = cell.precision, cell.space
    config.training.remat = cell.remat
    mesh = make_mesh(cell.space, _devices(cell.slice))
    size = PROTOCOLS[cell.protocol] * mesh.shape[DATA]
    config.data.batch_labeled = config.data.batch_unlabeled = size
    state = jax.eval_shape(lambda: build.make_state(config))
    step = parallel.compile_step(build.make_step(config), "jit", mesh, shared=1)
    start = time.perf_counter()
    lowered = step.lower(state, checks.batch_shapes(config), None)
    between = time.perf_counter()
    on_gpu = cell.slice.partition(":")[0] in gpu_program.DESCRIPTIONS
    compiled = lowered.compile(gpu_program.OPTIONS if on_gpu else None)
    end = time.perf_counter()
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text()
    if on_gpu:
        cost: Any = gpu_program.count(text)._asdict()
    else:
        known: Any = compiled.cost_analysis()
        cost = {"flops": known["flops"], "bytes": known["bytes accessed"]}
    return {
        "chips": mesh.size,
        "batch": size,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        **cost,
        "collectives": collective_bytes(text),
        "lower_s": between - start,
        "compile_s": end - between,
    }


def _report(cell: Cell, results: Any) -> None:
    # A command that is killed takes nothing with it, and a compiler may go on for an hour.
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        results.put(compile_cell(cell))
    except Exception as error:
        results.put({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"})


def in_a_process(cell: Cell, limit: float) -> dict[str, Any]:
    """`compile_cell` in a process of its own, ended after `limit` seconds: then an `error`."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_report, args=(cell, results), daemon=True)
    process.start()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            return results.get(timeout=1)
        except queue.Empty:
            if not process.is_alive():
                return {"error": f"the compiler's process died with {process.exitcode}"}
    process.kill()
    return {"error": f"not compiled within {limit:.0f} s"}


def main() -> None:
    parser = record.command("pod", __doc__)
    parser.add_argument("--only", default="", help="programs whose name contains this")
    parser.add_argument(
        "--effort", type=float, default=-1.0, help="of the search for fast forms, from -1 to 1"
    )
    parser.add_argument("--limit", type=float, default=1800, help="seconds for one program")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/pod.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    os.environ |= WITHOUT_CHIPS | {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": str(args.effort)}
    known = json.loads(args.out.read_text())["programs"] if args.out.exists() else {}
    for cell in cells():
        done = known.get(cell.name, {})
        if args.only not in cell.name or (done and "error" not in done):
            continue
        record.CONSOLE.print(cell.name)
        known[cell.name] = found = cell._asdict() | in_a_process(cell, args.limit)
        found["effort"] = args.effort
        record.CONSOLE.print(found)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": record.machine(), "programs": known}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
