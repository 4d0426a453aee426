"""UniMatch (Yang et al., CVPR 2023), with the losses of its medical scripts."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.shared import (
    Metrics,
    clean_pass,
    confident,
    drop_channels,
    figures,
    stream_keys,
)
from cifp_jax.models.network import Network


def loss(
    student: Network,
    teacher: Network,
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    threshold: float = 0.95,
    cutmix: float = 0.5,
    drop: float = 0.5,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = (L_x + (L_s1 + L_s2) / 4 + L_fp / 2) / 2`, each unlabelled term a Dice loss.

    L_s1 and L_s2 compare two strong views with the student's confident prediction of the weak view
    (`max p_w >= tau`, under stop-gradient), L_fp the prediction from the weak view's features with
    half of their channels dropped at every stage.

    Different from the published code: the other image of CutMix, and its pseudo label, come from
    the same batch and pass; perturbed features are decoded in a pass of their own, where theirs
    share one batch, and its statistics, with the clean ones; and neither that pass nor the strong
    views' moves the running statistics.

    Args:
      student: the network that is trained.
      teacher: not read.
      batch: as for `cifp.loss`.
      rng: key of the step.
      step: not read.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      threshold: tau.
      cutmix: probability of a box, in each of the two views.
      drop: probability that a channel is dropped.

    Returns:
      The loss, and the moved batch statistics with the metrics: global `(sum, count)` pairs.
    """
    del teacher, step
    rng_keys, rng_views, rng_drop, rng_feature, rng_1, rng_2 = jax.random.split(rng, 6)
    stats, unlabeled = student.batch_stats, batch["unlabeled"]
    join = functools.partial(parallel.concat_streams, shards=shards)
    keys_of = functools.partial(parallel.example_keys, index=unlabeled["index"])
    dice = functools.partial(losses.dice_loss, axis_name=axis_name)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, axis_name=axis_name, shards=shards)
    goal = confident(jax.nn.softmax(clean.logits), threshold)

    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=2, cutmix=cutmix
    )
    (x_1, goal_1), (x_2, goal_2) = views.mix(goal, *drawn)
    both, _ = student.forward(join(x_1, x_2), join(keys_of(rng_1), keys_of(rng_2)), stats)
    logits_1, logits_2 = parallel.split_streams(both, x_1.shape[0], shards)
    dropped = drop_channels(clean.features, drop, keys_of(rng_drop))
    logits_f, _ = student.decode(dropped, keys_of(rng_feature), stats)

    strong = (dice(jax.nn.softmax(logits_1), *goal_1) + dice(jax.nn.softmax(logits_2), *goal_2)) / 2
    feature = dice(jax.nn.softmax(logits_f), *goal)
    total = (clean.supervised + (strong + feature) / 2) / 2
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "strong": strong,
        "feature": feature,
    }
    return total, (clean.batch_stats, figures(terms, axis_name, {"confident": goal[1]}))
