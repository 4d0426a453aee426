"""CrossMatch (Zhao et al., IEEE Journal of Biomedical and Health Informatics, 2024)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import (
    clean_pass,
    confident,
    decode_with_dropped,
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
        "learned from; where it changes, that of the start.",
        low=0,
        high=1,
    )
    threshold_end: float = setting(
        0.95, "The confidence that is needed at the end of the threshold's ramp.", low=0, high=1
    )
    threshold_steps: int = setting(
        0,
        "The length of the threshold's ramp; 0 leaves it at that of the start.",
        low=0,
        unit="steps",
    )
    cutmix: float = setting(
        0.5, "The probability of a CutMix box, in each of the two strong views.", low=0, high=1
    )
    cutmix_source: str = views.source_setting()
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
    foreground_only: bool = setting(
        False, "Whether each Dice loss, that of labelled images included, leaves out background."
    )


def threshold(step: Int[Array, ""], settings: Settings) -> Float[Array, ""]:
    """`tau(t) = tau_0 + (tau_1 - tau_0) r(t)`, `r(t) = exp(-5 (1 - t / t_tau)^2)` up to t_tau."""
    start, steps = settings.threshold, settings.threshold_steps
    rise = settings.threshold_end - start if steps else 0.0
    return start + losses.consistency_weight(step, lambda_max=rise, ramp_steps=steps)


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = (L_x + (L_s1 + L_s2) / 4 + d * L_kd) / 2`, each unlabelled term a Dice loss.

    Two more streams leave the decoder: features of every stage with a few (weak) and with most
    channels dropped (strong). On the weak view they give p_ww and p_ws, on the second strong view
    p_2w and p_2s; each pair is decoded, and normalised, in one batch with the clean and the weak
    images, or with the strong views. With y = the pseudo label of the clean stream where it is
    confident (`max p >= tau(t)`), y_ww and y_ws those of the two others, and a tilde for what is
    mixed by the view's CutMix box,

    `L_kd = (1 - eta) / 4 * (D(p_ww, y) + D(p_ws, y) + D(p_2w, y~) + D(p_2s, y~))
            + eta / 2 * (D(p_2w, y_ww~) + D(p_2s, y_ws~))`.

    Settings: the published ones of ACDC, whose tau is constant; on LA it grows from 0.75 log 2 =
    0.52 towards log 2 = 0.69 over 17,000 steps (an entropy, which that script compares confidences
    with), d is 1, and Dice losses are of the foreground alone. The scripts' optimizer (AdamW on LA,
    Nesterov momentum on ACDC) is left to `config.optimizer`. Boxes of labelled images
    (`cutmix_source`) are an addition.

    Different from the published code: the other image of CutMix and its pseudo labels come from the
    same batch and pass; and only the first of the two passes moves the running statistics.
    """
    del teacher
    rng_keys, rng_views, rng_boxes, *rngs = jax.random.split(context.key, 9)
    stats, shards, unlabeled = student.batch_stats, context.shards, batch["unlabeled"]
    join = functools.partial(parallel.concat_streams, shards=shards)
    keys_1, keys_2, *drop_keys = [parallel.example_keys(k, unlabeled["index"]) for k in rngs]
    rates = (settings.drop_weak, settings.drop_strong)
    clean = clean_pass(
        student,
        batch,
        stream_keys(rng_keys, batch),
        context,
        drops=list(zip(rates, drop_keys[:2], strict=True)),
        foreground_only=settings.foreground_only,
    )
    on_weak = [jax.nn.softmax(x) for x in clean.dropped]
    tau = threshold(context.since, settings)
    goals = [confident(p, tau) for p in (jax.nn.softmax(clean.logits), *on_weak)]

    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=2, cutmix=settings.cutmix
    )
    shown = views.shown_in_boxes(settings.cutmix_source, rng_boxes, batch, clean.label, shards)
    if shown is not None:  # a true label stands for the pseudo label of any stream
        shown = (shown[0], [shown[1]] * len(goals))
    # Every pseudo label is mixed by the boxes of both views; the first view needs only one.
    (x_1, (goal_1, *_)), (x_2, goals_2) = views.mix(goals, *drawn, shown)
    features, _ = student.encode(join(x_1, x_2), join(keys_1, keys_2), stats)
    drops = list(zip(rates, drop_keys[2:], strict=True))
    logits, _ = decode_with_dropped(student, features, x_1.shape[0], drops, stats, shards)
    probs_1, probs_2, *on_strong = (jax.nn.softmax(x) for x in logits)

    dice = functools.partial(
        losses.dice_loss, axis_name=context.axis_name, foreground_only=settings.foreground_only
    )
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
        "distillation": jnp.asarray(distilled),
        "threshold": jnp.asarray(tau),
    }
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"confident": goals[0][1]}))
