"""A network as a StableHLO program that `jax.export.deserialize` loads, without this package."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from cifp_jax.models import make_network

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo_program(
    variables: Mapping[str, Any],
    network: Mapping[str, Any],
    *,
    patch_size: Sequence[int],
    channels: int,
) -> bytes:
    """The program, serialised: images (n, *patch_size, channels) to logits of the same sides.

    It is float32 both ways, takes any number of images, and holds the variables.

    Args:
      variables: `params` and `batch_stats`.
      network: name, classes, filters and normalization.
      patch_size: sides of an image, voxels.
      channels: of the images.
    """
    model = make_network(**network)
    held = jax.tree.map(jnp.asarray, dict(variables))
    (n,) = export.symbolic_shape("n")
    image = jax.ShapeDtypeStruct((n, *patch_size, channels), jnp.float32)
    forward = jax.jit(lambda x: model.apply(held, x, train=False))
    return bytes(export.export(forward, platforms=PLATFORMS)(image).serialize())
