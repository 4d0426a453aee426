"""Random geometry of one example: a map of places, read once by image and label alike.

Each function takes one example and its key; `jax.vmap` maps it over a batch with one key an
example, so what an example becomes does not depend on how the batch lies on devices.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax.augmentation.settings import Settings

ELASTIC_GRID = 8  # points a side of the grid that displacements are drawn on


class Geometry(NamedTuple):
    """Where an augmented example is read from, in voxels around the centre of the source.

    Attributes:
      matrix: takes places of the result to places of the source, both from their centres.
      shift: added after that, voxels.
      bend: displacements of a coarse grid that spans the result, voxels.
    """

    matrix: Float[Array, "r r"]
    shift: Float[Array, " r"]
    bend: Float[Array, "r *coarse"]


def identity(rank: int) -> Geometry:
    """The geometry that changes nothing."""
    return Geometry(jnp.eye(rank), jnp.zeros(rank), jnp.zeros((rank,) + (ELASTIC_GRID,) * rank))


def plane_rotation(
    angle: Float[Array, ""], rank: int, plane: tuple[int, int]
) -> Float[Array, "r r"]:
    """Rotation by `angle` (radians) that takes the first axis of `plane` towards the second."""
    a, b = plane
    matrix = jnp.eye(rank)
    matrix = matrix.at[a, a].set(jnp.cos(angle)).at[b, b].set(jnp.cos(angle))
    return matrix.at[a, b].set(-jnp.sin(angle)).at[b, a].set(jnp.sin(angle))


def draw_geometry(key: Key[Array, ""], shape: tuple[int, ...], settings: Settings) -> Geometry:
    """Draws the geometry of one example whose result has the given spatial shape.

    In the plane of the first two axes any angle is drawn with the probability
    `settings.full_rotation`, otherwise one up to `settings.rotation` degrees either way; in 3D the
    other two planes are tilted by up to `settings.tilt` degrees. Scale, stretch, mirror image,
    translation and elastic displacement follow.
    """
    rank = len(shape)
    draw_key, bend_key = jax.random.split(key)
    # One draw of all numbers: each call of jax.random costs a good part of a second to compile.
    drawn = iter(jax.random.uniform(draw_key, (9 + 2 * rank,)))

    def between(low: float, high: float) -> Float[Array, ""]:
        return low + (high - low) * next(drawn)

    def happens(probability: float) -> Array:
        return next(drawn) < probability

    small = math.radians(settings.rotation)
    angle = jnp.where(
        happens(settings.full_rotation), between(-math.pi, math.pi), between(-small, small)
    )
    matrix = plane_rotation(angle, rank, (0, 1))
    if rank == 3:
        tilt = math.radians(settings.tilt)
        for plane in ((0, 2), (1, 2)):
            matrix = matrix @ plane_rotation(between(-tilt, tilt), rank, plane)
    probability, *sizes = settings.scale
    low, high = (math.log(size) for size in sizes)
    # A result that shows things larger reads its places closer together.
    zoom = jnp.where(happens(probability), jnp.exp(-between(low, high)), 1.0)
    stretch = math.log(settings.stretch)
    sides = jnp.stack([jnp.exp(between(-stretch, stretch)) for _ in range(rank)])
    sides = sides / jnp.exp(jnp.mean(jnp.log(sides)))  # the size is the zoom's alone
    mirrored = jnp.where(happens(settings.mirror), -1.0, 1.0)
    sides = sides * jnp.ones(rank).at[0].set(mirrored)
    shift = jnp.stack([between(-1.0, 1.0) for _ in range(rank)]) * settings.translation
    bend = jax.random.normal(bend_key, (rank,) + (ELASTIC_GRID,) * rank)
    strength = jnp.where(happens(settings.elastic_probability), settings.elastic, 0.0)
    length = jnp.array(shape, jnp.float32)
    return Geometry(
        matrix * (zoom * sides),
        shift * length,
        bend * strength * length.reshape((rank,) + (1,) * rank),
    )


def places(
    geometry: Geometry, source: tuple[int, ...], shape: tuple[int, ...]
) -> Float[Array, "r *shape"]:
    """Places in the source, in its voxels, that the voxels of a result of `shape` read."""
    axes = [jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2 for n in shape]
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"))
    middle = jnp.array([(n - 1) / 2 for n in source], jnp.float32) + geometry.shift
    bend = jax.image.resize(geometry.bend, (len(shape), *shape), "cubic")
    across = (len(shape),) + (1,) * len(shape)
    moved = jnp.tensordot(geometry.matrix, grid, 1, precision=jax.lax.Precision.HIGHEST)
    return moved + middle.reshape(across) + bend


def read_linear(
    image: Float[Array, "*source c"], at: Float[Array, "r *shape"]
) -> Float[Array, "*shape c"]:
    """The image at these places by (bi-, tri-)linear interpolation; outside of it stand zeros."""

    def channel(one: Float[Array, "*source"]) -> Float[Array, "*shape"]:
        return jax.scipy.ndimage.map_coordinates(one, list(at), order=1, mode="constant")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)


def read_nearest(
    label: Int[Array, "*source"], at: Float[Array, "r *shape"]
) -> Int[Array, "*shape"]:
    """The label at the voxel nearest to these places; outside of it stands the background."""
    return jax.scipy.ndimage.map_coordinates(label, list(at), order=0, mode="constant")
