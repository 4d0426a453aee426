"""Cross pseudo supervision (Chen et al., CVPR 2021)."""

import dataclasses

import jax
import jax.numpy as jnp

from cifp_jax.methods import losses
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of cross pseudo supervision; the defaults are those of SSL4MIS for LA."""

    lambda_max: float = setting(0.1, "The weight of the cross supervision after the ramp.", low=0)
    ramp_steps: int = setting(6000, "The length of the ramp of that weight.", low=0, unit="steps")


def loss(
    student: tuple[Network, Network],
    teacher: Network,
    batch: Batch,
    context: Context,
    settings: Settings,
) -> Outcome:
    """`L = L_x(1) + L_x(2) + lambda(t) * (CE(p_1, argmax p_2) + CE(p_2, argmax p_1))`.

    Two networks of one form and different initialisations teach each other; the cross entropies are
    means over unlabelled voxels. Settings: those of SSL4MIS (for ACDC its ramp is 30,000 steps; the
    paper has a weight of 1.5 on natural images, and cross supervision of labelled images too).
    SSL4MIS draws the two initialisations from two distributions; here they differ by their key.
    The first network is the one evaluated, where SSL4MIS reports the better of the two.
    """
    del teacher
    first, second = (
        clean_pass(network, batch, stream_keys(key, batch), context)
        for network, key in zip(student, jax.random.split(context.key), strict=True)
    )
    labels = [confident(jax.nn.softmax(one.logits), 0.0)[0] for one in (first, second)]
    cross = sum(
        losses.cross_entropy(jax.nn.log_softmax(one.logits), label, 1.0, context.axis_name)
        for one, label in zip((first, second), labels[::-1], strict=True)
    )
    weight = losses.consistency_weight(
        context.since, lambda_max=settings.lambda_max, ramp_steps=settings.ramp_steps
    )
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
    return total, (stats, figures(terms, context.axis_name, {"agreement": agree}))
