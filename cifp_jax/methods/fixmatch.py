"""FixMatch (Sohn et al., NeurIPS 2020), as segmentation uses it (the baseline of UniMatch)."""

import dataclasses

import jax

from cifp_jax import parallel
from cifp_jax.methods import losses, views
from cifp_jax.methods.context import Batch, Context, Outcome
from cifp_jax.methods.shared import clean_pass, confident, figures, stream_keys
from cifp_jax.models.network import Network
from cifp_jax.settings import Checked, setting


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """The settings of FixMatch."""

    threshold: float = setting(
        0.95,
        "The confidence tau that a voxel's pseudo label needs in order to be learned from.",
        low=0,
        high=1,
    )
    cutmix: float = setting(
        0.5, "The probability of a CutMix box in the strong view.", low=0, high=1
    )
    cutmix_source: str = views.source_setting()


def loss(
    student: Network, teacher: Network, batch: Batch, context: Context, settings: Settings
) -> Outcome:
    """`L = (L_x + L_s) / 2`, `L_s = mean_v [max p_w >= tau] CE(p_s, argmax p_w)`.

    p_w is the student's own prediction of the weak view, under stop-gradient, p_s that of the
    strong view. The mean is over all unlabelled voxels, the unsure ones included. Boxes of labelled
    images (`cutmix_source`) are an addition.

    Different from the published code: the other image of CutMix comes from the same batch, and its
    pseudo label from the same pass, where that code predicts it in a pass of its own with running
    statistics; and the strong views' pass moves no running statistics, as theirs does.
    """
    del teacher
    rng_keys, rng_views, rng_strong, rng_boxes = jax.random.split(context.key, 4)
    keys = stream_keys(rng_keys, batch)
    clean = clean_pass(student, batch, keys, context)
    goal = confident(jax.nn.softmax(clean.logits), settings.threshold)
    unlabeled = batch["unlabeled"]
    drawn = views.strong_views(
        rng_views, unlabeled["image"], unlabeled["index"], count=1, cutmix=settings.cutmix
    )
    shown = views.shown_in_boxes(
        settings.cutmix_source, rng_boxes, batch, clean.label, context.shards
    )
    ((x_s, (target, sure)),) = views.mix(goal, *drawn, shown)
    keys_s = parallel.example_keys(rng_strong, unlabeled["index"])
    logits_s, _ = student.forward(x_s, keys_s, student.batch_stats)
    # Weights inside the target: the mean stays one over all voxels.
    target = target * sure[..., None]
    strong = losses.cross_entropy(jax.nn.log_softmax(logits_s), target, 1.0, context.axis_name)
    total = (clean.supervised + strong) / 2
    terms = {"loss": total, "supervised": clean.supervised, "strong": strong}
    return total, (clean.batch_stats, figures(terms, context.axis_name, {"confident": goal[1]}))
