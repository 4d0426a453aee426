"""The layers of the networks under the names that they have in the field's PyTorch code.

Those of the U-Net are of SSL4MIS, those of the V-Net of UA-MT, or of BCP where encoder and decoder
part.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Tensors = dict[str, np.ndarray]
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NORMS = {"batch": "BatchNorm", "instance": "InstanceNorm"}
VNET_DEPTHS = (1, 2, 3, 3, 3, 3, 3, 2, 1)


class Layer(NamedTuple):
    """A layer under its two names."""

    torch: str
    flax: tuple[str, ...]
    kind: str  # conv, transposed, or the normalisation


def unet_layers(normalization: str) -> Iterator[Layer]:
    """Of the U-Net; `normalization`: one of `layers.NORMALIZATIONS`."""
    norm = _NORMS[normalization]
    blocks = ["encoder.in_conv", *(f"encoder.down{i}.maxpool_conv.1" for i in range(1, 5))]
    places = [(f"encoder_{i}", block) for i, block in enumerate(blocks)]
    places += [(f"decoder_{i}", f"decoder.up{i + 1}.conv") for i in range(4)]
    for own, block in places:
        for i, at in enumerate((0, 4)):
            yield Layer(f"{block}.conv_conv.{at}", (own, f"Conv_{i}"), "conv")
            yield Layer(f"{block}.conv_conv.{at + 1}", (own, f"{norm}_{i}"), normalization)
    for i in range(4):
        yield Layer(f"decoder.up{i + 1}.conv1x1", (f"reduce_{i}",), "conv")
    yield Layer("decoder.out_conv", ("head",), "conv")


def vnet_layers(normalization: str, parted: bool = False) -> Iterator[Layer]:
    """Of the V-Net; `parted`: encoder and decoder are modules of their own, as in BCP.

    `normalization`: one of `layers.NORMALIZATIONS`.
    """
    norm = _NORMS[normalization]
    for i, (number, depth) in enumerate(zip(NUMBERS, VNET_DEPTHS, strict=True)):
        part = ("encoder." if i < 5 else "decoder.") if parted else ""
        own = f"encoder_{i}" if i < 5 else f"decoder_{i - 5}"
        for j in range(depth):
            yield Layer(f"{part}block_{number}.conv.{3 * j}", (own, f"Conv_{j}"), "conv")
            name = f"{part}block_{number}.conv.{3 * j + 1}"
            yield Layer(name, (own, f"{norm}_{j}"), normalization)
        if i == 8:
            continue
        down = i < 4
        part = ("encoder." if down else "decoder.") if parted else ""
        name = f"{part}block_{number}_{'dw' if down else 'up'}.conv"
        own, layer = (f"down_{i}", "Down_0") if down else (f"up_{i - 4}", "Up_0")
        yield Layer(f"{name}.0", (own, layer), "conv" if down else "transposed")
        yield Layer(f"{name}.1", (own, f"{norm}_0"), normalization)
    yield Layer("decoder.out_conv" if parted else "out_conv", ("head",), "conv")


def _axes(kind: str, rank: int) -> tuple[int, ...]:
    """What transposes PyTorch's kernel of `rank` window axes to Flax's, (*window, in, out).

    A convolution has (out, in, *window), a transposed one (in, out, *window).
    """
    return (*range(2, rank + 2), *((1, 0) if kind == "conv" else (0, 1)))


def _parts(layer: Layer) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The last part of the name of each of a layer's tensors, and the path in Flax's variables."""
    if layer.kind in _NORMS:
        yield "weight", ("params", *layer.flax, "scale")
        yield "bias", ("params", *layer.flax, "bias")
    else:
        yield "weight", ("params", *layer.flax, "kernel")
        yield "bias", ("params", *layer.flax, "bias")
    if layer.kind == "batch":
        yield "running_mean", ("batch_stats", *layer.flax, "mean")
        yield "running_var", ("batch_stats", *layer.flax, "var")


def take(layer: Layer, tensors: Tensors) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """A layer's arrays under their path in the Flax variables; takes them out of `tensors`.

    Raises:
      ValueError: one is missing.
    """
    tensors.pop(f"{layer.torch}.num_batches_tracked", None)
    for part, path in _parts(layer):
        name = f"{layer.torch}.{part}"
        if name not in tensors:
            raise ValueError(f"it has no {name}, which this network has.")
        array = tensors.pop(name)
        kernel = path[-1] == "kernel"
        yield path, array.transpose(_axes(layer.kind, array.ndim - 2)) if kernel else array


def from_torch(layers: Iterator[Layer], tensors: Tensors) -> dict[str, Any]:
    """`params` and `batch_stats` of a state dictionary; takes what it uses out of `tensors`.

    Raises:
      ValueError: a tensor is missing.
    """
    flat = dict(pair for layer in layers for pair in take(layer, tensors))
    return {"batch_stats": {}, **unflatten_dict(flat)}


def to_torch(network: Mapping[str, Any], variables: Mapping[str, Any]) -> Tensors:
    """The state dictionary of a network under the field's names, float32; undoes `from_torch`.

    Args:
      network: its name and its normalization.
      variables: `params` and `batch_stats`.

    Raises:
      ValueError: the field has no names for this network.
    """
    known = {"unet": unet_layers, "vnet": vnet_layers}
    if network["name"] not in known:
        raise ValueError(
            f"The layers of the network {network['name']!r} have no names in PyTorch; known: "
            f"{', '.join(known)}."
        )
    flat: dict[Any, Any] = flatten_dict(dict(variables))
    tensors = {}
    for layer in known[network["name"]](network["normalization"]):
        for part, path in _parts(layer):
            array = np.asarray(flat[path], np.float32)
            if path[-1] == "kernel":
                array = array.transpose(np.argsort(_axes(layer.kind, array.ndim - 2)))
            tensors[f"{layer.torch}.{part}"] = np.ascontiguousarray(array)
    return tensors
