"""The largest connected component, inside a compiled step."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cifp_jax import parallel


def _spread(ids: Int[Array, "*spatial"], mask: Bool[Array, "*spatial"]) -> Int[Array, "*spatial"]:
    """Each voxel of the mask takes the largest number around it, and then that number's own."""
    for axis in range(ids.ndim):
        widths = [(1, 1) if a == axis else (0, 0) for a in range(ids.ndim)]
        padded = jnp.pad(ids, widths)
        ids = functools.reduce(
            jnp.maximum,
            [jax.lax.slice_in_dim(padded, i, i + ids.shape[axis], axis=axis) for i in range(3)],
        )
    ids = jnp.where(mask, ids, 0)
    # A number names a voxel of the component: what that voxel holds by now is as good, or larger.
    # It makes long components as quick as round ones.
    return jnp.where(mask, ids.reshape(-1)[jnp.maximum(ids - 1, 0)], 0)


def _components(mask: Bool[Array, "*spatial"]) -> Int[Array, "*spatial"]:
    """A number for each component, from 1 to the number of voxels; 0 outside of the mask.

    Voxels touch by a face, an edge or a corner. Every voxel starts with a number of its own, and
    numbers spread until nothing changes.
    """
    start = jnp.where(mask, jnp.arange(1, mask.size + 1, dtype=jnp.int32).reshape(mask.shape), 0)

    def changing(pair: tuple[Array, Array]) -> Bool[Array, ""]:
        return jnp.any(pair[0] != pair[1])

    ids, _ = jax.lax.while_loop(
        changing, lambda pair: (_spread(pair[0], mask), pair[0]), (_spread(start, mask), start)
    )
    return ids


def _count(ids: Int[Array, "*spatial"], mask: Bool[Array, "*spatial"]) -> Int[Array, " n"]:
    """Voxels of the mask with each number; none of the number 0."""
    within = mask.reshape(-1).astype(jnp.int32)
    return jnp.zeros((ids.size + 1,), jnp.int32).at[ids.reshape(-1)].add(within).at[0].set(0)


def largest_component(mask: Bool[Array, "*spatial"]) -> Bool[Array, "*spatial"]:
    """The largest component of one mask, where voxels touch by a face, an edge or a corner.

    An empty mask stays empty; of equally large ones, the one whose last voxel comes first in
    memory is taken.
    """
    ids = _components(mask)
    return mask & (ids == jnp.argmax(_count(ids, mask)))


def largest_foreground(label: Int[Array, "*spatial"], classes: int) -> Bool[Array, "*spatial"]:
    """Of the components of all classes together, the largest of those that hold most classes."""
    ids = _components(label > 0)
    voxels = [_count(ids, label == k) for k in range(1, classes)]
    held = functools.reduce(jnp.add, [(n > 0).astype(jnp.int32) for n in voxels])
    total = functools.reduce(jnp.add, voxels)
    best = jnp.argmax(jnp.where(held == jnp.max(held), total, 0))
    return (label > 0) & (ids == best)


def keep_largest(
    label: Int[Array, "b *spatial"], classes: int, of: str = "class"
) -> Int[Array, "b *spatial"]:
    """Keeps the largest component of each image; the rest becomes background.

    Args:
      label: classes, 0 for the background.
      classes: their number, background included.
      of: class, of each class; foreground, of all classes together, see `largest_foreground`.
    """

    def keep(label: Int[Array, "b *spatial"]) -> Int[Array, "b *spatial"]:
        if of == "foreground":
            kept = jax.vmap(functools.partial(largest_foreground, classes=classes))(label)
            return jnp.where(kept, label, 0)
        largest = jnp.zeros_like(label)
        for k in range(1, classes):
            largest = jnp.where(jax.vmap(largest_component)(label == k), k, largest)
        return largest

    return parallel.on_each_device(keep)(label)
