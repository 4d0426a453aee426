"""CIFP: cross-image feature perturbation and uncertainty-weighted pseudo-label fusion.

Given by the paper's abstract: consistency under image-level perturbation (S1), cross-image feature
perturbation of ambiguous unlabelled features by labelled ones (S2), and pseudo labels fused with
their uncertainty as the weight (S3). All else is reconstructed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from cifp_jax import augmentation, parallel
from cifp_jax.methods import feature_perturbation, losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.feature_perturbation import Settings as Perturbation
from cifp_jax.methods.fusion import Settings as Fusion
from cifp_jax.methods.fusion import fuse, normalized_entropy
from cifp_jax.methods.largest_component import keep_largest
from cifp_jax.methods.shared import figures, stream_keys
from cifp_jax.models.layers import Features
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of CIFP: those of its perturbation, of its fusion, and of the loss."""

    perturbation: Perturbation = dataclasses.field(default_factory=Perturbation)
    fusion: Fusion = dataclasses.field(default_factory=Fusion)
    criterion: str = setting(
        "ce_dice",
        "The loss of unlabelled images: (CE + Dice) / 2 over the classes that their pseudo labels "
        "hold (ce_dice), or the cross entropy alone (ce).",
        options=("ce_dice", "ce"),
    )
    largest_component: str = setting(
        "",
        "What is kept of a pseudo label: the largest component of each class (class), of all "
        "classes together (foreground), or all of it (empty).",
        options=("", "class", "foreground"),
    )
    lambda_max: float = setting(1.0, "The weight of the unlabelled loss after the ramp.", low=0)
    ramp_steps: int = setting(6000, "The length of the ramp of that weight.", low=0, unit="steps")


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = L_x + lambda(t) L_u` (the form is reconstructed).

    One student pass over labelled and unlabelled images side by side, both perturbed as images
    (S1) and normalised together, the ambiguous features of the unlabelled ones perturbed by
    labelled ones (S2). L_x = (CE + Dice) / 2 is the loss of the labelled images, L_u that of the
    unlabelled ones against the one-hot argmax of the pseudo labels, of which the largest component
    may be kept alone, each voxel weighted by
    `R = exp(-gamma U)` with its uncertainty `U = H(p^) / log K` (S3).

    The strong recipe has perturbed both streams already; under the weak one, which leaves gray
    values as they are, both are changed photometrically here.
    """
    labeled, unlabeled, shards = batch["labeled"], batch["unlabeled"], context.shards
    rng_dropout, rng_views, rng_perturbation = jax.random.split(context.key, 3)
    if "strong" in unlabeled:
        ours, theirs = labeled["image"], unlabeled["strong"]
    else:
        keys_l, keys_u = stream_keys(rng_views, batch)
        change = jax.vmap(views.photometric)
        ours, theirs = change(keys_l, labeled["image"]), change(keys_u, unlabeled["image"])
    probs = predict_pseudo_labels(teacher, batch, settings.fusion)
    uncertainty = normalized_entropy(probs)
    reliability = jnp.exp(-settings.fusion.gamma * uncertainty)
    classes, count = probs.shape[-1], labeled["image"].shape[0]
    pseudo = jnp.argmax(probs, axis=-1)
    if settings.largest_component:
        pseudo = keep_largest(pseudo, classes, settings.largest_component)
    target = losses.one_hot(pseudo, classes)
    label = losses.one_hot(labeled["label"], classes)

    keys = parallel.concat_streams(*stream_keys(rng_dropout, batch), shards)
    joined = parallel.concat_streams(ours, theirs, shards)
    features, stats = student.encode(joined, keys, student.batch_stats)
    features, perturbed = perturb_features(
        features,
        label,
        target,
        uncertainty,
        parallel.example_keys(rng_perturbation, unlabeled["index"]),
        shards,
        settings.perturbation,
    )
    logits, stats = student.decode(features, keys, stats)
    logits_l, logits_u = parallel.split_streams(logits, count, shards)

    axis_name = context.axis_name
    supervised = losses.segmentation_loss(logits_l, label, 1.0, axis_name)
    if settings.criterion == "ce":
        log_probs = jax.nn.log_softmax(logits_u)
        consistency = losses.cross_entropy(log_probs, target, reliability, axis_name)
    else:
        consistency = losses.segmentation_loss(
            logits_u, target, reliability, axis_name, present_only=True
        )
    weight = losses.consistency_weight(
        context.since, lambda_max=settings.lambda_max, ramp_steps=settings.ramp_steps
    )
    total = supervised + weight * consistency
    terms = {
        "loss": total,
        "supervised": supervised,
        "consistency": consistency,
        "lambda": jnp.asarray(weight),
    }
    shares = {"uncertainty": uncertainty, "perturbed": perturbed}
    shares |= {f"pseudo_share_{c}": target[..., c] for c in range(1, classes)}
    return total, (stats, figures(terms, axis_name, shares))


def predict_pseudo_labels(
    teacher: Network, batch: Batch, settings: Fusion
) -> Float[Array, "u *spatial k"]:
    """The teacher's prediction of the unlabelled images, in the student's geometry (S3).

    It is the prediction of the image as it is, carried along by the geometry of the student's view;
    where members are fused, the second one is that of the view before its gray values are changed.
    The teacher uses running statistics and no dropout. Under the weak recipe the two are one.
    """
    unlabeled = batch["unlabeled"]

    def predict(image: Float[Array, "u *s c"]) -> Float[Array, "u *s k"]:
        logits, _ = teacher.forward(image, None, teacher.batch_stats)
        return jax.lax.stop_gradient(jax.nn.softmax(logits))

    if "places" not in unlabeled:
        return predict(unlabeled["image"])
    carried = augmentation.carry(predict(unlabeled["source"]), unlabeled["places"])
    if settings.kind == "none":
        return carried
    members = jnp.stack([carried, predict(unlabeled["image"])])
    if settings.kind == "mean":
        return jnp.mean(members, axis=0)
    return fuse(members, settings.temperature).probs


def perturb_features(
    features: Features,
    label: Float[Array, "l *spatial k"],
    target: Float[Array, "u *spatial k"],
    uncertainty: Float[Array, "u *spatial"],
    keys: Key[Array, " u"],
    shards: int,
    settings: Perturbation,
) -> tuple[Features, Float[Array, "u *grid"]]:
    """Features of both streams, those of the unlabelled images perturbed at one stage (S2).

    Each unlabelled image has its labelled partner by `parallel.take_partners`. Returned with 1 for
    each cell that was perturbed.

    Raises:
      ValueError: the network has no such stage.
    """
    if settings.stage > len(features):
        raise ValueError(
            f"config.methods.cifp.perturbation.stage is {settings.stage}, but must be one of the "
            f"network's stages, 1 to {len(features)}."
        )
    labeled, unlabeled = parallel.split_streams(
        features[settings.stage - 1], label.shape[0], shards
    )
    if settings.probability == 0:
        return features, jnp.zeros(unlabeled.shape[:-1])
    partners = parallel.take_partners((labeled, label), target.shape[0], shards)
    changed, perturbed = feature_perturbation.perturb(
        unlabeled,
        partners[0],
        target=target,
        label=partners[1],
        uncertainty=uncertainty,
        keys=keys,
        settings=settings,
    )
    joined = parallel.concat_streams(labeled, changed, shards)
    return (*features[: settings.stage - 1], joined, *features[settings.stage :]), perturbed
