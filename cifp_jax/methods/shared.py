"""What the methods share: the clean pass, confident pseudo labels, dropped features, figures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax import parallel
from cifp_jax.methods.context import Batch, Context, Metrics
from cifp_jax.methods.losses import one_hot, segmentation_loss
from cifp_jax.models import layers
from cifp_jax.models.network import Network

Features = tuple[Float[Array, "b *_"], ...]
Goal = tuple[Float[Array, "b *spatial k"], Float[Array, "b *spatial"]]


class Clean(NamedTuple):
    """What a student says of the images without a strong perturbation.

    Attributes:
      features_l: of the labelled images, full resolution first.
      features: of the weak unlabelled images.
      logits: of the weak unlabelled images.
      label: one-hot true label of the labelled images.
      supervised: `L_x = (CE + Dice) / 2`.
      batch_stats: the running statistics, moved by this pass.
    """

    features_l: Features
    features: Features
    logits: Float[Array, "u *spatial k"]
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
) -> Clean:
    """One pass over labelled and weak unlabelled images, normalised together.

    In most methods it is the only pass that moves the running statistics, so that they describe
    images as they are at inference, without strong perturbations.
    """
    labeled, shards = batch["labeled"], context.shards
    images = parallel.concat_streams(labeled["image"], batch["unlabeled"]["image"], shards)
    joined = parallel.concat_streams(*keys, shards)
    features, moved = student.encode(images, joined, student.batch_stats)
    logits, moved = student.decode(features, joined, moved)
    count = labeled["image"].shape[0]
    features_l, features_u = parallel.split_streams(features, count, shards)
    logits_l, logits_u = parallel.split_streams(logits, count, shards)
    label = one_hot(labeled["label"], logits.shape[-1])
    supervised = segmentation_loss(logits_l, label, 1.0, context.axis_name)
    return Clean(features_l, features_u, logits_u, label, supervised, moved)


def confident(probs: Float[Array, "b *spatial k"], threshold: float) -> Goal:
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
