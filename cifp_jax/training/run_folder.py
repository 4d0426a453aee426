"""A finished run, read back from its folder."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cifp_jax.config import Config, default_config
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.whole_slices import SliceFrame
from cifp_jax.inference.prediction import preparation
from cifp_jax.inference.released import find_weights
from cifp_jax.inference.weights import Weights, load_weights, misfit, shapes_of
from cifp_jax.scans.preparation import Preparation
from cifp_jax.training.state import network_variables

# What a run keeps from its start to its end and to its evaluation.
_SAME = (
    *("method.name", "data.name", "data.identity", "data.downsample"),
    *(f"data.{name}" for name in SliceFrame._fields),
    *("model", "augmentation", "preparation"),
)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def load_config(workdir: pathlib.Path) -> Config:
    """The configuration of a run; settings that are newer than it have their defaults.

    Raises:
      FileNotFoundError: the folder is no run.
      ValueError: its `config.json` is damaged or no configuration.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this file is missing. Name the folder of a run, its --workdir; of several "
            f"methods compared, the folder of one of them."
        )
    try:
        stored = _tuples(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: this is no valid JSON ({error}). Train again.") from error
    config = default_config()
    try:
        for name, value in stored.items():
            if isinstance(value, dict):
                config[name].update(value)
            else:
                config[name] = value
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a run's configuration: {error}") from error
    return config


def check_same(config: Config, workdir: pathlib.Path) -> None:
    """Raises ValueError where `workdir` holds a run of another method, network, data or recipe.

    Their checkpoints may have the same shapes, so that nothing else would notice.
    """
    if not (workdir / "config.json").is_file():
        return
    before = load_config(workdir)
    # Where whole slices are resized to it, the patch is a part of what the network learns on.
    resized = find_layout(config.data.name).predicts_whole_slices
    for name in (*_SAME, *(("data.patch_size",) if resized else ())):
        then, now = (_setting(c, name) for c in (before, config))
        if then == now:
            continue
        if name == "data.identity":
            raise ValueError(
                f"{workdir} is a run on data that has been prepared again since: a case that it "
                f"was trained on might be scored. Name another --workdir; "
                f"--config.training.init_from={workdir} goes on from its network."
            )
        raise ValueError(
            f"{workdir} is a run with config.{name}={then!r}, and not {now!r}. Use the run's own "
            f"config, or another --workdir."
        )


def _setting(config: Config, name: str) -> Any:
    """A setting by its dotted name; a part of the configuration as a dict."""
    value = functools.reduce(lambda part, key: part[key], name.split("."), config)
    if name == "preparation":  # but for what the classes are called, which changes no image
        return {key: part for key, part in value.to_dict().items() if key != "label_names"}
    return value.to_dict() if isinstance(value, ConfigDict) else value


def check_same_data(config: Config, file: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Raises ValueError where a file of weights was trained on other data than `config` has."""
    theirs = {
        "data.name": facts["data"]["name"],
        "data.channels": facts["data"]["channels"],
        "model.classes": facts["network"]["classes"],
    }
    ours = {name: config[name.split(".")[0]][name.split(".")[1]] for name in theirs}
    theirs["preparation"] = dataclasses.asdict(Preparation(**_tuples(facts["preparation"])))
    ours["preparation"] = dataclasses.asdict(preparation(config))
    for name, value in theirs.items():
        if value != ours[name]:
            raise ValueError(
                f"{file} is of data with {name}={value!r}, the configuration has {ours[name]!r}: "
                f"use a configuration of the same data, or `cifp_jax.predict` on the scans."
            )


def load_network(path: pathlib.Path) -> tuple[Config, dict[str, Any]]:
    """Configuration and variables of the network that a run reports, or of a file of weights.

    Args:
      path: folder of a run, what `cifp_jax.export` wrote, or the name of a released network.

    Raises:
      FileNotFoundError: the run holds no checkpoint, or there is no such run, file or network.
      ValueError: the checkpoint is of another configuration, or the file is damaged.
    """
    path = find_weights(path)
    if path.is_file():
        weights = load_weights(path)
        return config_of_weights(path, weights), weights.variables
    config = load_config(path)
    return config, reported_network(path, config)[0]


def config_of_weights(path: pathlib.Path, weights: Weights) -> Config:
    """Configuration of a network from a file.

    Args:
      path: of the file, for messages.
      weights: what it holds.

    Raises:
      ValueError: the header does not name a network, or the variables are of another one.
    """
    config = default_config()
    try:
        config.model.update(weights.facts["network"])
        config.data.update(weights.facts["data"])
        config.preparation.update(_tuples(weights.facts["preparation"]))
        config.evaluation.update(weights.facts["evaluation"])
        rank = find_layout(config.data.name).rank
        shapes = shapes_of(config.model.to_dict(), rank, config.data.channels)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: its header does not say what network it holds ({error}). It may be of a "
            f"newer version; write it again with `python -m cifp_jax.export`."
        ) from error
    if wrong := misfit(weights.variables, shapes):
        raise ValueError(f"{path}: {wrong} Write it again with `python -m cifp_jax.export`.")
    return config


def reported_network(workdir: pathlib.Path, config: Config) -> tuple[dict[str, Any], int]:
    """The variables that the run in `workdir` reports, and the step of their checkpoint.

    Raises:
      FileNotFoundError: the run holds no checkpoint.
      ValueError: the checkpoint is of another configuration.
    """
    # A file of weights needs neither, and Orbax takes long to import.
    from cifp_jax.training import build
    from cifp_jax.training.checkpoint import Checkpoints

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.reported(config.evaluation.report)
        state = checkpoints.restore(build.make_state(config), step)
    return network_variables(state, config.evaluation.weights), step
