"""Released weights: one safetensors file, without pickle, that says what it is."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from cifp_jax.files import whole
from cifp_jax.mesh import STRIDE
from cifp_jax.models import make_network

FORMAT = "cifp-jax-weights-2"
_NEEDED = ("network", "data", "preparation", "method", "step", "training_list")


class Weights(NamedTuple):
    """A network and what it is.

    Attributes:
      variables: `params` and `batch_stats`, float32 NumPy arrays.
      facts: the header. network: name, classes, filters and normalization; data: name, patch_size,
        downsample and channels; preparation: the fields of the `Preparation` that its scans went
        through; evaluation: largest_component; method; step (None where unknown); training_list:
        labelled and unlabelled patients.
    """

    variables: dict[str, Any]
    facts: dict[str, Any]


def digest(variables: dict[str, Any]) -> str:
    """What tells the variables of a network from those of any other one: a SHA-256 in hex."""
    found = hashlib.sha256()
    for name, value in sorted(flatten_dict(variables, sep="/").items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(value, np.float32).tobytes())
    return found.hexdigest()


def save_weights(path: pathlib.Path, weights: Weights, *, half: bool = False) -> None:
    """Writes a network to `path`, whole or not at all.

    Args:
      path: the file; its folder is made where it is missing.
      weights: the network.
      half: store parameters as float16, at half the size. Running statistics stay float32.

    Raises:
      ValueError: a parameter is too large for float16.
    """
    tensors = {}
    for name, value in flatten_dict(weights.variables, sep="/").items():
        tensor = np.ascontiguousarray(value, np.float32)
        if half and name.startswith("params/"):
            with np.errstate(over="ignore"):
                tensor = tensor.astype(np.float16)
            if not np.isfinite(tensor).all():
                raise ValueError(f"{name} does not fit float16; write float32 instead.")
        tensors[name] = tensor
    metadata = {k: json.dumps(v) for k, v in weights.facts.items()} | {"format": FORMAT}
    with whole(path) as partial:
        # Not `save_file`, whose files only their owner may read.
        partial.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))


def load_weights(path: pathlib.Path) -> Weights:
    """Reads what `save_weights` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no file of weights, or of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file of weights is missing.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}). Write it with "
            f"`python -m cifp_jax.export`, or bring it here again."
        ) from error
    lacking = [name for name in _NEEDED if name not in metadata]
    found = metadata.pop("format", None)
    if found != FORMAT or lacking:
        raise ValueError(
            f"{path}: the format that its header names is {found!r}, where {FORMAT!r} is due "
            f"(lacking: {', '.join(lacking) or '-'}). Write the file again with "
            f"`python -m cifp_jax.export` or `cifp_jax.import_torch`."
        )
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    try:
        facts = {name: json.loads(value) for name, value in metadata.items()}
    except ValueError as error:
        raise ValueError(
            f"{path}: its header is damaged ({error}). Bring the file here again."
        ) from error
    # Files from before 2026-12-01 name no normalisation.
    facts["network"] = {"normalization": "batch", **facts["network"]}
    return Weights({"batch_stats": {}, **unflatten_dict(tensors, sep="/")}, facts)


def shapes_of(
    network: Mapping[str, Any], rank: int, channels: int
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each variable of a network, by its path.

    Args:
      network: name, classes, filters and normalization.
      rank: number of spatial axes of its images.
      channels: of its images.

    Raises:
      ValueError: there is no such network.
    """
    model = make_network(**network)
    image = jax.ShapeDtypeStruct((1, *(STRIDE,) * rank, channels), np.float32)
    made: Any = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), image
    )
    flat: dict[Any, Any] = flatten_dict(made)
    return {path: leaf.shape for path, leaf in flat.items()}


def misfit(variables: Mapping[str, Any], shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> str:
    """The first variable that is not of the shape that is due; "" where all are."""
    flat: dict[tuple[str, ...], Any] = flatten_dict(dict(variables))
    for path, shape in shapes.items():
        found = flat[path].shape if path in flat else None
        if found != shape:
            return f"{'/'.join(path)} has shape {found}, where {shape} is due."
    more = [path for path in flat if path not in shapes]
    return f"{'/'.join(more[0])} is none of this network's." if more else ""
