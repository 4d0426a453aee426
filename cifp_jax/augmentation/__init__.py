"""Strong augmentation on the device: pure functions, one key an example, in 2D and in 3D."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax import parallel
from cifp_jax.augmentation import intensity, spatial
from cifp_jax.augmentation.settings import Settings
from cifp_jax.mesh import STRIDE

__all__ = ["Settings", "augment", "augment_batch", "carry", "source_size"]


def augment(
    keys: Key[Array, " b"],
    image: Float[Array, "b *source c"],
    shape: tuple[int, ...],
    settings: Settings,
) -> tuple[Float[Array, "b *shape c"], Float[Array, "b *shape c"], Float[Array, "b r *shape"]]:
    """Images under random geometry and gray values, the same before gray values change, and the
    places that they were read from.

    Args:
      keys: one an example.
      image: the sources, as large as the result or larger; what lies outside of them is zero.
      shape: spatial shape of the result, which is read around the middle of the source.
      settings: kinds and strengths.
    """

    def one(
        key: Key[Array, ""], image: Float[Array, "*source c"]
    ) -> tuple[Float[Array, "*shape c"], Float[Array, "*shape c"], Float[Array, "r *shape"]]:
        place_key, gray_key = jax.random.split(key)
        geometry = spatial.draw_geometry(place_key, shape, settings)
        at = spatial.places(geometry, image.shape[:-1], shape)
        moved = spatial.read_linear(image, at)
        return intensity.change(gray_key, moved, settings), moved, at

    return jax.vmap(one)(keys, image)


def carry(
    probs: Float[Array, "b *source k"], places: Float[Array, "b r *shape"]
) -> Float[Array, "b *shape k"]:
    """A prediction of the sources as one of the images that `augment` read at these places.

    It is read linearly; what lies outside of a source is background.
    """
    carried = jax.vmap(spatial.read_linear)(probs, places)
    # A rounding below zero would have no logarithm.
    return carried.at[..., 0].add(jnp.maximum(1 - carried.sum(axis=-1), 0))


def source_size(patch_size: Sequence[int], margin: float) -> tuple[int, ...]:
    """Sides of the crops that such patches are read from, voxels: multiples of `STRIDE`."""
    return tuple(STRIDE * math.ceil(side * margin / STRIDE) for side in patch_size)


def augment_batch(
    key: Key[Array, ""], batch: dict[str, Any], shape: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Both streams of a batch (`methods.context.Batch`), strongly augmented.

    Images are read linearly, labels at the nearest voxel of the same places. Of unlabelled images
    the gray values are left alone in one of two views, which pseudo labels are made of.

    Args:
      key: of the step; each example draws by its index in its stream.
      batch: images and labels of the size of `source_size`, or of the patch.
      shape: of the patch.
      settings: kinds and strengths.
    """
    size = tuple(shape)
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    keys = [
        parallel.example_keys(own, stream["index"])
        for own, stream in zip(jax.random.split(key), (labeled, unlabeled), strict=True)
    ]
    image, _, at = augment(keys[0], labeled["image"], size, settings)
    label = jax.vmap(spatial.read_nearest)(labeled["label"], at)
    strong, weak, places = augment(keys[1], unlabeled["image"], size, settings)
    seen = {"image": weak, "strong": strong, "places": places, "source": unlabeled["image"]}
    return {"labeled": labeled | {"image": image, "label": label}, "unlabeled": unlabeled | seen}
