"""What the methods share: the clean pass, confident pseudo labels, dropped features, figures."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax import parallel
from cifp_jax.methods.context import Batch, Context, Metrics
from cifp_jax.methods.losses import one_hot, segmentation_loss
from cifp_jax.models import layers
from cifp_jax.models.layers import Features
from cifp_jax.models.network import Network, Stats

Goal = tuple[Float[Array, "b *spatial k"], Float[Array, "b *spatial"]]
# The probability that a channel is dropped, and a key for each unlabelled example.
Drop = tuple[float, Key[Array, " u"]]


class Clean(NamedTuple):
    """What a student says of the images without a strong perturbation.

    Attributes:
      logits: of the weak unlabelled images.
      dropped: logits of the weak unlabelled images' features with dropped channels, if asked for.
      label: one-hot true label of the labelled images.
      supervised: `L_x = (CE + Dice) / 2`.
      batch_stats: the running statistics, moved by this pass.
    """

    logits: Float[Array, "u *spatial k"]
    dropped: list[Float[Array, "u *spatial k"]]
    label: Float[Array, "l *spatial k"]
    supervised: Float[Array, ""]
    batch_stats: Any


def stream_keys(key: Key[Array, ""], batch: Batch) -> tuple[Key[Array, " l"], Key[Array, " u"]]:
    """One key for each labelled and for each unlabelled example."""
    labeled, unlabeled = jax.random.split(key)
    return (
        parallel.example_keys(labeled, batch["labeled"]["index"]),
        parallel.example_keys(unlabeled, batch["unlabeled"]["index"]),
    )


def clean_pass(
    student: Network,
    batch: Batch,
    keys: tuple[Key[Array, " l"], Key[Array, " u"]],
    context: Context,
    *,
    drops: Sequence[Drop] = (),
    foreground_only: bool = False,
) -> Clean:
    """One pass over labelled and weak unlabelled images, normalised together.

    In most methods it is the only pass that moves the running statistics, so that they describe
    images as they are at inference, without strong perturbations.

    Args:
      student: the network.
      batch: of the step.
      keys: of the dropout of labelled and unlabelled images.
      context: of the step.
      drops: for each, the unlabelled images are decoded once more, see `decode_with_dropped`.
      foreground_only: whether the Dice of L_x leaves out the background.
    """
    labeled, shards = batch["labeled"], context.shards
    images = parallel.concat_streams(labeled["image"], batch["unlabeled"]["image"], shards)
    joined = parallel.concat_streams(*keys, shards)
    features, moved = student.encode(images, joined, student.batch_stats)
    count = labeled["image"].shape[0]
    if drops:
        logits, moved = decode_with_dropped(student, features, count, drops, moved, shards)
    else:
        joint, moved = student.decode(features, joined, moved)
        logits = parallel.split_streams(joint, count, shards)
    logits_l, logits_u, *dropped = logits
    label = one_hot(labeled["label"], logits_l.shape[-1])
    supervised = segmentation_loss(
        logits_l, label, 1.0, context.axis_name, foreground_only=foreground_only
    )
    return Clean(logits_u, dropped, label, supervised, moved)


def decode_with_dropped(
    student: Network,
    features: Features,
    count: int,
    drops: Sequence[Drop],
    stats: Stats,
    shards: int,
) -> tuple[list[Float[Array, "_ *spatial k"]], Stats]:
    """Decodes two streams and the second one with dropped channels, all normalised together.

    The decoder's own dropout is off, as it is in the published decoders where features are dropped.

    Args:
      student: the network.
      features: of two streams, joined by `parallel.concat_streams`.
      count: examples in the first stream.
      drops: how often the second stream is decoded once more, and what is dropped then.
      stats: batch statistics before this pass.
      shards: blocks in the batch, one a device.

    Returns:
      Logits of the first stream, of the second, and of each of its copies; and the statistics.
    """
    second = parallel.split_streams(features, count, shards)[1]
    copies = [drop_channels(second, rate, keys) for rate, keys in drops]
    join = functools.partial(parallel.concat_streams, shards=shards)
    rest, stats = student.decode(functools.reduce(join, copies, features), None, stats)
    parts = []
    for size in (count, *[second[0].shape[0]] * len(drops)):
        part, rest = parallel.split_streams(rest, size, shards)
        parts.append(part)
    return [*parts, rest], stats


def confident(probs: Float[Array, "b *spatial k"], threshold: float | Float[Array, ""]) -> Goal:
    """The hard pseudo label, one-hot, and its weight: 1 where `max p >= threshold`, else 0."""
    probs = jax.lax.stop_gradient(probs)
    weight = (jnp.max(probs, axis=-1) >= threshold).astype(probs.dtype)
    return one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1]), weight


def drop_channels(features: Features, rate: float, keys: Key[Array, " b"]) -> Features:
    """Channel dropout of every stage, by example; what is kept is divided by `1 - rate`."""
    return tuple(
        layers.dropout(z, rate, keys, stage, channels=True) for stage, z in enumerate(features)
    )


def figures(
    terms: dict[str, Float[Array, ""]],
    axis_name: str | None,
    shares: dict[str, Float[Array, "*_"]] | None = None,
) -> Metrics:
    """Metrics of a step: `terms` hold a global value already, `shares` are averaged globally."""
    pairs = {name: (value, jnp.ones(())) for name, value in terms.items()}
    for name, values in (shares or {}).items():
        total, count = jnp.sum(values), jnp.sum(jnp.ones_like(values))
        pairs[name] = (
            parallel.global_sum(total, axis_name),
            parallel.global_sum(count, axis_name),
        )
    return jax.lax.stop_gradient(pairs)
