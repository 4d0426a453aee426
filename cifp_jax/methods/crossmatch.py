"""CrossMatch (Zhao et al., IEEE Journal of Biomedical and Health Informatics, 2024)."""

import dataclasses
import functools

import jax
from jaxtyping import Array, Float

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
    """The settings of CrossMatch; the defaults are the published ones of ACDC."""

    threshold: float = setting(
        0.95,
        "The confidence tau that a voxel's pseudo label, of any stream, needs in order to be "
        "learned from.",
        low=0,
        high=1,
    )
    cutmix: float = setting(
        0.5, "The probability of a CutMix box, in each of the two strong views.", low=0, high=1
    )
    drop_weak: float = setting(
        0.25, "The probability that the weak stream drops a channel.", low=0, below=1
    )
    drop_strong: float = setting(
        0.75, "The probability that the strong stream drops a channel.", low=0, below=1
    )
    eta: float = setting(
        0.3,
        "The share of the distillation in which a stream learns from the like stream of the weak "
        "view; in the rest it learns from the clean stream.",
        low=0,
        high=1,
    )
    distill: float = setting(0.5, "The weight d of the distillation `L_kd`.", low=0)


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = (L_x + (L_s1 + L_s2) / 4 + d * L_kd) / 2`, each unlabelled term a Dice loss.

    Two more streams leave the decoder: features of every stage with a few (weak) and with most
    channels dropped (strong). On the weak view they give p_ww and p_ws, on the second strong view
    p_2w and p_2s. With y = the confident pseudo label of the clean stream, y_ww and y_ws those of
    the two others, and a tilde for what is mixed by the view's CutMix box,

    `L_kd = (1 - eta) / 4 * (D(p_ww, y) + D(p_ws, y) + D(p_2w, y~) + D(p_2s, y~))
            + eta / 2 * (D(p_2w, y_ww~) + D(p_2s, y_ws~))`.

    Settings: the published ones of ACDC; on LA tau is 0.75 and d 1. Not taken over from the
    scripts: their optimizer (AdamW on LA, Nesterov momentum on ACDC), and on LA a threshold that
    grows during training up to `log 2`, an entropy that they compare confidences with.
    Also different: the other image of CutMix and its pseudo labels come from the same batch and
    pass; each stream is decoded by itself, where theirs share one batch and its statistics; and
    only the clean pass moves the running statistics.
    """
    del teacher
    rng_keys, rng_views, *rngs = jax.random.split(context.key, 12)
    stats, unlabeled = student.batch_stats, batch["unlabeled"]
    join = functools.partial(parallel.concat_streams, shards=context.shards)
    keys = [parallel.example_keys(k, unlabeled["index"]) for k in rngs]
    clean = clean_pass(student, batch, stream_keys(rng_keys, batch), context)

    def stream(
        features: tuple[Array, ...], rate: float, number: int
    ) -> Float[Array, "u *spatial k"]:
        dropped = drop_channels(features, rate, keys[number])
        return jax.nn.softmax(student.decode(dropped, keys[number + 1], stats)[0])

    rates = (settings.drop_weak, settings.drop_strong)
    on_weak = [stream(clean.features, rate, 2 * i) for i, rate in enumerate(rates)]
    goals = [confident(p, settings.threshold) for p in (jax.nn.softmax(clean.logits), *on_weak)]

    photos, boxes = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=2, cutmix=settings.cutmix
    )
    # Every pseudo label is mixed by the boxes of both views; the first view needs only one.
    (x_1, (goal_1, *_)), (x_2, goals_2) = views.mix(goals, photos, boxes)
    features, _ = student.encode(join(x_1, x_2), join(keys[8], keys[9]), stats)
    logits, _ = student.decode(features, join(keys[8], keys[9]), stats)
    part = functools.partial(parallel.split_streams, n_a=x_1.shape[0], shards=context.shards)
    _, features_2 = part(features)
    on_strong = [stream(features_2, rate, 4 + 2 * i) for i, rate in enumerate(rates)]

    dice = functools.partial(losses.dice_loss, axis_name=context.axis_name)
    probs_1, probs_2 = (jax.nn.softmax(x) for x in part(logits))
    strong = (dice(probs_1, *goal_1) + dice(probs_2, *goals_2[0])) / 2
    by_clean = [dice(p, *goals[0]) for p in on_weak] + [dice(p, *goals_2[0]) for p in on_strong]
    by_like = [dice(p, *goal) for p, goal in zip(on_strong, goals_2[1:], strict=True)]
    eta = settings.eta
    distilled = (1 - eta) * sum(by_clean) / 4 + eta * sum(by_like) / 2
    total = (clean.supervised + strong / 2 + settings.distill * distilled) / 2
    terms = {
        "loss": total,
        "supervised": clean.supervised,
        "strong": strong,
        "distillation": distilled,
    }
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"confident": goals[0][1]}))
