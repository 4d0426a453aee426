"""The start of a run from a trained network: of a run, a file, or a released one."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from cifp_jax.config import Config
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.splits import Split
from cifp_jax.inference.prediction import preparation
from cifp_jax.training import training_list
from cifp_jax.training.run_folder import load_network
from cifp_jax.training.state import TrainState, as_tuple, from_tuple


def start_from(
    path: pathlib.Path, config: Config, split: Split, state: TrainState
) -> tuple[TrainState, list[str]]:
    """A new run's state, whose first student and whose teachers are a trained network.

    Layers of other shapes, as the last one where the number of classes differs, begin anew.

    Args:
      path: folder of a run, file of weights or name of a released network.
      config: of the new run.
      split: its lists.
      state: the state before its first step.

    Returns:
      The state, and a line each for what differs between the two, and for cases which the run would
      be scored on and the network may have been trained on.

    Raises:
      FileNotFoundError: there is no such run, file or network.
      ValueError: the network is of another kind, so that little or nothing of it would be left.
    """
    theirs, variables = load_network(path)
    kinds = [
        {
            "config.model.name": one.model.name,
            "config.model.filters": tuple(one.model.filters),
            "config.model.normalization": one.model.normalization,
            "the number of axes of its images": find_layout(one.data.name).rank,
        }
        for one in (theirs, config)
    ]
    for name, then in kinds[0].items():
        if then != (now := kinds[1][name]):
            raise ValueError(
                f"config.training.init_from={path}: of this network, {name} is {then!r}, and of "
                f"the run {now!r}. Take one of the same kind, or set config.training.init_from=''."
            )
    fresh = {
        "params": as_tuple(state.params)[0],
        "batch_stats": as_tuple(state.batch_stats)[0],
    }
    merged, anew = _merge(fresh, variables)
    params, stats = merged["params"], merged.get("batch_stats", {})
    started = dataclasses.replace(
        state,
        params=_put(state.params, params, 1),
        batch_stats=_put(state.batch_stats, stats, 1),
        ema_params=_put(state.ema_params, params),
        ema_batch_stats=_put(state.ema_batch_stats, stats),
    )
    remarks = [f"begun anew, as its shape differs: {line}" for line in anew]
    before, now = (
        dataclasses.replace(preparation(one), label_names=(), label_values=())
        for one in (theirs, config)
    )
    if before != now:
        remarks.append("its scans were prepared otherwise, so it has more to learn anew")
    # No error: data sets of different people may name them alike.
    if names := training_list.seen(training_list.of_network(path), split):
        remarks.append(
            f"trained on patients with the names of {len(names)} validation and test cases "
            f"({names[0]}, ...): if they are the same people, figures of this run are too good"
        )
    return started, remarks


def _merge(fresh: dict[str, Any], trained: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`trained` where its arrays have the shapes of `fresh`; and the arrays where they have not."""
    own: dict[Any, Any] = flatten_dict(fresh)
    theirs: dict[Any, Any] = flatten_dict(trained)
    fits = {path: path in theirs and theirs[path].shape == own[path].shape for path in own}
    merged = {path: theirs[path] if fits[path] else own[path] for path in own}
    anew = [
        f"{'/'.join(path[1:])} ({theirs[path].shape} before, {own[path].shape} now)"
        for path in sorted(own)
        if not fits[path]
    ]
    return unflatten_dict(merged), anew


def _put(networks: Any, value: Any, count: int | None = None) -> Any:
    """`networks` with copies of `value` in the place of the first `count`."""
    old = as_tuple(networks)
    kept = old[count:] if count else ()
    return from_tuple((*(jax.tree.map(jnp.array, value) for _ in old[:count]), *kept))
