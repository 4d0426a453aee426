"""UniMatch (Yang et al., CVPR 2023), with the losses of its medical scripts."""

import dataclasses
import functools

import jax

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import (
    clean_pass,
    confident,
    drop_channels,
    figures,
    stream_keys,
)
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
    drop: float = setting(
        0.5,
        "The probability that a channel of the weak view's features is dropped.",
        low=0,
        below=1,
    )


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = (L_x + (L_s1 + L_s2) / 4 + L_fp / 2) / 2`, each unlabelled term a Dice loss.

    L_s1 and L_s2 compare two strong views with the student's confident prediction of the weak view
    (`max p_w >= tau`, under stop-gradient), L_fp the prediction from the weak view's features with
    half of their channels dropped at every stage.

    Different from the published code: the other image of CutMix, and its pseudo label, come from
    the same batch and pass; perturbed features are decoded in a pass of their own, where theirs
    share one batch, and its statistics, with the clean ones; and neither that pass nor the strong
    views' moves the running statistics.
    """
    del teacher
    rng_keys, rng_views, rng_drop, rng_feature, rng_1, rng_2 = jax.random.split(context.key, 6)
    stats, unlabeled = student.batch_stats, batch["unlabeled"]
    join = functools.partial(parallel.concat_streams, shards=context.shards)
    keys_of = functools.partial(parallel.example_keys, index=unlabeled["index"])
    dice = functools.partial(losses.dice_loss, axis_name=context.axis_name)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, context)
    goal = confident(jax.nn.softmax(clean.logits), settings.threshold)

    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=2, cutmix=settings.cutmix
    )
    (x_1, goal_1), (x_2, goal_2) = views.mix(goal, *drawn)
    both, _ = student.forward(join(x_1, x_2), join(keys_of(rng_1), keys_of(rng_2)), stats)
    logits_1, logits_2 = parallel.split_streams(both, x_1.shape[0], context.shards)
    dropped = drop_channels(clean.features, settings.drop, keys_of(rng_drop))
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
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"confident": goal[1]}))
