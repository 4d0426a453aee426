"""The ground floor: all that knows about devices.

A step is written once, for one batch, and runs in three ways: jitted on one device (`none`), jitted
over a mesh of all devices of all processes (`jit`), and pmapped over the devices of one process
(`pmap`). Three rules make the results equal:

* Sums over the batch go through `global_sum`, so that every mean is divided by a global count.
* Gradients are summed over devices, never averaged: each device's gradient holds its own share.
* The labelled and the unlabelled stream are joined inside each device's block, and an example's
  partner is a neighbour in the same block, so no image ever travels between devices.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from cifp_jax import host
from cifp_jax.mesh import DATA, SPACE, image_spec, make_mesh

MODES = ("jit", "pmap", "none")


def shard_count(mode: str, space: int = 1) -> int:
    """Number of blocks that the batch is cut into: one for each `space` devices, or one."""
    if mode not in MODES:
        raise ValueError(f"config.parallel is {mode!r}; known: {', '.join(MODES)}.")
    # To count processes would start the devices, which one process alone does later.
    if mode != "jit" and jax.distributed.is_initialized() and jax.process_count() > 1:
        raise ValueError(
            f"config.parallel={mode!r} keeps to one process; set config.parallel='jit'."
        )
    if mode != "jit" and space > 1:
        raise ValueError(
            f"config.spatial_partitions={space} needs config.parallel='jit', not {mode!r}."
        )
    return 1 if mode == "none" else make_mesh(space).shape[DATA]


def hardware() -> str:
    """What computes, for the record: `2 x NVIDIA ...`, or the cores of a CPU."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        count = host.cores()
        return f"{count} CPU core{'s' if count > 1 else ''}"
    return f"{jax.device_count()} x {device.device_kind}"


def psum(tree: PyTree, axis_name: str | None) -> PyTree:
    """Sum over the devices of a pmapped axis; the identity where there is none."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def global_sum(x: Float[Array, "*shape"], axis_name: str | None) -> Float[Array, "*shape"]:
    """Sum of `x` over devices, with a gradient that reaches this device's part only.

    The value is the same everywhere; adding up the devices' gradients then gives the gradient of
    that one value, for any function of such sums (a Dice ratio included).
    """
    if axis_name is None:
        return x
    return x + jax.lax.stop_gradient(jax.lax.psum(x, axis_name) - x)


def weighted_mean(
    values: Float[Array, "*shape"], weights: Float[Array, "..."], axis_name: str | None
) -> Float[Array, ""]:
    """Mean of `values` weighted by `weights` over all devices; 0 where all weights are 0."""
    weights = jnp.broadcast_to(weights, values.shape)
    total = global_sum(jnp.sum(weights * values), axis_name)
    return total / jnp.maximum(global_sum(jnp.sum(weights), axis_name), 1e-6)


def concat_streams(a: PyTree, b: PyTree, shards: int) -> PyTree:
    """Joins two batches along the first axis inside each of `shards` device blocks."""

    def join(x: Array, y: Array) -> Array:
        blocks = [t.reshape((shards, -1, *t.shape[1:])) for t in (x, y)]
        joined = jnp.concatenate(blocks, axis=1)
        return joined.reshape((-1, *joined.shape[2:]))

    return jax.tree.map(join, a, b)


def split_streams(x: PyTree, n_a: int, shards: int) -> tuple[PyTree, PyTree]:
    """Parts what `concat_streams` joined; `n_a` is the size of the first batch."""
    own = n_a // shards

    def part(t: Array, first: bool) -> Array:
        blocks = t.reshape((shards, -1, *t.shape[1:]))
        blocks = blocks[:, :own] if first else blocks[:, own:]
        return blocks.reshape((-1, *blocks.shape[2:]))

    return jax.tree.map(lambda t: part(t, True), x), jax.tree.map(lambda t: part(t, False), x)


def cut(batch: PyTree, count: int, shards: int) -> list[PyTree]:
    """Cuts a batch into `count` equal parts, each with its share of every device block."""

    def part(x: Array, number: int) -> Array:
        blocks = x.reshape((shards, count, -1, *x.shape[1:]))
        return blocks[:, number].reshape((-1, *x.shape[1:]))

    return [jax.tree.map(functools.partial(part, number=i), batch) for i in range(count)]


def random_numbers() -> Any:
    """Context, or decorator, that sets the form of random numbers of a run.

    Every draw has a key of its own example, so it never spans devices and needs no partitionable
    generator; the other one compiles six times faster on CPUs, and a step holds dozens of draws.
    """
    return jax.threefry_partitionable(False)


def example_keys(rng: Key[Array, ""], index: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key an example, from its position in the stream: the same on any device layout."""
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(index)


def swap_pairs(x: PyTree) -> PyTree:
    """Examples 2k and 2k + 1 exchange places: "another image of the batch" without communication.

    The streams are shuffled, so neighbours are a random pair.

    Raises:
      ValueError: the batch (of one device, under pmap) is odd.
    """

    def swap(t: Array) -> Array:
        if t.shape[0] % 2:
            raise ValueError(f"Images are mixed in pairs: {t.shape[0]} in a batch is odd; add one.")
        pairs = t.reshape((-1, 2, *t.shape[1:]))
        return pairs[:, ::-1].reshape(t.shape)

    return jax.tree.map(swap, x)


