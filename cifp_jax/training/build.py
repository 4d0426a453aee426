"""From a configuration to the parts of a run: checked before anything is computed."""

import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from cifp_jax import parallel
from cifp_jax.config import Config
from cifp_jax.data import phantom, pipeline, sources, splits
from cifp_jax.data.layouts import LAYOUTS, find_layout
from cifp_jax.evaluation import metrics
from cifp_jax.methods import METHODS, Method
from cifp_jax.settings import from_mapping
from cifp_jax.models import NETWORKS, make_network
from cifp_jax.models.network import PRECISIONS
from cifp_jax.scans.preparation import Preparation
from cifp_jax.training import device_scans
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import TrainState, create_train_state
from cifp_jax.training.train_step import find_method, make_train_step

WEIGHTS = ("ema", "student")
REPORTS = ("last", "best")


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"config.{name} is {value!r}; known: {', '.join(known)}.")


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


def check_config(config: Config, *, trains: bool = True) -> None:
    """Raises ValueError at the first setting that cannot work; reads no file.

    Only where it `trains` do the devices have to divide the batch.
    """
    _one_of("model.name", config.model.name, tuple(NETWORKS))
    _one_of("precision", config.precision, tuple(PRECISIONS))
    layout = find_layout(config.data.name)
    _one_of("evaluation.weights", config.evaluation.weights, WEIGHTS)
    _one_of("evaluation.report", config.evaluation.report, REPORTS)
    _one_of("evaluation.empty", config.evaluation.empty, metrics.EMPTY_RULES)
    for name in trained_methods(config):
        find_method(name)
    for name in METHODS:
        method_settings(config, name)
    if len(config.model.filters) != 5 or min(config.model.filters) < 1:
        raise ValueError("config.model.filters must be 5 positive numbers, one a level.")
    rank = layout.rank
    sizes = {"data.patch_size": config.data.patch_size}
    if not layout.predicts_whole_slices:
        sizes["evaluation.stride"] = config.evaluation.stride
    for key, value in sizes.items():
        if len(value) != rank or min(value) < 1:
            raise ValueError(f"config.{key}={tuple(value)} must be {rank} positive numbers.")
    for key in ("downsample", "channels"):
        if config.data[key] < 1:
            raise ValueError(f"config.data.{key} must be at least 1.")
    if config.data.downsample > 1 and not layout.may_be_averaged_down:
        raise ValueError(
            f"config.data.downsample must be 1 for {config.data.name}: only 3D scans that are not "
            f"prepared at a spacing of your choice are averaged down. Choose a smaller patch, or "
            f"prepare the scans at a larger spacing."
        )
    if config.data.channels > 1 and not layout.may_have_channels:
        raise ValueError(
            f"config.data.channels must be 1 for {config.data.name}, whose images have no more."
        )
    if config.data.phantoms and not layout.phantoms:
        known = ", ".join(name for name, other in LAYOUTS.items() if other.phantoms)
        raise ValueError(
            f"config.data.phantoms are written for {known} only, and not for {config.data.name}; "
            f"set config.data.phantoms=0."
        )
    prepared = Preparation(**config.preparation.to_dict())
    if layout.preparation and prepared not in (Preparation(), layout.preparation):
        raise ValueError(
            f"config.preparation says how scans of your own were prepared; those of "
            f"{config.data.name} are always prepared in the same way. Leave it as it is."
        )
    if config.data.on_device and not layout.may_lie_on_device:
        raise ValueError(
            f"config.data.on_device serves 3D scans whose crops are turned by quarter turns only, "
            f"such as those of la, and not {config.data.name}; set config.data.on_device=False."
        )
    if config.data.on_device and config.data.patch_size[0] != config.data.patch_size[1]:
        raise ValueError(
            f"config.data.patch_size={tuple(config.data.patch_size)}: on the device crops are "
            f"turned after they are cut, so their first two sides must be equal; make them so, "
            f"or set config.data.on_device=False."
        )
    for key in ("steps", "log_every", "checkpoint_every", "accumulate"):
        if config.training[key] < 1:
            raise ValueError(f"config.training.{key} must be at least 1.")
    if trains:
        parallel.check_batch(batch_sizes(config), batch_unit(config), config.parallel)


def make_split(config: Config) -> splits.Split:
    """The lists of a run, its files checked; phantoms are written first where asked for.

    Raises:
      ValueError, FileNotFoundError: naming the file and the remedy.
    """
    data = config.data
    root, layout = pathlib.Path(data.root), find_layout(data.name)
    if data.phantoms:
        held_out = data.phantoms // 4 if layout.validation_list else data.validation
        phantom.write_phantoms(root, layout.rank, train=data.phantoms, validation=held_out)
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
        )
    return split


def make_iterator(config: Config, split: splits.Split) -> Any:
    """The endless iterator over a process's share of the batches."""
    data = config.data
    return pipeline.make_train_iterator(
        split,
        layout=find_layout(data.name),
        classes=config.model.classes,
        channels=data.channels,
        downsample=data.downsample,
        patch_size=tuple(data.patch_size),
        batch_labeled=data.batch_labeled,
        batch_unlabeled=data.batch_unlabeled,
        seed=config.seed,
        on_device=data.on_device,
        workers=data.workers,
        cache_bytes=int(data.cache_gb * 2**30),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
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
    shape = {"patch_size": tuple(data.patch_size), "downsample": data.downsample}
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
        settings=method_settings(config),
    )


def make_step(config: Config) -> Callable[..., Any]:
    """The pure step, for `parallel.compile_step`: `step(state, batch, scans=None, **layout)`.

    With the scans of `make_scans`, `batch` holds what the iterator drew, and is cut from them.
    """
    model, method, optimizer = make_parts(config)
    train_step = make_train_step(
        model,
        method,
        optimizer,
        ema_decay=config.ema.decay,
        settings=method_settings(config),
        precision=config.precision,
        remat=config.training.remat,
        accumulate=config.training.accumulate,
    )
    patch_size = tuple(config.data.patch_size)

    def step(state: TrainState, batch: Any, scans: Any = None, **layout: Any) -> Any:
        if scans is not None:
            batch = device_scans.crop_batch(scans, batch, patch_size)
        return train_step(state, batch, **layout)

    return step


def check_step(config: Config, state: TrainState) -> None:
    """Traces one step without computing it, so that a setting that cannot work is named at once.

    Raises:
      ValueError: of the network (patch size) or the method (an unknown option).
    """
    data = config.data

    def array(size: int, dtype: type, *rest: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *rest), dtype)

    def stream(size: int) -> dict[str, jax.ShapeDtypeStruct]:
        image = array(size, np.float32, *data.patch_size, data.channels)
        return {"image": image, "index": array(size, np.int32)}

    labeled = stream(data.batch_labeled)
    labeled["label"] = array(data.batch_labeled, np.int32, *data.patch_size)
    batch = {"labeled": labeled, "unlabeled": stream(data.batch_unlabeled)}
    jax.eval_shape(make_step(config), state, batch)
