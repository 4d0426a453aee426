"""The works on our side: the step and the prediction of `cifp_jax.main`, on random images."""

import functools
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evaluation import evaluation_run
from benchmarks.sides import Work
from cifp_jax import host, parallel
from cifp_jax.config import default_config
from cifp_jax.data.layouts import find_layout
from cifp_jax.evaluation import metrics
from cifp_jax.inference import prediction
from cifp_jax.mesh import make_mesh
from cifp_jax.training import build
from cifp_jax.training.state import network_variables

LAYOUTS = {"vnet": ("la", 2), "unet": ("acdc", 4)}
MATRIX, COPY = 4096, 2**28  # sides of a product, bytes of a copy: larger than any cache


def configuration(network: str, method: str, shape: Sequence[int], batch: int) -> Any:
    """The configuration of a step at this size; `batch` labelled and as many unlabelled images."""
    config = default_config()
    config.data.name, config.model.classes = LAYOUTS[network]
    config.data.patch_size = tuple(shape)
    config.data.batch_labeled = config.data.batch_unlabeled = batch
    config.model.name = network
    config.method.name = method
    return config


def random_batch(config: Any) -> dict[str, Any]:
    """Random images and labels of the sizes that the configuration says."""
    rng = np.random.default_rng(0)
    shape, classes = build.crop_size(config), config.model.classes

    def stream(n: int) -> dict[str, Any]:
        image = rng.normal(size=(n, *shape, 1)).astype(np.float32)
        return {"image": image, "index": np.arange(n, dtype=np.int32)}

    labeled = stream(config.data.batch_labeled)
    labeled["label"] = rng.integers(0, classes, labeled["image"].shape[:-1]).astype(np.int32)
    return {"labeled": labeled, "unlabeled": stream(config.data.batch_unlabeled)}


def peak_memory() -> float:
    """Bytes: of the accelerator where it tells, else the most that this process has held."""
    stats = jax.devices()[0].memory_stats() or {}
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(stats.get("peak_bytes_in_use", process))


def step(*, network: str, method: str, shape: Sequence[int], batch: int, precision: str) -> Work:
    """One training step, from a batch on the device to the new state."""
    config = configuration(network, method, shape, batch)
    config.precision = precision
    host.keep_memory()
    host.use_cores(tuple(build.batch_sizes(config).values()), build.batch_unit(config))
    mesh, mode = make_mesh(), config.parallel
    compiled = parallel.compile_step(build.make_step(config), mode, mesh)
    state = parallel.replicate(build.make_state(config), mode, mesh)
    data = parallel.shard_batch(random_batch(config), mode, mesh)
    traced = compiled.trace(state, data)
    lowered, elsewhere = traced.lower(), traced.lower(lowering_platforms=("tpu",))
    operations, plain = (low.cost_analysis() or {} for low in (lowered, elsewhere))
    held = {"state": state}
    executable = lowered.compile()
    traffic: Any = executable.cost_analysis() or {}

    def run() -> None:
        held["state"], metrics = executable(held["state"], data)
        jax.block_until_ready((held["state"], metrics))

    def facts() -> dict[str, float]:
        return {
            "flops": float(operations.get("flops", 0.0)),
            # Of the plain convolutions, which accelerators get and CPUs do not.
            "plain_flops": float(plain.get("flops", 0.0)),
            # Counted of one device's part.
            "bytes": float(traffic.get("bytes accessed", 0.0)) * jax.device_count(),
            "peak_memory": peak_memory(),
        }

    return Work(run, facts)


def make_predictor(
    network: str, patch: Sequence[int], stride: Sequence[int], batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Probabilities of a scan by sliding windows (V-Net), or of a volume of slices (U-Net)."""
    host.keep_memory()
    host.use_cores((), 1)
    config = configuration(network, "supervised", patch, 2)
    rank = find_layout(config.data.name).rank
    config.evaluation.batch = batch
    if rank == 3:
        config.evaluation.stride = tuple(stride)
    variables = network_variables(build.make_state(config), config.evaluation.weights)
    return prediction.make_predictor(config)(variables)


def predict(
    *, network: str, shape: Sequence[int], patch: Sequence[int], stride: Sequence[int], batch: int
) -> Work:
    """One random scan or volume."""
    volume = np.random.default_rng(0).normal(size=tuple(shape)).astype(np.float32)
    predictor = make_predictor(network, patch, stride, batch)
    return Work(functools.partial(predictor, volume), lambda: {"peak_memory": peak_memory()})


def evaluate(
    *, files: Sequence[str], patch: Sequence[int], stride: Sequence[int], batch: int
) -> Work:
    """Scans of LA: windows of a V-Net, and the scores of a mask beside its label."""
    predictor = make_predictor("vnet", patch, stride, batch)

    def score(mask: np.ndarray, label: np.ndarray) -> object:
        return metrics.score(mask, label, classes=2)

    return Work(evaluation_run(predictor, score, files), lambda: {"peak_memory": peak_memory()})


def limits(repeats: int = 3) -> dict[str, float]:
    """What this device reaches: a large matrix product and a large copy, the best of some."""
    side = MATRIX if jax.default_backend() != "cpu" else MATRIX // 2
    a = jnp.ones((side, side), jnp.float32)
    b = jnp.ones(COPY // 4, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda b: b + 1)

    def best(function: Any, x: jax.Array) -> float:
        jax.block_until_ready(function(x))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            times.append(time.perf_counter() - start)
        return min(times)

    return {"flops_per_s": 2 * side**3 / best(product, a), "bytes_per_s": 2 * COPY / best(copy, b)}
