"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), as the field uses it for segmentation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import clean_pass, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


def noisy(
    image: Float[Array, "u *spatial c"], index: Int[Array, " u"], rng: Key[Array, ""]
) -> Float[Array, "u *spatial c"]:
    """The teacher's view: Gaussian noise of 0.1, clipped at 0.2, drawn by example.

    As in the published scripts it is the same whatever the scale of the intensities: on ACDC, in
    [0, 1], it is a strong one; LA has a standard deviation of 1.
    """
    add = functools.partial(views.noise, unit=1.0)
    return jax.vmap(add)(parallel.example_keys(rng, index), image)


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of the mean teacher; the defaults are those of the scripts for LA."""

    lambda_max: float = setting(0.1, "The weight of the consistency after the ramp.", low=0)
    ramp_steps: int = setting(6000, "The length of the ramp of that weight.", low=0, unit="steps")


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = L_x + lambda(t) * mean_v,c (p_c - p'_c)^2` over unlabelled voxels and classes.

    p is the student's prediction, p' that of its moving average of the same image with clipped
    Gaussian noise (see `noisy`). Equation: the paper's consistency cost with squared errors;
    settings: those of UA-MT's and SSL4MIS's mean-teacher scripts for LA (for ACDC the ramp is
    30,000 steps).

    Different from those scripts: the ramp rises at every step, not every 150, and from the first
    (on ACDC SSL4MIS leaves the consistency out for 1,000 steps); the teacher has running
    statistics, averaged as its parameters are, and no dropout, where theirs normalises by the
    batch.
    """
    rng_keys, rng_noise = jax.random.split(context.key)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, context)
    unlabeled = batch["unlabeled"]
    image = noisy(unlabeled["image"], unlabeled["index"], rng_noise)
    target = jax.nn.softmax(teacher.forward(image, None, teacher.batch_stats)[0])
    consistency = losses.squared_error(jax.nn.softmax(clean.logits), target, 1.0, context.axis_name)
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
    return total, (clean.batch_stats, figures(terms, context.axis_name))
