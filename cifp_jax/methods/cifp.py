"""CIFP: cross-image feature perturbation and uncertainty-weighted pseudo-label fusion.

Given by the paper's abstract: consistency under image-level perturbation (S1), cross-image feature
perturbation of ambiguous unlabelled features by labelled ones (S2), and pseudo labels fused with
their uncertainty as the weight (S3). All else is reconstructed.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax import parallel
from cifp_jax.methods import attention, losses, views
from cifp_jax.methods.cifp_teacher import PseudoLabels, metrics_of, predict_pseudo_labels
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.fusion import Settings as Fusion
from cifp_jax.methods.fusion import fusion_loss
from cifp_jax.methods.shared import Clean, clean_pass
from cifp_jax.methods.views import Settings as Views
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of CIFP: those of its three parts, and of the loss as a whole."""

    perturbation: attention.Settings = dataclasses.field(default_factory=attention.Settings)
    fusion: Fusion = dataclasses.field(default_factory=Fusion)
    views: Views = dataclasses.field(default_factory=Views)
    present_only: bool = setting(
        True, "Whether the Dice of pseudo labels leaves out classes that these labels lack."
    )
    lambda_max: float = setting(1.0, "The weight of the unlabelled losses after the ramp.", low=0)
    ramp_steps: int = setting(6000, "The length of the ramp of that weight.", low=0, unit="steps")


class Keys(NamedTuple):
    """What each random part of a step draws from: a key for each example, or one for all."""

    labeled: Key[Array, " l"]
    exchange: Key[Array, " l"]
    unlabeled: Key[Array, " u"]
    perturb: Key[Array, " u"]
    feature: Key[Array, " u"]
    views: Key[Array, ""]
    strong: Key[Array, ""]


