"""The loader alone, and the share of training that waits for it: `python -m benchmarks.loader`.

With `--root` it reads real files (of `--layout`'s kind), else phantoms that it writes to a
temporary folder. PyTorch's side is a `DataLoader` over the same files with the same augmentation.
"""

import argparse
import functools
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import torch_works
from benchmarks.sides import Work, interleave
from cifp_jax import parallel
from cifp_jax.config import default_config
from cifp_jax.data import sources, transforms
from cifp_jax.data.layouts import find_layout
from cifp_jax.training import build

BATCHES = 40  # in one turn


def configuration(*, layout: str, root: str, workers: int, labeled: int) -> Any:
    """The protocol's batch on the files of `root`."""
    config = default_config()
    config.data.name, config.data.root, config.data.workers = layout, root, workers
    config.data.labeled = labeled
    if layout == "la":
        config.data.patch_size = (112, 112, 80)
        config.data.batch_labeled = config.data.batch_unlabeled = 2
        config.model.name, config.model.classes = "vnet", 2
    return config


def ours(**options: Any) -> Work:
    """Grain's pipeline of this package."""
    config = configuration(**options)
    iterator = build.make_iterator(config, build.make_split(config))

    def run() -> None:
        for _ in range(BATCHES):
            next(iterator)

    return Work(run, dict)


class _Cases:
    """A PyTorch data set over cases, both streams in one, with this package's augmentation."""

    def __init__(self, config: Any, cases: tuple[sources.Case, ...]) -> None:
        self.cases, self.patch = cases, tuple(config.data.patch_size)
        cache = sources.ScanCache(4 * 2**30)
        read = functools.partial(
            sources.read_case, classes=config.model.classes, rank=len(self.patch)
        )
        self.source = sources.CaseSource(cases, read, cache)
        self.augment = {2: transforms.weak_slice, 3: transforms.weak_scan}[len(self.patch)]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        arrays = self.augment(np.random.default_rng(), self.source[position], self.patch)
        return arrays["image"], arrays["label"].astype(np.int64)


def pytorch(**options: Any) -> Work:
    """A `DataLoader` that yields as many images a batch."""
    torch = torch_works.import_torch()
    config = configuration(**options)
    split = build.make_split(config)
    loader = torch.utils.data.DataLoader(
        _Cases(config, tuple(split.labeled)),
        batch_size=config.data.batch_labeled + config.data.batch_unlabeled,
        sampler=torch.utils.data.RandomSampler(split.labeled, True, 10**6),
        num_workers=options["workers"],
    )
    batches = iter(loader)

    def run() -> None:
        for _ in range(BATCHES):
            next(batches)

    return Work(run, dict)


def waiting(options: dict[str, Any], steps: int) -> float:
    """Share of the time of `steps` CIFP steps that the host waited for the next batch."""
    config = configuration(**options)
    iterator = build.make_iterator(config, build.make_split(config))
    step = parallel.compile_step(build.make_step(config), "none", parallel.make_mesh())
    state, metrics = step(build.make_state(config), next(iterator))
    jax.block_until_ready(metrics)
    waited, start = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - asked
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    return waited / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layout", choices=("acdc", "la"), default="acdc")
    parser.add_argument("--root", default="", help="folder of real files; default: phantoms")
    parser.add_argument("--labeled", type=int, default=7, help="labelled patients or scans")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="steps of the waiting share; 0: none")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/loader.json")
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or folder
        options: dict[str, Any] = {
            "layout": args.layout,
            "root": root,
            "workers": args.workers,
            "labeled": args.labeled,
        }
        if not args.root:
            config = configuration(**options)
            config.data.phantoms = 20
            build.make_split(config)
        results, errors = interleave({"cifp_jax": ours, "pytorch": pytorch}, options, args.repeats)
        rank = find_layout(args.layout).rank
        name = f"{BATCHES} batches of {24 if rank == 2 else 4} images, {args.workers} workers"
        row = results.row(name, results, errors, {})
        if args.steps:
            row["waiting_share"] = waiting(options, args.steps)
            results.CONSOLE.print(
                f"share of CIFP training spent waiting: {row['waiting_share']:.4f}"
            )
    results.show("the loader alone", [row])
    results.write(args.out, "loader", {}, [row])


if __name__ == "__main__":
    main()
