"""The loader alone, and the share of training that waits for it: `python -m benchmarks.loader`.

With `--root` it reads real files (of `--layout`'s kind), else phantoms that it writes to a
temporary folder. PyTorch's side is a `DataLoader` over the same two streams: the same labelled and
unlabelled cases in an order of the same kind, the same augmentation, the same cache, and as many
worker processes, each of which reads in one thread.
"""

import functools
import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks import record, torch_works
from benchmarks.sides import Work, interleave
from cifp_jax import parallel
from cifp_jax.config import default_config
from cifp_jax.data import sources, splits, transforms
from cifp_jax.data.transforms import Arrays
from cifp_jax.mesh import make_mesh
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


def make_iterator(config: Any) -> Iterator[Any]:
    """The loader of this package."""
    flags.FLAGS.mark_as_parsed()  # Grain's worker processes read flags
    return build.make_iterator(config, build.make_split(config))


def ours(**options: Any) -> Work:
    """Grain's pipeline of this package."""
    iterator = make_iterator(configuration(**options))

    def run() -> None:
        for _ in range(BATCHES):
            next(iterator)

    return Work(run, dict)


class Examples:
    """A PyTorch data set: the labelled cases, then the unlabelled ones without their labels."""

    def __init__(self, config: Any, split: splits.Split) -> None:
        patch = tuple(config.data.patch_size)
        cache = sources.ScanCache(int(config.data.cache_gb * 2**30))

        def source(cases: Sequence[sources.Case], *, labels: bool) -> sources.CaseSource:
            read = functools.partial(
                sources.read_case, classes=config.model.classes, rank=len(patch), labels=labels
            )
            return sources.CaseSource(cases, read, cache)

        self.labeled = source(split.labeled, labels=True)
        self.unlabeled = source(split.unlabeled, labels=False)
        weak = {2: transforms.weak_slice, 3: transforms.weak_scan}[len(patch)]
        self.augment = functools.partial(weak, patch_size=patch)

    def __len__(self) -> int:
        return len(self.labeled) + len(self.unlabeled)

    def __getitem__(self, position: int) -> Arrays:
        first = len(self.labeled)
        part = self.labeled[position] if position < first else self.unlabeled[position - first]
        return self.augment(np.random.default_rng(), part)


def shuffled(first: int, count: int, rng: np.random.Generator) -> Iterator[int]:
    """The numbers from `first` on, `count` of them, in a new order every epoch, without end."""
    while True:
        yield from (first + rng.permutation(count)).tolist()


class Batches:
    """The numbers of each batch's examples in `Examples`: labelled ones, then unlabelled ones."""

    def __init__(self, config: Any, examples: Examples) -> None:
        self.labeled = len(examples.labeled), config.data.batch_labeled
        self.unlabeled = len(examples.unlabeled), config.data.batch_unlabeled

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        labeled = shuffled(0, self.labeled[0], rng)
        unlabeled = shuffled(self.labeled[0], self.unlabeled[0], rng)
        while True:
            yield [
                *itertools.islice(labeled, self.labeled[1]),
                *itertools.islice(unlabeled, self.unlabeled[1]),
            ]


def stack(examples: Sequence[Arrays]) -> dict[str, Arrays]:
    """One batch of both streams, as this package's loader gives it."""
    batch = {}
    for name, wanted in (("labeled", True), ("unlabeled", False)):
        own = [one for one in examples if ("label" in one) == wanted]
        batch[name] = {"image": np.stack([one["image"] for one in own])[..., None]}
        if wanted:
            batch[name]["label"] = np.stack([one["label"] for one in own]).astype(np.int32)
    return batch


def pytorch(**options: Any) -> Work:
    """A `DataLoader` that yields the same batches."""
    torch = torch_works.import_torch()
    config = configuration(**options)
    examples = Examples(config, build.make_split(config))
    loader = torch.utils.data.DataLoader(
        examples,
        batch_sampler=Batches(config, examples),
        collate_fn=stack,
        num_workers=options["workers"],
        multiprocessing_context="spawn",  # as Grain starts its own
    )
    batches = iter(loader)

    def run() -> None:
        for _ in range(BATCHES):
            next(batches)

    return Work(run, dict)


def waiting(options: dict[str, Any], steps: int) -> float:
    """Share of the time of `steps` CIFP steps that the host waited for the next batch."""
    config = configuration(**options)
    iterator = make_iterator(config)
    step = parallel.compile_step(build.make_step(config), "none", make_mesh())
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
    parser = record.command("loader", __doc__)
    parser.add_argument("--layout", choices=("acdc", "la"), default="acdc")
    parser.add_argument("--root", default="", help="folder of real files; default: phantoms")
    parser.add_argument("--labeled", type=int, default=7, help="labelled patients or scans")
    parser.add_argument("--workers", type=int, default=1, help="processes that read; 1 or more")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each side")
    parser.add_argument("--steps", type=int, default=0, help="steps of the waiting share; 0: none")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("benchmarks/results/loader.json"),
        help="the JSON that is written",
    )
    args = parser.parse_args()
    if args.workers < 1:
        parser.error("--workers: 1 or more, as without any only PyTorch reads in the main thread")
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
        sizes = " + ".join(map(str, build.batch_sizes(configuration(**options)).values()))
        name = f"{BATCHES} batches of {sizes} images, {args.workers} worker(s)"
        row = record.row(name, results, errors, {})
        if args.steps:
            row["waiting_share"] = waiting(options, args.steps)
            record.CONSOLE.print(
                f"share of CIFP training spent waiting: {row['waiting_share']:.4f}"
            )
    record.show("the loader alone", [row])
    record.write(args.out, "loader", {}, [row])


if __name__ == "__main__":
    main()
