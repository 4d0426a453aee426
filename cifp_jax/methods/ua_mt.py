"""UA-MT, the uncertainty-aware mean teacher (Yu et al., MICCAI 2019)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import losses
from cifp_jax.methods.fusion import normalized_entropy
from cifp_jax.methods.mean_teacher import noisy
from cifp_jax.methods.shared import Metrics, clean_pass, figures, stream_keys
from cifp_jax.models.network import Network

THRESHOLD = (0.75, 1.0)  # of the largest entropy, at the start and at the end of its ramp


def loss(
    student: Network,
    teacher: Network,
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    passes: int = 8,
    lambda_max: float = 0.1,
    ramp_steps: int = 6000,
    threshold_steps: int = 6000,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = L_x + lambda(t) * sum_v M_v |p_v - p'_v|^2 / (K sum_v M_v)`, `M = [U < H(t)]`.

    `U = H(mean_t p'_t)`, the entropy of the mean of T stochastic passes of the teacher, each with
    noise and dropout of its own (Monte-Carlo dropout); p' is one more such pass.
    `H(t) = (3/4 + 1/4 r(t)) log K` with the ramp `r(t) = exp(-5 (1 - t / t_H)^2)`.
    Settings: those of the published LA script, whose ramps take 6,000 steps, all of them (on ACDC,
    SSL4MIS ramps the threshold over all 30,000 steps).

    Different from the published code: the largest entropy is log K for any number of classes,
    where the script for ACDC keeps log 2 with four; the T passes use running statistics; and the
    noise is measured in standard deviations of the image (see `mean_teacher`).

    Args:
      student: the network that is trained.
      teacher: its moving average; keys switch its dropout on.
      batch: as for `cifp.loss`.
      rng: key of the step.
      step: number of the step, from 0.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      passes: T.
      lambda_max: weight of the consistency after the ramp.
      ramp_steps: length of the weight's ramp.
      threshold_steps: t_H, length of the threshold's ramp.

    Returns:
      The loss, and the moved batch statistics with the metrics: global `(sum, count)` pairs.
    """
    rng_keys, rng_target, rng_passes = jax.random.split(rng, 3)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, axis_name=axis_name, shards=shards)
    unlabeled = batch["unlabeled"]

    def stochastic(key: Key[Array, ""]) -> Float[Array, "u *spatial k"]:
        rng_noise, rng_dropout = jax.random.split(key)
        image = noisy(unlabeled["image"], unlabeled["index"], rng_noise)
        dropout = parallel.example_keys(rng_dropout, unlabeled["index"])
        logits, _ = teacher.forward(image, dropout, teacher.batch_stats)
        return jax.lax.stop_gradient(jax.nn.softmax(logits))

    # A loop, so that one pass at a time is compiled and kept.
    total_probs, _ = jax.lax.scan(
        lambda total, key: (total + stochastic(key), None),
        jnp.zeros_like(clean.logits),
        jax.random.split(rng_passes, passes),
    )
    uncertainty = normalized_entropy(total_probs / passes)
    low, high = THRESHOLD
    ramp = losses.consistency_weight(step, lambda_max=1.0, ramp_steps=threshold_steps)
    certain = (uncertainty < low + (high - low) * ramp).astype(jnp.float32)
    consistency = losses.squared_error(
        jax.nn.softmax(clean.logits), stochastic(rng_target), certain, axis_name
    )
    weight = losses.consistency_weight(step, lambda_max=lambda_max, ramp_steps=ramp_steps)
    total = clean.supervised + weight * consistency
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "consistency": consistency,
        "lambda": jnp.asarray(weight),
    }
    return total, (clean.batch_stats, figures(terms, axis_name, {"certain": certain}))
