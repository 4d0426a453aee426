"""Imports PyTorch weights: the work of `cifp_jax.import_torch`."""

import dataclasses
import importlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

from cifp_jax.data.whole_slices import WHOLE
from cifp_jax.exchange.torch_names import Tensors, from_torch, unet_layers, vnet_layers
from cifp_jax.inference.weights import Weights, misfit, save_weights, shapes_of
from cifp_jax.scans import preparation

# Where published scripts keep the network in a checkpoint, and what BCP's classes hold beside it.
_INSIDE = ("net", "model", "state_dict")
_BESIDE = ("projection_head.", "prediction_head.", "contrastive_class_selector_")
# The first layer of the U-Net, and of the V-Net as UA-MT and as BCP write it.
_FIRST = (
    "encoder.in_conv.conv_conv.0.weight",
    "block_one.conv.0.weight",
    "encoder.block_one.conv.0.weight",
)


def convert(tensors: Mapping[str, np.ndarray], said: Mapping[str, Any] | None = None) -> Weights:
    """The weights of a state dictionary.

    Args:
      tensors: by name.
      said: the header that `export` wrote beside them; None: what the field's scripts do.

    Raises:
      ValueError: the names or shapes are not those of a known U-Net or V-Net; says which.
    """
    left = {k.removeprefix("module."): v for k, v in tensors.items()}
    left = {k: v for k, v in left.items() if not k.startswith(_BESIDE)}
    if any(k.startswith("decoder.up1.up.") for k in left):
        raise ValueError("its U-Net goes up by transposed convolutions, this one by interpolation.")
    first = next((name for name in _FIRST if name in left), None)
    if first is None:
        raise ValueError(f"it is no U-Net or V-Net of a known naming: {', '.join(list(left)[:4])}.")
    normalization = said["network"].get("normalization", "batch") if said else "batch"
    if first == _FIRST[0]:
        name, data, patch = "unet", "acdc", (256, 256)
        layers = unet_layers(normalization)
        prepared = preparation.ACDC
    else:
        name, data, patch, prepared = "vnet", "la", (112, 112, 80), preparation.LA
        layers = vnet_layers(normalization, first == _FIRST[2])
    channels = said["data"]["channels"] if said else 1
    wanted, shape = (channels, *(3,) * len(patch)), left[first].shape
    if shape[1:] != wanted:
        raise ValueError(
            f"{first} has the shape {shape}, where (filters, {', '.join(map(str, wanted))}) is due."
        )
    variables = from_torch(layers, left)
    flat: dict[Any, Any] = flatten_dict(variables)
    if left:
        raise ValueError(f"it holds more than this network has: {', '.join(list(left)[:4])}.")

    filters = tuple(
        int(flat["params", f"encoder_{i}", "Conv_0", "bias"].shape[0]) for i in range(5)
    )
    classes = int(flat["params", "head", "bias"].shape[0])
    network = {
        **{"name": name, "classes": classes, "filters": filters},
        "normalization": normalization,
    }
    if wrong := misfit(variables, shapes_of(network, len(patch), channels)):
        raise ValueError(wrong)
    facts = said or {
        "network": network,
        "data": {
            **{"name": data, "patch_size": patch, "downsample": 1, "channels": channels},
            **WHOLE._asdict(),
        },
        "preparation": dataclasses.asdict(prepared),
        "evaluation": {"largest_component": ""},
        "method": "imported from PyTorch",
        "step": None,
        "training_list": {"labeled": [], "unlabeled": []},
    }
    return Weights(variables, dict(facts))


def read(path: pathlib.Path) -> tuple[Tensors, dict[str, Any] | None]:
    """The state dictionary of a PyTorch file, and what `export` says of it where it wrote the file.

    Nothing but tensors is unpickled.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else, or cannot be read.
      ModuleNotFoundError: PyTorch is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file is missing. Name another.")
    if path.suffix == ".safetensors":
        try:
            tensors = safetensors.numpy.load_file(path)
            with safetensors.safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error
        tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
        if "training_list" not in metadata:  # written elsewhere, with whatever text
            return tensors, None
        return tensors, {k: json.loads(v) for k, v in metadata.items() if k != "format"}
    torch: Any = importlib.import_module("torch")  # an extra, only needed here
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind: the unpickler reads any bytes as commands
        raise ValueError(f"{path} is no file of tensors alone, and was not loaded.") from error
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise ValueError(f"{path} holds no state dictionary of a network.")
    return {name: tensor.float().numpy() for name, tensor in content.items()}, None


def run(file: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the network of the PyTorch checkpoint `file` to `out`; ends with what is wrong."""
    try:
        found = read(file)
        try:
            weights = convert(*found)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        save_weights(out, weights)
    except ModuleNotFoundError as error:
        sys.exit(f"error: PyTorch is missing ({error}): in the clone, pip install '.[torch]'.")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    network = weights.facts["network"]
    print(f"{out}: {network['name']} of {network['classes']} classes")
