"""Writes a network as one file: the work of `cifp_jax.export`."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import safetensors.numpy

from cifp_jax.data import splits
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.exchange.onnx_graph import onnx_model
from cifp_jax.exchange.stablehlo import stablehlo_program
from cifp_jax.exchange.torch_names import to_torch
from cifp_jax.files import whole, write_json
from cifp_jax.inference import prediction
from cifp_jax.inference.batch_stats import with_new_batch_stats
from cifp_jax.inference.released import find_weights
from cifp_jax.inference.weights import Weights, load_weights, save_weights
from cifp_jax.training import training_list
from cifp_jax.training.run_folder import config_of_weights, load_config, reported_network


def weights_of_run(run: pathlib.Path) -> Weights:
    """The reported network of the run in the folder `run`.

    Raises:
      FileNotFoundError, ValueError: the run is missing or has no checkpoint; or it is one of before
        2026-11-30, which did not keep its training list, and its data is missing.
    """
    config = load_config(run)
    data = config.data
    trained = training_list.of_run(run) or training_list.of_split(
        splits.load_split(
            data.name, pathlib.Path(data.root), labeled=data.labeled, validation=data.validation
        )
    )
    variables, step = reported_network(run, config)
    facts = {
        "network": config.model.to_dict(),
        "data": {
            "name": data.name,
            "patch_size": tuple(data.patch_size),
            "downsample": data.downsample,
            "channels": data.channels,
            **slice_frame(data)._asdict(),
        },
        "preparation": dataclasses.asdict(prediction.preparation(config)),
        "evaluation": {"largest_component": config.evaluation.largest_component},
        "method": config.method.name,
        "step": step,
        "seed": config.seed,
        "weights": config.evaluation.weights,
        "training_list": trained,
    }
    return Weights(variables, facts)


def export(
    source: pathlib.Path,
    out: pathlib.Path,
    *,
    form: str = "flax",
    half: bool = False,
    batch_stats_from: pathlib.Path | None = None,
) -> None:
    """Writes a network to a file, which appears whole or not at all.

    Args:
      source: a run, a file of weights or the name of a released network.
      out: the file. A StableHLO program gets another one beside it, `out`.json, for what the other
        formats say of themselves.
      form: flax, torch, onnx or stablehlo.
      half: parameters of the format flax as float16.
      batch_stats_from: where given, the folder of the network's data, on whose training images its
        batch statistics are estimated anew.

    Raises:
      FileNotFoundError, ValueError: the source or the data cannot be read, or the network not be
        written in this format.
      ModuleNotFoundError: ONNX is asked for, and its library is not installed.
    """
    source = find_weights(source)
    if source.is_file():
        weights = load_weights(source)
        config_of_weights(source, weights)  # refuses what does not fit its header
    else:
        weights = weights_of_run(source)
    if batch_stats_from:
        weights = with_new_batch_stats(weights, batch_stats_from)
    if form == "flax":
        save_weights(out, weights, half=half)
        return
    variables, facts = weights
    network, data = facts["network"], facts["data"]
    said = {name: json.dumps(value) for name, value in facts.items()}
    channels = data["channels"]
    if form == "torch":
        tensors = to_torch(network, variables)
        made = safetensors.numpy.save(tensors, metadata={**said, "format": "pt"})
    elif form == "onnx":
        rank = find_layout(data["name"]).rank
        made = onnx_model(variables, network, rank=rank, channels=channels, metadata=said)
    else:
        sides = data["patch_size"]
        made = stablehlo_program(variables, network, patch_size=sides, channels=channels)
        write_json(out.with_name(f"{out.name}.json"), facts)
    with whole(out) as partial:
        partial.write_bytes(made)


def run(source: pathlib.Path, out: pathlib.Path, **how: Any) -> None:
    """Exports, and says how large the file is; ends with what is wrong. `how` as of `export`."""
    try:
        export(source, out, **how)
    except ModuleNotFoundError as error:
        sys.exit(f"error: a library is missing ({error}): in the clone, pip install '.[onnx]'.")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