def draw_keys(key: Key[Array, ""], batch: Batch) -> Keys:
    """Parts the key of a step."""
    index_l, index_u = batch["labeled"]["index"], batch["unlabeled"]["index"]
    parts = jax.random.split(key, 7)
    return Keys(
        *(parallel.example_keys(part, index_l) for part in parts[:2]),
        *(parallel.example_keys(part, index_u) for part in parts[2:5]),
        *parts[5:],
    )


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = L_x + L_exchange + lambda(t) * (L_strong + L_feature) / 2` (the form is reconstructed).

    L_x is the supervised loss, L_strong the consistency of the strong views (S1) and L_feature that
    of the perturbed features (S2) with the fused pseudo labels (S3). L_exchange is there only where
    the perturbation is learned. Where there is no perturbation, L_strong stands for L_feature.

    Three student passes: labelled and weak unlabelled images together, which alone move the running
    statistics; the strong views; the weak views' features, perturbed. The last two are normalised
    by themselves, so that the running statistics describe images as they are at inference.

    There is no setting for "teacher off": a decay of 0 of the moving average makes the teacher the
    student of the step before, with running statistics and without dropout.
    """
    keys = draw_keys(context.key, batch)
    clean = clean_pass(student, batch, (keys.labeled, keys.unlabeled), context)
    drawn = views.strong_views(
        keys.views,
        batch["unlabeled"]["image"],
        batch["unlabeled"]["index"],
        count=settings.views.count,
        cutmix=settings.views.cutmix,
    )
    pseudo = predict_pseudo_labels(
        teacher,
        batch,
        clean.label,
        drawn[0][0],
        keys=keys.perturb,
        progress=losses.ramp_progress(context.step, settings.ramp_steps),
        shards=context.shards,
        perturbation=settings.perturbation,
        fusion=settings.fusion,
    )
    terms = {"supervised": clean.supervised}
    terms["strong"] = strong_loss(student, batch, clean, pseudo, drawn, keys, context, settings)
    if settings.perturbation.kind != "none":
        terms["feature"] = feature_loss(student, clean, pseudo, keys, context, settings)
    if settings.perturbation.kind == "learned":
        terms["exchange"] = exchange_loss(student, clean, keys, context, settings)

    weight = losses.consistency_weight(
        context.step, lambda_max=settings.lambda_max, ramp_steps=settings.ramp_steps
    )
    consistency = (terms["strong"] + terms.get("feature", terms["strong"])) / 2
    total = terms["supervised"] + terms.get("exchange", 0.0) + weight * consistency
    one = jnp.ones(())
    figures = {name: (value, one) for name, value in terms.items()}
    figures |= {"loss": (total, one), "lambda": (weight, one)}
    metrics = jax.lax.stop_gradient(figures | metrics_of(pseudo, context.axis_name))
    return total, (clean.batch_stats, metrics)


def strong_loss(
    student: Network,
    batch: Batch,
    clean: Clean,
    pseudo: PseudoLabels,
    drawn: tuple[list[Any], list[Any]],
    keys: Keys,
    context: Context,
    settings: Settings,
) -> Float[Array, ""]:
    """L_strong: the loss of the strong views, all in one batch, against what they show.

    `drawn` is what `views.strong_views` returned. A box may show a labelled image.
    """
    join = functools.partial(parallel.concat_streams, shards=context.shards)
    index, count = batch["unlabeled"]["index"], settings.views.count
    pasted = None
    if settings.views.cutmix_source == "labeled":
        labeled = batch["labeled"]
        box_keys = parallel.example_keys(jax.random.fold_in(keys.views, count), labeled["index"])
        image = jax.vmap(views.photometric)(box_keys, labeled["image"])
        shown = (image, (clean.label, jnp.ones(clean.label.shape[:-1])))
        pasted = parallel.take_partners(shown, index.shape[0], context.shards)
    goal = (pseudo.fused.target, pseudo.fused.reliability)
    image, (target, reliability) = functools.reduce(join, views.mix(goal, *drawn, pasted))
    dropout = [parallel.example_keys(k, index) for k in jax.random.split(keys.strong, count)]
    logits, _ = student.forward(image, functools.reduce(join, dropout), student.batch_stats)
    return fusion_loss(
        logits, target, reliability, context.axis_name, present_only=settings.present_only
    )


def feature_loss(
    student: Network,
    clean: Clean,
    pseudo: PseudoLabels,
    keys: Keys,
    context: Context,
    settings: Settings,
) -> Float[Array, ""]:
    """L_feature: the loss of the weak views' features, perturbed as the teacher's were."""
    changed = attention.perturb(
        settings.perturbation,
        pseudo.plan,
        clean.features,
        clean.features_l,
        keys=keys.perturb,
        weights=student.extra,
        shards=context.shards,
    )
    logits, _ = student.decode(changed, keys.feature, student.batch_stats)
    goal = (pseudo.fused.target, pseudo.fused.reliability)
    return fusion_loss(logits, *goal, context.axis_name, present_only=settings.present_only)


def exchange_loss(
    student: Network, clean: Clean, keys: Keys, context: Context, settings: Settings
) -> Float[Array, ""]:
    """L_exchange: the loss of labelled images that exchange tokens in pairs.

    It is what teaches the projections of the learned perturbation the true classes.
    """
    exchange = dataclasses.replace(
        settings.perturbation, key_source="unlabeled", gate="all", stop_source=False
    )
    layout: dict[str, Any] = {"keys": keys.exchange, "shards": context.shards}
    plan = attention.make_plan(
        exchange,
        clean.features_l,
        ambiguity=jnp.zeros(clean.label.shape[:-1]),
        probs=clean.label,
        label=None,
        progress=jnp.ones(()),
        **layout,
    )
    changed = attention.perturb(
        exchange, plan, clean.features_l, None, weights=student.extra, **layout
    )
    logits, _ = student.decode(changed, keys.labeled, student.batch_stats)
    return losses.segmentation_loss(logits, clean.label, 1.0, context.axis_name)


def init(
    key: Key[Array, ""], feature_channels: tuple[int, ...], settings: Settings
) -> dict[str, Any]:
    """Projections of the learned perturbation; no parameters of its own otherwise.

    Raises:
      ValueError: `heads` does not divide the channels of a stage.
    """
    if settings.perturbation.kind != "learned":
        return {}
    return attention.init_projections(key, feature_channels, settings.perturbation)


def pairs(settings: Settings) -> bool:
    """Whether an image needs a neighbour of its own stream; a labelled partner it always has."""
    pasted = settings.views.cutmix > 0 and settings.views.cutmix_source == "unlabeled"
    perturbation = settings.perturbation
    return pasted or perturbation.key_source == "unlabeled" or perturbation.kind == "learned"
