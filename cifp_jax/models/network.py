"""What a method sees of a network: three callables and the statistics."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cifp_jax.mesh import spread
from cifp_jax.models.layers import KEPT, Keys

Stats = Mapping[str, Any]
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Network(NamedTuple):
    """A network bound to parameters. Each call takes batch statistics and returns new ones.

    To let a pass move the running statistics, return what it gave back; to keep it from doing so,
    drop that.

    Attributes:
      encode: `(x, keys, batch_stats) -> (features, batch_stats)`.
      decode: `(features, keys, batch_stats) -> (logits, batch_stats)`.
      forward: `(x, keys, batch_stats) -> (logits, batch_stats)`.
      batch_stats: the statistics at the start of the step; empty where images are normalised alone.
    """

    encode: Callable[[jax.Array, Keys | None, Stats], tuple[tuple[jax.Array, ...], Stats]]
    decode: Callable[[tuple[jax.Array, ...], Keys | None, Stats], tuple[jax.Array, Stats]]
    forward: Callable[[jax.Array, Keys | None, Stats], tuple[jax.Array, Stats]]
    batch_stats: Stats


def _is_kept(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """What convolutions make, the masks of dropout, and the sums of batch normalisation."""
    return parameters.get("name") == KEPT or primitive.name in ("reduce_sum", "psum")


def bind(
    model: nn.Module,
    params: Mapping[str, Any],
    batch_stats: Stats,
    *,
    train: bool,
    precision: str = "float32",
    remat: bool = False,
    mesh: Mesh | None = None,
) -> Network:
    """The network of `model` with these parameters.

    Args:
      model: a module with `encode`, `decode` and `__call__`.
      params: its parameters.
      batch_stats: statistics at the start of the step.
      train: True normalises with the batch's statistics; False with the running ones, which are
        then returned unchanged.
      precision: of images, features and products, one of `PRECISIONS`. Parameters, statistics,
        logits, and with them the losses, are float32 either way.
      remat: keep for the backward pass what convolutions make, and compute again what follows from
        it without one: normalised and activated, pooled, upsampled, joined. XLA's CPU compiler
        keeps what it wants either way.
      mesh: of the devices that images are cut over, where several share one.
    """
    dtype = PRECISIONS[precision]

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda a: a.astype(dtype), tree)

    def call(method: str) -> Callable[..., tuple[Any, Stats]]:
        def apply(x: Any, keys: Keys | None, stats: Stats) -> tuple[Any, Stats]:
            variables = {"params": cast(params), "batch_stats": stats}
            x = jax.tree.map(lambda a: spread(a, mesh), x)
            out: Any
            if train:
                out, moved = model.apply(
                    variables,
                    cast(x),
                    train=True,
                    keys=keys,
                    method=method,
                    mutable=["batch_stats"],
                )
                stats = jax.tree.map(
                    lambda old, new: new.astype(old.dtype), stats, moved.get("batch_stats", {})
                )
            else:
                out = model.apply(variables, cast(x), train=False, keys=keys, method=method)
            return out if method == "encode" else out.astype(jnp.float32), stats

        return jax.checkpoint(apply, policy=_is_kept) if remat else apply

    return Network(call("encode"), call("decode"), call("__call__"), batch_stats)
