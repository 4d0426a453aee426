"""UA-MT, the uncertainty-aware mean teacher (Yu et al., MICCAI 2019)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float, Key

from cifp_jax import parallel
from cifp_jax.methods import losses
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.mean_teacher import noisy
from cifp_jax.methods.shared import clean_pass, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting

# Of the entropy, at the start and at the end of its ramp: shares of the largest of two classes.
THRESHOLD = (0.75 * math.log(2), math.log(2))


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of UA-MT; the defaults are those of the published LA script."""

    passes: int = setting(
        8,
        "The number T of the teacher's stochastic passes, whose mean tells what is certain.",
        low=1,
    )
    lambda_max: float = setting(0.1, "The weight of the consistency after the ramp.", low=0)
    ramp_steps: int = setting(6000, "The length of the ramp of that weight.", low=0, unit="steps")
    threshold_steps: int = setting(
        6000, "The length t_H of the ramp of the entropy's threshold.", low=0, unit="steps"
    )


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = L_x + lambda(t) * sum_v M_v |p_v - p'_v|^2 / (2 sum_v M_v)`, `M = [U < H(t)]`.

    `U = H(mean_t p'_t)` in nats, the entropy of the mean of T stochastic passes of the teacher,
    each with noise and dropout of its own (Monte-Carlo dropout, which keys switch on); p' is one
    more such pass, and the noise that of `mean_teacher`.
    `H(t) = (3/4 + 1/4 r(t)) log 2` with the ramp `r(t) = exp(-5 (1 - t / t_H)^2)`.

    Both 2s stand for any number of classes, as in the published scripts: with the four of ACDC,
    where the largest entropy is log 4, a voxel must be surer than with two.
    Settings: those of the published LA script, whose ramps take 6,000 steps, all of them (on ACDC,
    SSL4MIS ramps the threshold over all 30,000 steps).

    Different from the published code: the weight rises at every step, not every 150; and the T
    passes use running statistics.
    """
    rng_keys, rng_target, rng_passes = jax.random.split(context.key, 3)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, context)
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
        jax.random.split(rng_passes, settings.passes),
    )
    uncertainty = jnp.sum(entr(total_probs / settings.passes), axis=-1)
    low, high = THRESHOLD
    ramp = losses.consistency_weight(
        context.since, lambda_max=1.0, ramp_steps=settings.threshold_steps
    )
    certain = (uncertainty < low + (high - low) * ramp).astype(jnp.float32)
    # A sum over classes divided by two, from a mean over classes.
    consistency = (clean.logits.shape[-1] / 2) * losses.squared_error(
        jax.nn.softmax(clean.logits), stochastic(rng_target), certain, context.axis_name
    )
    weight = losses.consistency_weight(
        context.since, lambda_max=settings.lambda_max, ramp_steps=settings.ramp_steps
    )
    total = clean.supervised + weight * consistency
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "consistency": consistency,
        "lambda": jnp.asarray(weight),
    }
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"certain": certain}))
