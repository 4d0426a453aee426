"""Strong augmentation on the device: pure functions, one key an example, in 2D and in 3D."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.augmentation import intensity, spatial
from cifp_jax.augmentation.settings import Settings

__all__ = ["Settings", "augment", "augment_batch", "augment_labeled", "source_size"]


def _seen(
    key: Key[Array, ""],
    image: Float[Array, "*source c"],
    shape: tuple[int, ...],
    settings: Settings,
) -> tuple[Float[Array, "*shape c"], Float[Array, "r *shape"]]:
    """One image, augmented, and the places in the source that it was read from."""
    place_key, gray_key = jax.random.split(key)
    geometry = spatial.draw_geometry(place_key, shape, settings)
    at = spatial.places(geometry, image.shape[:-1], shape)
    return intensity.change(gray_key, spatial.read_linear(image, at), settings), at


def augment(
    keys: Key[Array, " b"],
    image: Float[Array, "b *source c"],
    shape: tuple[int, ...],
    settings: Settings,
) -> Float[Array, "b *shape c"]:
    """Unlabelled images under random geometry and gray values.

    Args:
      keys: one an example.
      image: the sources, as large as the result or larger; what lies outside of them is zero.
      shape: spatial shape of the result, which is read around the middle of the source.
      settings: kinds and strengths.
    """
    return jax.vmap(lambda k, x: _seen(k, x, shape, settings)[0])(keys, image)


def augment_labeled(
    keys: Key[Array, " b"],
    image: Float[Array, "b *source c"],
    label: Int[Array, "b *source"],
    shape: tuple[int, ...],
    settings: Settings,
) -> tuple[Float[Array, "b *shape c"], Int[Array, "b *shape"]]:
    """As `augment`, with the label under the same geometry: the image is read linearly, the label
    at the nearest voxel."""
    seen, at = jax.vmap(lambda k, x: _seen(k, x, shape, settings))(keys, image)
    return seen, jax.vmap(spatial.read_nearest)(label, at)


def source_size(patch_size: Sequence[int], margin: float) -> tuple[int, ...]:
    """Sides of the crops that patches of this size are read from, voxels."""
    return tuple(math.ceil(side * margin) for side in patch_size)


def augment_batch(
    key: Key[Array, ""], batch: dict[str, Any], shape: Sequence[int], settings: Settings
) -> dict[str, Any]:
    """Both streams of a batch (`methods.context.Batch`), strongly augmented.

    Args:
      key: of the step; each example draws by its index in its stream.
      batch: images and labels of the size of `source_size`, or of the patch.
      shape: of the patch.
      settings: kinds and strengths.
    """
    labeled, unlabeled = batch["labeled"], batch["unlabeled"]
    key_l, key_u = jax.random.split(key)
    size = tuple(shape)
    image, label = augment_labeled(
        parallel.example_keys(key_l, labeled["index"]),
        labeled["image"],
        labeled["label"],
        size,
        settings,
    )
    other = augment(
        parallel.example_keys(key_u, unlabeled["index"]), unlabeled["image"], size, settings
    )
    return {
        "labeled": labeled | {"image": image, "label": label},
        "unlabeled": unlabeled | {"image": other},
    }