def take_partners(x: PyTree, unlabeled: int, shards: int) -> PyTree:
    """Of each unlabelled example its labelled partner's entry, number `floor(i * l / u)` of `x`.

    This rule (unlike `i mod l`) names the same partners on any device layout.

    Args:
      x: arrays with an entry for each of l labelled examples.
      unlabeled: their number u.
      shards: blocks in the batch; partners share one, so that no entry travels between devices.
    """

    def take(t: Array) -> Array:
        blocks = t.reshape((shards, -1, *t.shape[1:]))
        own = unlabeled // shards
        partner = jnp.arange(own) * blocks.shape[1] // own
        return jnp.take(blocks, partner, axis=1).reshape((unlabeled, *t.shape[1:]))

    return x if jax.tree.leaves(x)[0].shape[0] == unlabeled else jax.tree.map(take, x)


def on_each_device(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function(batch)` as each device's own work on its part of the batch, under `jit` too.

    For loops that end when their data says so: jitted over a mesh, they would ask all devices at
    each turn, and devices that ask in different orders wait forever. `pmap` parts them already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return function
    split = PartitionSpec(DATA)
    return jax.shard_map(function, in_specs=split, out_specs=split, check_vma=False)


def check_batch(sizes: Mapping[str, int], unit: int, mode: str, space: int = 1) -> None:
    """Raises ValueError where the devices do not divide the batch.

    Args:
      sizes: examples in a batch by the name of their setting.
      unit: what a device's share of each is a multiple of.
      mode: how the step runs.
      space: devices that share an image, and so a share of the batch.
    """
    shards = shard_count(mode, space)
    whole = unit * shards
    devices = "device(s)" if space == 1 else f"groups of {space} devices"
    for name, size in sizes.items():
        if size < 1 or size % whole:
            raise ValueError(
                f"config.data.{name}={size} cannot be cut into multiples of {unit} over {shards} "
                f"{devices}; use a multiple of {whole}, such as "
                f"{max(1, round(size / whole)) * whole}, or config.parallel='none'."
            )


def compile_step(
    step: Callable, mode: str, mesh: Mesh, *, shared: int = 0
) -> Callable[..., tuple[Any, Any]]:
    """`step(state, batch, *shared, axis_name, shards, mesh)` compiled for one of the three modes.

    The state has no device axis in any of them and is donated: use the returned one. So many more
    arguments as `shared` says follow the batch, each whole on every device (`replicate`) and kept.
    """
    if mode == "none":
        return jax.jit(step, donate_argnums=0)
    if mode == "pmap":
        mapped = functools.partial(step, axis_name=DATA)
        return jax.pmap(
            mapped,
            axis_name=DATA,
            in_axes=(None, 0, *[None] * shared),
            out_axes=(None, None),
            donate_argnums=0,
        )
    replicated, split = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(DATA)),
    )
    space = mesh if mesh.shape[SPACE] > 1 else None

    def traced(*arguments: Any) -> tuple[Any, Any]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # of which `on_each_device` asks
            return step(*arguments, shards=mesh.shape[DATA], mesh=space)

    return jax.jit(
        traced,
        in_shardings=(replicated, split, *[replicated] * shared),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )


def shard_batch(batch: PyTree, mode: str, mesh: Mesh) -> PyTree:
    """A process's NumPy batch as the arrays that the compiled step takes."""
    if mode == "jit":
        sharding = NamedSharding(mesh, PartitionSpec(DATA))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
    if mode == "pmap":
        devices = jax.local_device_count()
        return jax.tree.map(lambda x: x.reshape((devices, -1, *x.shape[1:])), batch)
    return batch


def replicate(tree: PyTree, mode: str, mesh: Mesh) -> PyTree:
    """A state, or what devices share, where the compiled step expects it: whole on each of them.

    Where the mesh spans processes, each hands in the same values.
    """
    if mode == "none":
        # On a named device, as what a checkpoint restores: else a resume would compile anew.
        return jax.device_put(tree, jax.local_devices()[0])
    if mode == "pmap":
        # As its results lie: else the second step would compile anew.
        mesh = Mesh(mesh.devices[:, 0], (DATA,), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    if whole.is_fully_addressable:
        return jax.device_put(tree, whole)
    # `device_put` refuses devices of other processes; a compiled identity takes each one's values.
    return jax.jit(lambda t: t, out_shardings=whole)(tree)


def map_batch(function: Callable[[Any, Any], Array], mesh: Mesh) -> Callable[[Any, Any], Array]:
    """`function(whole, batch)` compiled, each device of a mesh computing its part of the batch.

    `whole` is to be replicated over the mesh, which is worth doing once for many calls. The result
    lies on the mesh's first device.
    """
    whole, split = PartitionSpec(), PartitionSpec(DATA)
    mapped = jax.jit(
        jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(whole, split),
            out_specs=split,
            axis_names={DATA},  # the other axis is left to the partitioner
            check_vma=False,
        )
    )

    def run(replicated: Any, batch: Any) -> Array:
        parts = jax.tree.map(
            lambda x: jax.device_put(x, NamedSharding(mesh, image_spec(x.ndim))), batch
        )
        return jax.device_put(mapped(replicated, parts), mesh.devices.flat[0])

    return run


def free_memory() -> int | None:
    """Bytes left on the fullest device of this process; None where devices do not tell (CPUs)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s and "bytes_limit" in s]
    return min(free, default=None)


def to_host(tree: PyTree) -> Any:
    """Values of a tree as NumPy arrays; waits for the device."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
