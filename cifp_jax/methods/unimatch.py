"""UniMatch (Yang et al., CVPR 2023), with the losses of its medical scripts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of UniMatch."""

    threshold: float = setting(
        0.95,
        "The confidence tau that a voxel's pseudo label needs in order to be learned from.",
        low=0,
        high=1,
    )
    cutmix: float = setting(
        0.5, "The probability of a CutMix box, in each of the two strong views.", low=0, high=1
    )
    cutmix_source: str = views.source_setting()
    drop: float = setting(
        0.5,
        "The probability that a channel of the weak view's features is dropped.",
        low=0,
        below=1,
    )
    ramp_steps: int = setting(
        0, "The length of the ramp of the unlabelled terms' weight.", low=0, unit="steps"
    )


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = (L_x + r(t) ((L_s1 + L_s2) / 4 + L_fp / 2)) / 2`, each unlabelled term a Dice loss.

    L_s1 and L_s2 compare two strong views with the student's confident prediction of the weak view
    (`max p_w >= tau`, under stop-gradient), L_fp the prediction from the weak view's features with
    half of their channels dropped at every stage, which are decoded in one batch, and normalised,
    with those of the clean images.

    r(t) is 1 in the published scripts, which have no ramp (`ramp_steps` 0). A short run wants one:
    the confident voxels of a network that has hardly been trained are nearly all background, and
    the first thousand steps, which hardly count in 30,000, are then most of the run.
    Boxes of labelled images (`cutmix_source`) are an addition too.

    Different from the published code: the other image of CutMix, and its pseudo label, come from
    the same batch and pass; the labelled images' features are not dropped as well, whose
    predictions are thrown away there but count in the statistics; and the strong views' pass moves
    no running statistics.
    """
    del teacher
    rng_keys, rng_views, rng_drop, rng_boxes, rng_1, rng_2 = jax.random.split(context.key, 6)
    stats, unlabeled = student.batch_stats, batch["unlabeled"]
    join = functools.partial(parallel.concat_streams, shards=context.shards)
    keys_of = functools.partial(parallel.example_keys, index=unlabeled["index"])
    dice = functools.partial(losses.dice_loss, axis_name=context.axis_name)
    keys = stream_keys(rng_keys, batch)
    drops = [(settings.drop, keys_of(rng_drop))]
    clean = clean_pass(student, batch, keys, context, drops=drops)
    goal = confident(jax.nn.softmax(clean.logits), settings.threshold)

    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=2, cutmix=settings.cutmix
    )
    shown = views.shown_in_boxes(
        settings.cutmix_source, rng_boxes, batch, clean.label, context.shards
    )
    (x_1, goal_1), (x_2, goal_2) = views.mix(goal, *drawn, shown)
    both, _ = student.forward(join(x_1, x_2), join(keys_of(rng_1), keys_of(rng_2)), stats)
    logits_1, logits_2 = parallel.split_streams(both, x_1.shape[0], context.shards)

    strong = (dice(jax.nn.softmax(logits_1), *goal_1) + dice(jax.nn.softmax(logits_2), *goal_2)) / 2
    feature = dice(jax.nn.softmax(clean.dropped[0]), *goal)
    weight = losses.consistency_weight(
        context.since, lambda_max=1.0, ramp_steps=settings.ramp_steps
    )
    total = (clean.supervised + weight * (strong + feature) / 2) / 2
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "strong": strong,
        "feature": feature,
        "lambda": jnp.asarray(weight),
    }
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"confident": goal[1]}))
