"""Imports PyTorch weights: the work of `cifp_jax.import_torch`."""

import dataclasses
import importlib
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict

from cifp_jax.inference.weights import Weights, misfit, save_weights, shapes_of
from cifp_jax.scans import preparation

Tensors = dict[str, np.ndarray]
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_VNET_DEPTHS = (1, 2, 3, 3, 3, 3, 3, 2, 1)
# Where published scripts keep the network in a checkpoint, and what BCP's classes hold beside it.
_INSIDE = ("net", "model", "state_dict")
_BESIDE = ("projection_head.", "prediction_head.", "contrastive_class_selector_")


class Layer(NamedTuple):
    """A layer under its two names."""

    torch: str
    flax: tuple[str, ...]
    kind: str  # conv, transposed or norm


def _unet_layers() -> Iterator[Layer]:
    blocks = ["encoder.in_conv", *(f"encoder.down{i}.maxpool_conv.1" for i in range(1, 5))]
    places = [(f"encoder_{i}", block) for i, block in enumerate(blocks)]
    places += [(f"decoder_{i}", f"decoder.up{i + 1}.conv") for i in range(4)]
    for own, block in places:
        for i, at in enumerate((0, 4)):
            yield Layer(f"{block}.conv_conv.{at}", (own, f"Conv_{i}"), "conv")
            yield Layer(f"{block}.conv_conv.{at + 1}", (own, f"BatchNorm_{i}"), "norm")
    for i in range(4):
        yield Layer(f"decoder.up{i + 1}.conv1x1", (f"reduce_{i}",), "conv")
    yield Layer("decoder.out_conv", ("head",), "conv")


def _vnet_layers(parted: bool) -> Iterator[Layer]:
    """`parted`: encoder and decoder are modules of their own, as in BCP."""
    for i, (number, depth) in enumerate(zip(_NUMBERS, _VNET_DEPTHS, strict=True)):
        part = ("encoder." if i < 5 else "decoder.") if parted else ""
        own = f"encoder_{i}" if i < 5 else f"decoder_{i - 5}"
        for j in range(depth):
            yield Layer(f"{part}block_{number}.conv.{3 * j}", (own, f"Conv_{j}"), "conv")
            yield Layer(f"{part}block_{number}.conv.{3 * j + 1}", (own, f"BatchNorm_{j}"), "norm")
        if i == 8:
            continue
        down = i < 4
        part = ("encoder." if down else "decoder.") if parted else ""
        name = f"{part}block_{number}_{'dw' if down else 'up'}.conv"
        own, layer = (f"down_{i}", "Down_0") if down else (f"up_{i - 4}", "Up_0")
        yield Layer(f"{name}.0", (own, layer), "conv" if down else "transposed")
        yield Layer(f"{name}.1", (own, "BatchNorm_0"), "norm")
    yield Layer("decoder.out_conv" if parted else "out_conv", ("head",), "conv")


def _arrays(layer: Layer, tensors: Tensors) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """A layer's arrays under their path in the Flax variables; takes them out of `tensors`."""

    def take(name: str) -> np.ndarray:
        full = f"{layer.torch}.{name}"
        if full not in tensors:
            raise ValueError(f"it has no {full}, which this network has.")
        return tensors.pop(full)

    if layer.kind == "norm":
        tensors.pop(f"{layer.torch}.num_batches_tracked", None)
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            yield ("params", *layer.flax, ours), take(theirs)
        for ours in ("mean", "var"):
            yield ("batch_stats", *layer.flax, ours), take(f"running_{ours}")
        return
    kernel = take("weight")
    # (out, in, *window) of a convolution, (in, out, *window) of a transposed one.
    first = (1, 0) if layer.kind == "conv" else (0, 1)
    yield ("params", *layer.flax, "kernel"), kernel.transpose((*range(2, kernel.ndim), *first))
    yield ("params", *layer.flax, "bias"), take("bias")


def convert(tensors: Mapping[str, np.ndarray]) -> Weights:
    """The weights of a state dictionary.

    Raises:
      ValueError: the names or shapes are not those of a known U-Net or V-Net; says which.
    """
    left = {k.removeprefix("module."): v for k, v in tensors.items()}
    left = {k: v for k, v in left.items() if not k.startswith(_BESIDE)}
    if any(k.startswith("decoder.up1.up.") for k in left):
        raise ValueError("its U-Net goes up by transposed convolutions, this one by interpolation.")
    if "encoder.in_conv.conv_conv.0.weight" in left:
        name, data, patch, layers = "unet", "acdc", (256, 256), _unet_layers()
        prepared = preparation.ACDC
    elif "block_one.conv.0.weight" in left or "encoder.block_one.conv.0.weight" in left:
        name, data, patch, prepared = "vnet", "la", (112, 112, 80), preparation.LA
        layers = _vnet_layers("encoder.block_one.conv.0.weight" in left)
    else:
        raise ValueError(f"it is no U-Net or V-Net of a known naming: {', '.join(list(left)[:4])}.")
    flat = dict(pair for layer in layers for pair in _arrays(layer, left))
    if left:
        raise ValueError(f"it holds more than this network has: {', '.join(list(left)[:4])}.")

    filters = tuple(
        int(flat["params", f"encoder_{i}", "Conv_0", "bias"].shape[0]) for i in range(5)
    )
    kernel = flat["params", "encoder_0", "Conv_0", "kernel"]
    classes = int(flat["params", "head", "bias"].shape[0])
    network = {"name": name, "classes": classes, "filters": filters}
    variables = unflatten_dict(flat)
    if wrong := misfit(variables, shapes_of(network, kernel.ndim - 2, kernel.shape[-2])):
        raise ValueError(wrong)
    facts = {
        "network": network,
        "data": {"name": data, "patch_size": patch, "downsample": 1},
        "preparation": dataclasses.asdict(prepared),
        "method": "imported from PyTorch",
        "step": None,
        "training_list": {"labeled": [], "unlabeled": []},
    }
    return Weights(variables, facts)


def read(path: pathlib.Path) -> Tensors:
    """The state dictionary of a PyTorch file; nothing but tensors is unpickled.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else, or cannot be read.
      ModuleNotFoundError: PyTorch is not installed.
    """
    torch: Any = importlib.import_module("torch")  # an extra, and only needed here
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file is missing. Name another.")
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
    return {name: tensor.float().numpy() for name, tensor in content.items()}


def run(file: pathlib.Path, out: pathlib.Path) -> None:
    """Writes the network of the PyTorch checkpoint `file` to `out`; ends with what is wrong."""
    try:
        tensors = read(file)
        try:
            weights = convert(tensors)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        save_weights(out, weights)
    except ModuleNotFoundError as error:
        sys.exit(f"error: PyTorch is missing ({error}): pip install 'cifp-jax[torch]'.")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    network = weights.facts["network"]
    print(f"{out}: {network['name']} of {network['classes']} classes")
