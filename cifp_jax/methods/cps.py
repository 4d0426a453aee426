"""Cross pseudo supervision (Chen et al., CVPR 2021)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax.methods import losses
from cifp_jax.methods.shared import Metrics, clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network


def loss(
    student: tuple[Network, Network],
    teacher: Network,
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    lambda_max: float = 0.1,
    ramp_steps: int = 6000,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = L_x(1) + L_x(2) + lambda(t) * (CE(p_1, argmax p_2) + CE(p_2, argmax p_1))`.

    Two networks of one form and different initialisations teach each other; the cross entropies are
    means over unlabelled voxels. Settings: those of SSL4MIS (for ACDC its ramp is 30,000 steps; the
    paper has a weight of 1.5 on natural images, and cross supervision of labelled images too).
    SSL4MIS draws the two initialisations from two distributions; here they differ by their key.
    The first network is the one evaluated, where SSL4MIS reports the better of the two.

    Args:
      student: the two networks that are trained.
      teacher: not read; the moving average of the first.
      batch: as for `cifp.loss`.
      rng: key of the step.
      step: number of the step, from 0.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      lambda_max: weight of the cross supervision after the ramp.
      ramp_steps: length of the ramp.

    Returns:
      The loss, and the two networks' moved batch statistics with the metrics: global
      `(sum, count)` pairs.
    """
    del teacher
    run = functools.partial(clean_pass, axis_name=axis_name, shards=shards)
    first, second = (
        run(network, batch, stream_keys(key, batch))
        for network, key in zip(student, jax.random.split(rng), strict=True)
    )
    labels = [confident(jax.nn.softmax(one.logits), 0.0)[0] for one in (first, second)]
    cross = sum(
        losses.cross_entropy(jax.nn.log_softmax(one.logits), label, 1.0, axis_name)
        for one, label in zip((first, second), labels[::-1], strict=True)
    )
    weight = losses.consistency_weight(step, lambda_max=lambda_max, ramp_steps=ramp_steps)
    supervised = first.supervised + second.supervised
    total = supervised + weight * cross
    agree = jnp.sum(labels[0] * labels[1], axis=-1)
    terms = {
        "loss": total,
        "supervised": first.supervised,
        "supervised_second": second.supervised,
        "cross": jnp.asarray(cross),
        "lambda": jnp.asarray(weight),
    }
    stats = (first.batch_stats, second.batch_stats)
    return total, (stats, figures(terms, axis_name, {"agreement": agree}))
