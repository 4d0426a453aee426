"""A network as an ONNX graph, drawn layer by layer with the `onnx` library, which is an extra.

What converts JAX programs to ONNX knows neither `lax.platform_dependent` nor custom gradients, and
lags behind JAX. The graph is small, takes images of any size and number, and is compared with the
network by onnxruntime before it is written.
"""

import importlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from cifp_jax.exchange.torch_names import NUMBERS, VNET_DEPTHS, Tensors, to_torch
from cifp_jax.models import make_network

_OPSET = 18  # of 2022, which runtimes in use have
_TOLERANCE = 1e-4


class _Graph:
    """Nodes and tensors so far; every method adds a layer and returns the name of its result."""

    def __init__(self, tensors: Tensors, rank: int) -> None:
        self.onnx: Any = importlib.import_module("onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._tensors, self._rank = tensors, rank

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def _tensor(self, name: str) -> str:
        self.constants[name] = self._tensors[name]
        return name

    def conv(self, x: str, layer: str, *, kind: str = "Conv", stride: int = 1) -> str:
        weight = self._tensors[f"{layer}.weight"]
        window = weight.shape[2:]
        pads = [side // 2 if stride == 1 else 0 for side in window] * 2
        inputs = [x, self._tensor(f"{layer}.weight"), self._tensor(f"{layer}.bias")]
        strides = [stride] * self._rank
        return self.add(kind, inputs, kernel_shape=window, pads=pads, strides=strides)

    def norm(self, x: str, layer: str) -> str:
        known = (f"{layer}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
        inputs = [x, *(self._tensor(name) for name in known if name in self._tensors)]
        kind = "BatchNormalization" if len(inputs) == 5 else "InstanceNormalization"
        return self.add(kind, inputs, epsilon=1e-5)

    def pool(self, x: str) -> str:
        sides = [2] * self._rank
        return self.add("MaxPool", [x], kernel_shape=sides, strides=sides)

    def upsample(self, x: str) -> str:
        self.constants["scales"] = np.array([1, 1, *[2] * self._rank], np.float32)
        aligned = {"coordinate_transformation_mode": "align_corners", "mode": "linear"}
        return self.add("Resize", [x, "", "scales"], **aligned)

    def chain(self, x: str, layers: Sequence[tuple[str, str]], kind: str, **attributes: Any) -> str:
        """Convolution, normalisation and activation, as often as `layers` has pairs."""
        for conv, norm in layers:
            x = self.add(kind, [self.norm(self.conv(x, conv), norm)], **attributes)
        return x


def _unet(graph: _Graph, x: str) -> str:
    def block(x: str, name: str) -> str:
        pairs = [(f"{name}.conv_conv.{i}", f"{name}.conv_conv.{i + 1}") for i in (0, 4)]
        return graph.chain(x, pairs, "LeakyRelu", alpha=0.01)

    features = [block(x, "encoder.in_conv")]
    for i in range(1, 5):
        features.append(block(graph.pool(features[-1]), f"encoder.down{i}.maxpool_conv.1"))
    x = features.pop()
    for i in range(1, 5):
        x = graph.upsample(graph.conv(x, f"decoder.up{i}.conv1x1"))
        x = block(graph.add("Concat", [features.pop(), x], axis=1), f"decoder.up{i}.conv")
    return graph.conv(x, "decoder.out_conv")


def _vnet(graph: _Graph, x: str) -> str:
    features: list[str] = []
    for i, (number, depth) in enumerate(zip(NUMBERS, VNET_DEPTHS, strict=True)):
        if i:
            kind, side = ("Conv", "dw") if i < 5 else ("ConvTranspose", "up")
            name = f"block_{NUMBERS[i - 1]}_{side}.conv"
            x = graph.norm(graph.conv(x, f"{name}.0", kind=kind, stride=2), f"{name}.1")
            x = graph.add("Relu", [x])
        if i > 4:
            x = graph.add("Add", [x, features[8 - i]])
        name = f"block_{number}.conv"
        pairs = [(f"{name}.{3 * j}", f"{name}.{3 * j + 1}") for j in range(depth)]
        x = graph.chain(x, pairs, "Relu")
        features.append(x)
    return graph.conv(x, "out_conv")


_NETWORKS = {"unet": _unet, "vnet": _vnet}


def onnx_model(
    variables: Mapping[str, Any],
    network: Mapping[str, Any],
    *,
    rank: int,
    channels: int,
    metadata: Mapping[str, str],
) -> bytes:
    """A network as the bytes of an ONNX file.

    Its input `image` is float32 (n, channels, *spatial), prepared as `metadata` says, with sides
    that are multiples of 16; its output `logits` (n, classes, *spatial).

    Args:
      variables: `params` and `batch_stats`.
      network: name, classes, filters and normalization.
      rank: number of spatial axes.
      channels: of the images.
      metadata: what the file says of itself.

    Raises:
      ModuleNotFoundError: onnx or onnxruntime is not installed.
      ValueError: the graph does not give what the network gives, or there is none for it.
    """
    graph = _Graph(to_torch(network, variables), rank)
    graph.add("Identity", [_NETWORKS[network["name"]](graph, "image")])
    graph.nodes[-1].output[0] = "logits"
    helper, numpy_helper = graph.onnx.helper, graph.onnx.numpy_helper
    kind, sides = graph.onnx.TensorProto.FLOAT, ("x", "y", "z")[:rank]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            network["name"],
            [helper.make_tensor_value_info("image", kind, ("n", channels, *sides))],
            [helper.make_tensor_value_info("logits", kind, ("n", network["classes"], *sides))],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,  # of that opset
        producer_name="cifp-jax",
    )
    helper.set_model_props(model, dict(metadata))
    graph.onnx.checker.check_model(model, full_check=True)
    made = model.SerializeToString()
    _compare(made, variables, network, (2, *itertools.islice((32, 16, 48), rank), channels))
    return made


def _compare(
    made: bytes, variables: Mapping[str, Any], network: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    """Raises ValueError where onnxruntime and JAX disagree on an image of this shape."""
    runtime: Any = importlib.import_module("onnxruntime")
    image: Float[np.ndarray, "n *s c"] = np.random.default_rng(0).normal(size=shape)
    image = image.astype(np.float32)
    model = make_network(**network)
    wanted = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, image)
    session = runtime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": np.moveaxis(image, -1, 1)})
    apart = float(np.abs(np.moveaxis(found, 1, -1) - wanted).max())
    scale = max(float(np.abs(wanted).max()), 1.0)
    if not apart <= _TOLERANCE * scale:
        raise ValueError(
            f"onnxruntime gives logits that are {apart:.2g} off, of {scale:.2g} at most. Nothing "
            f"was written; please report it with the versions of onnx and onnxruntime."
        )
