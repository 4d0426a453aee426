"""From a configuration to the parts of a run: checked before anything is computed."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax

from cifp_jax import augmentation, parallel, processes
from cifp_jax.config import Config
from cifp_jax.data import phantom, sources, splits
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.mesh import batch_share, make_mesh
from cifp_jax.methods import METHODS, Method
from cifp_jax.models import make_network
from cifp_jax.settings import from_mapping
from cifp_jax.training import device_scans
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import TrainState, create_train_state
from cifp_jax.training.train_step import find_method, make_train_step


def method_settings(config: Config, name: str = "") -> Any:
    """The settings of the chosen method, or of that of another `name`: `config.methods.<name>`.

    Raises:
      ValueError: there is no such method, or one of its settings cannot be.
    """
    name = name or config.method.name
    settings = find_method(name).settings
    return from_mapping(settings, config.methods[name].to_dict(), f"config.methods.{name}")


def trained_methods(config: Config) -> tuple[str, ...]:
    """Names of the methods that a configuration trains."""
    return tuple(config.compare) or (config.method.name,)


def describe(config: Config) -> str:
    """The configuration as JSON, with every setting of its method, and of no other one."""
    full = config.copy_and_resolve_references()
    with full.unlocked():
        full.methods = {name: full.methods[name] for name in (full.method.name,)}
    return full.to_json_best_effort(indent=2) + "\n"


def batch_sizes(config: Config) -> dict[str, int]:
    """Examples of each stream in a batch, by the name of their setting."""
    return {name: config.data[name] for name in ("batch_labeled", "batch_unlabeled")}


def batch_unit(config: Config) -> int:
    """What a device's share of each stream is a multiple of: parts, and pairs where images mix."""
    pairs = any(
        find_method(name).pairs(method_settings(config, name)) for name in trained_methods(config)
    )
    return config.training.accumulate * (2 if pairs else 1)


def make_split(config: Config) -> splits.Split:
    """The lists of a run, its files checked; phantoms are written first where asked for.

    Raises:
      ValueError, FileNotFoundError: naming the file and the remedy.
    """
    data = config.data
    root, layout = pathlib.Path(data.root), find_layout(data.name)
    if data.phantoms:
        held_out = data.phantoms // 4 if layout.validation_list else data.validation
        write = functools.partial(
            phantom.write_phantoms, root, layout.rank, train=data.phantoms, validation=held_out
        )
        processes.by_first(write)
        write()  # on a disk of this process alone; on a common one they are there by now
    split = splits.load_split(
        data.name,
        root,
        labeled=data.labeled,
        validation=data.validation,
        test_list=data.test_list,
    )
    for cases, case_rank, labels in (
        (split.labeled, layout.rank, True),
        (split.unlabeled, layout.rank, False),
        (split.validation + split.test, 3, True),
    ):
        sources.check_cases(
            cases,
            classes=config.model.classes,
            rank=case_rank,
            labels=labels,
            channels=data.channels,
            identity=data.identity,
        )
    return split


def strong_settings(config: Config) -> augmentation.Settings | None:
    """How the step augments its batch; None where it does not.

    Raises:
      ValueError: a setting has the wrong type or lies outside its range.
    """
    if config.augmentation.name == "weak":
        return None
    given = config.augmentation.strong.to_dict()
    return from_mapping(augmentation.Settings, given, "config.augmentation.strong")


def crop_size(config: Config) -> tuple[int, ...]:
    """Sides of the examples that the loader cuts, voxels: larger than the patch where the step
    turns and resizes crops of scans."""
    patch, strong = tuple(config.data.patch_size), strong_settings(config)
    if strong is None or find_layout(config.data.name).predicts_whole_slices:
        return patch
    return augmentation.source_size(patch, strong.margin)


def make_iterator(config: Config, split: splits.Split) -> Any:
    """The endless iterator over a process's share of the batches."""
    data = config.data
    from cifp_jax.data import pipeline  # Grain takes long to import, and only training needs it

    share, shares = batch_share(make_mesh(config.spatial_partitions))
    return pipeline.make_train_iterator(
        split,
        layout=find_layout(data.name),
        classes=config.model.classes,
        channels=data.channels,
        frame=slice_frame(data),
        weak_slices=config.augmentation.name == "weak",
        downsample=data.downsample,
        patch_size=crop_size(config),
        batch_labeled=data.batch_labeled,
        batch_unlabeled=data.batch_unlabeled,
        seed=config.seed,
        on_device=data.on_device,
        workers=data.workers,
        cache_bytes=int(data.cache_gb * 2**30),
        process_index=share,
        process_count=shares,
    )


def make_scans(config: Config, split: splits.Split, mesh: jax.sharding.Mesh) -> Any:
    """What the step takes besides state and batch: the training scans, where they lie on the
    device (`config.data.on_device`), else None, an empty tree.

    Raises:
      ValueError: they do not fit into the device's memory.
    """
    data = config.data
    if not data.on_device:
        return None
    shape = {"patch_size": crop_size(config), "downsample": data.downsample}
    device_scans.check_memory(split, free=parallel.free_memory(), **shape)
    scans = device_scans.stack_scans(split, classes=config.model.classes, **shape)
    return parallel.replicate(scans, config.parallel, mesh)


def make_parts(config: Config) -> tuple[nn.Module, Method, optax.GradientTransformation]:
    """Network, method and optimizer."""
    optimizer = make_optimizer(**config.optimizer.to_dict(), steps=config.training.steps)
    return make_network(**config.model.to_dict()), find_method(config.method.name), optimizer


def make_state(config: Config) -> TrainState:
    """The state before the first step, which follows from the seed."""
    model, method, optimizer = make_parts(config)
    return create_train_state(
        model,
        method,
        optimizer,
        seed=config.seed,
        input_shape=(1, *config.data.patch_size, config.data.channels),
    )


def make_step(config: Config, *, supervised: bool = False) -> Callable[..., Any]:
    """The pure step, for `parallel.compile_step`: `step(state, batch, scans=None, **layout)`.

    With the scans of `make_scans`, `batch` holds what the iterator drew, and is cut from them.

    Args:
      config: of the run.
      supervised: the step of the first `config.training.supervised_steps`, which takes the state
        of the run's method and trains each of its students on the labelled images alone.
    """
    model, method, optimizer = make_parts(config)
    own = settings = method_settings(config)
    if supervised:
        # The teachers follow as the method has it.
        decays = functools.partial(method.decays, settings=own)
        method = METHODS["supervised"]._replace(
            decays=lambda context, decay, _: decays(context, decay)
        )
        settings = method.settings()
    train_step = make_train_step(
        model,
        method,
        optimizer,
        ema_decay=config.ema.decay,
        settings=settings,
        strong=strong_settings(config),
        patch_size=tuple(config.data.patch_size),
        precision=config.precision,
        remat=config.training.remat,
        accumulate=config.training.accumulate,
        first_unlabeled=config.training.supervised_steps,
    )
    size = crop_size(config)

    def step(state: TrainState, batch: Any, scans: Any = None, **layout: Any) -> Any:
        if scans is not None:
            batch = device_scans.crop_batch(scans, batch, size)
        return train_step(state, batch, **layout)

    return step
