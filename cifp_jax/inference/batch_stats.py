"""Batch statistics of a trained network, estimated anew on its training images as they are.

The running averages of training are those of augmented images. Without a label or a change of
parameters, the moments of unchanged images are nearer to those of the scans that are to be
predicted (precise batch normalisation: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021;
`torch.optim.swa_utils.update_bn` does the same for averaged weights).
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from cifp_jax.data import sources, splits, transforms
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.sources import Case
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.inference.weights import Weights
from cifp_jax.models import make_network
from cifp_jax.models.layers import MOMENTUM

# By the number of axes: batches, and slices or crops of scans in one.
_SAMPLE = {2: (80, 16), 3: (20, 4)}


def estimate_batch_stats(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Float[np.ndarray, "b *patch c"]],
) -> dict[str, Any]:
    """Mean over batches of the moments that each layer normalises with in training, no dropout.

    Args:
      model: a network.
      variables: `params` and `batch_stats`; of the latter, only their shapes count.
      batches: at least one; each counts alike.

    Returns:
      `batch_stats`, float32 NumPy arrays.
    """
    nothing = jax.tree.map(np.zeros_like, variables["batch_stats"])

    @jax.jit
    def moments(params: Any, x: Float[Array, "b *patch c"]) -> Any:
        given = {"params": params, "batch_stats": nothing}
        _, moved = model.apply(given, x, train=True, mutable=["batch_stats"])
        # A running average that began with 0 holds this share of the batch's moments.
        return jax.tree.map(lambda new: new / (1 - MOMENTUM), moved["batch_stats"])

    total, count = nothing, 0
    for batch in batches:
        total = jax.tree.map(np.add, total, jax.device_get(moments(variables["params"], batch)))
        count += 1
    return jax.tree.map(lambda sums: (sums / count).astype(np.float32), total)


def _training_cases(facts: Mapping[str, Any], root: pathlib.Path) -> tuple[Case, ...]:
    """The cases of a network's training list; all training cases where it does not tell them."""
    split = splits.load_split(facts["data"]["name"], root, labeled=1)
    cases = split.labeled + split.unlabeled
    wanted = {name for part in facts["training_list"].values() for name in part}
    found = {splits.patient(case.name) for case in cases}
    if lacking := sorted(wanted - found):
        raise ValueError(
            f"{root}: {len(lacking)} of {len(wanted)} patients that the network was trained on are "
            f"on no training list there ({', '.join(lacking[:3])}). Name the folder of its data."
        )
    return tuple(c for c in cases if not wanted or splits.patient(c.name) in wanted)


def _batches(
    cases: Sequence[Case], data: Mapping[str, Any], classes: int
) -> Iterator[Float[np.ndarray, "b *patch c"]]:
    """Images as prediction sees them, of cases drawn at random; none twice before all were."""
    layout, patch = find_layout(data["name"]), tuple(data["patch_size"])
    count, size = _SAMPLE[layout.rank]
    rng = np.random.default_rng(0)

    def image(case: Case) -> np.ndarray:
        arrays = sources.read_case(
            case,
            classes=classes,
            rank=layout.rank,
            labels=False,
            downsample=data["downsample"],
            channels=data["channels"],
        )
        if layout.predicts_whole_slices:
            return slice_frame(data).see(arrays, patch)["image"]
        starts = transforms.draw_starts(rng, arrays["image"].shape, patch)
        return transforms.crop(arrays, starts, patch)["image"]

    rounds = -(-count * size // len(cases))
    order = np.concatenate([rng.permutation(len(cases)) for _ in range(rounds)])
    for first in range(0, count * size, size):
        images = np.stack([image(cases[i]) for i in order[first : first + size]])
        yield images.reshape(size, *patch, data["channels"]).astype(np.float32)


def with_new_batch_stats(weights: Weights, root: pathlib.Path) -> Weights:
    """A network with batch statistics of the images of its training list; its header says so.

    Args:
      weights: the network.
      root: the folder of its data, with the lists.

    Raises:
      FileNotFoundError, ValueError: the data is missing, damaged, or not that of the network, or
        the network has no batch statistics.
    """
    variables, facts = weights
    if not variables["batch_stats"]:
        raise ValueError(
            "This network has no batch statistics, as it normalises each image alone. "
            "Leave --batch_stats_from out."
        )
    cases = _training_cases(facts, root)
    batches = _batches(cases, facts["data"], facts["network"]["classes"])
    model = make_network(**facts["network"])
    batch_stats = estimate_batch_stats(model, variables, batches)
    count, size = _SAMPLE[find_layout(facts["data"]["name"]).rank]
    return Weights(
        {**variables, "batch_stats": batch_stats},
        {**facts, "batch_stats": {"images": count * size}},
    )
