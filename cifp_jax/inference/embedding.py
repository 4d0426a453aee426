"""A scan as one vector: what the network's bottleneck says about the foreground."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cifp_jax.config import Config
from cifp_jax.data import transforms
from cifp_jax.data.layouts import find_layout
from cifp_jax.data.whole_slices import slice_frame
from cifp_jax.models import make_network
from cifp_jax.models.network import bind

Describe = Callable[[Float[np.ndarray, "..."], Sequence[float]], Float[np.ndarray, " c"]]


def crop_around(
    image: Float[np.ndarray, "*s c"], center: Sequence[float], size: Sequence[int]
) -> Float[np.ndarray, "*size c"]:
    """A box of `size` around `center` (a share of each side), moved where it would leave the image.

    What the image lacks in size is filled up with zeros, the smaller half in front.
    """
    starts = [
        int(np.clip(round(share * side - length / 2), 0, max(side - length, 0)))
        for share, side, length in zip(center, image.shape, size, strict=False)
    ]
    return transforms.crop({"image": image}, starts, size)["image"]


def make_describer(config: Config) -> Callable[[dict[str, Any]], Describe]:
    """`describer(variables)` gives `describe(image, center) -> features`, compiled once for all.

    Features are the mean of the bottleneck's over its positions, weighted by the mean probability
    of foreground there. Of a scan, one window of the patch's size around `center` is seen; of
    slices, this window of each, or the whole of it, resized, where the layout resizes slices
    (ACDC). The device holds one batch at a time.

    `describe` takes an image (a, b, c) or (a, b, c, channels) and the centre as a share of each
    side, and returns a vector of as many numbers as the bottleneck has channels.
    """
    model, layout = make_network(**config.model.to_dict()), find_layout(config.data.name)
    patch, batch = tuple(config.data.patch_size), config.evaluation.batch

    @jax.jit
    def pooled(
        variables: dict[str, Any], x: Float[Array, "n *patch c"]
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        network = bind(model, variables["params"], variables["batch_stats"], train=False)
        maps, _ = network.encode(x, None, network.batch_stats)
        logits, _ = network.decode(maps, None, network.batch_stats)
        foreground = 1 - jax.nn.softmax(logits)[..., 0]
        block = tuple(n // m for n, m in zip(x.shape[1:-1], maps[-1].shape[1:-1], strict=True))
        weight = nn.avg_pool(foreground[..., None], block, block)[..., 0]
        places = tuple(range(1, weight.ndim))
        return (weight[..., None] * maps[-1]).sum(places), weight.sum(places)

    def windows(
        image: Float[np.ndarray, "..."], center: Sequence[float]
    ) -> Float[np.ndarray, "n *patch c"]:
        image = transforms.average_down({"image": image}, config.data.downsample)["image"]
        image = image.reshape(*image.shape[:3], -1)
        if layout.rank == 3:
            return crop_around(image, center, patch)[None]
        if layout.predicts_whole_slices:
            return slice_frame(config.data).see({"image": image[..., 0]}, patch)["image"][..., None]
        return np.stack([crop_around(one, center[1:], patch) for one in image])

    def describer(variables: dict[str, Any]) -> Describe:
        def describe(
            image: Float[np.ndarray, "..."], center: Sequence[float]
        ) -> Float[np.ndarray, " d"]:
            seen, on_device = windows(image, center), jax.device_put(variables)
            own = batch if layout.rank == 2 else 1
            total, weight = 0.0, 0.0
            for first in range(0, len(seen), own):
                part = seen[first : first + own].astype(np.float32)
                filled = np.pad(part, [(0, own - len(part)), *[(0, 0)] * (part.ndim - 1)])
                sums, weights = jax.device_get(pooled(on_device, jnp.asarray(filled)))
                total = total + sums[: len(part)].sum(axis=0)
                weight += weights[: len(part)].sum()
            return total / np.maximum(weight, 1e-12)

        return describe

    return describer
