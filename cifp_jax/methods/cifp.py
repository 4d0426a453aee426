"""CIFP: cross-image feature perturbation and uncertainty-weighted pseudo-label fusion.

Given by the paper's abstract: consistency under image-level perturbation (S1), cross-image feature
perturbation of ambiguous unlabelled features by labelled ones (S2), and pseudo labels fused with
their uncertainty as the weight (S3). All else is reconstructed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import attention, losses, views
from cifp_jax.methods.cifp_teacher import Metrics, metrics_of, teach
from cifp_jax.methods.fusion import fuse, fusion_loss
from cifp_jax.methods.options import check_option
from cifp_jax.methods.shared import clean_pass
from cifp_jax.models.network import Network


def loss(
    student: Network,
    teacher: Network,
    batch: dict[str, Any],
    *,
    rng: Key[Array, ""],
    step: Int[Array, ""],
    axis_name: str | None,
    shards: int,
    perturbation: str = "cross_image",
    stages: tuple[int, ...] = (3, 4, 5),
    tokens: int = 256,
    key_source: str = "one",
    sampling: str = "uniform",
    gate: str = "top_half",
    alpha: float = 1.0,
    tau: float = 0.1,
    beta: float = 0.0,
    heads: int = 4,
    stop_source: bool = True,
    fusion: str = "deviation",
    temperature: float = 1.0,
    gamma: float = 1.0,
    target: str = "hard",
    threshold: float = 0.95,
    strong_member: bool = False,
    strong_views: int = 1,
    cutmix: float = 1.0,
    cutmix_source: str = "labeled",
    present_only: bool = True,
    lambda_max: float = 1.0,
    ramp_steps: int = 6000,
) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
    """`L = L_x + lambda(t) * (L_strong + L_feature) / 2` (S1 to S3; the form is reconstructed).

    Three student passes: labelled and weak unlabelled images together, which alone move the running
    statistics; the strong views; the weak views' features, perturbed. The last two are normalised
    by themselves, as strong views in the same statistics made every variant fall. Where the
    perturbation is none, `L_strong` stands for the mean of both.

    There is no setting for "teacher off": a decay of 0 of the moving average makes the teacher the
    student of the step before, with running statistics and without dropout.

    Args:
      student: the network that is trained.
      teacher: its moving average, bound with `train=False`.
      batch: `labeled` with `image` `(l, *spatial, c)`, `label` `(l, *spatial)`, `index` `(l,)`;
        `unlabeled` with `image` `(u, *spatial, c)`, `index` `(u,)`. Images are weakly augmented.
      rng: key of the step.
      step: number of the step, from 0.
      axis_name: of the pmapped devices, or None.
      shards: blocks in the batch, one a device.
      perturbation: of features: cross_image; learned, with trained multi-head projections, which
        are also trained by decoding labelled images that exchange tokens in pairs (a term
        `L_exchange` of weight 1 against the true labels);
        channel_dropout, half of the channels of `stages`; none.
      stages: encoder stages that are perturbed, 1 (full resolution) to 5 (bottleneck).
      tokens: number of tokens drawn from the key source.
      key_source: where tokens come from: one, the labelled partner; bank, all labelled images on
        the device; unlabeled, another unlabelled image; self; noise, Gaussian.
      sampling: of tokens: uniform or class_balanced.
      gate: which tokens are perturbed: top_half (the more ambiguous), soft, threshold, all, random.
      alpha: strength of the perturbation; 0 is none, 1 replaces gated tokens.
      tau: temperature of the attention, above 0.
      beta: weight of the classes' agreement in the attention's logits.
      heads: of the learned attention.
      stop_source: whether gradients into the tokens (z_l) are stopped.
      fusion: weights of the members: entropy, kl, entropy_kl, deviation, mean, random, weak_only.
      temperature: of the fusion, in units of `1 / log2 K`.
      gamma: of the reliability; 0 makes every voxel count the same.
      target: hard or soft pseudo labels.
      threshold: confidence that weak_only asks for.
      strong_member: whether the teacher's prediction of the (first) strong view before mixing joins
        the fusion.
      strong_views: one or two.
      cutmix: probability of a box; 0 switches CutMix off.
      cutmix_source: what a box shows: labeled, the labelled partner under a photometric change,
        with its true label and R = 1; or unlabeled, another strong view and its pseudo label.
      present_only: whether the Dice of pseudo labels leaves out classes that they lack.
      lambda_max: weight of the unlabelled losses after the ramp.
      ramp_steps: length of the ramp.

    Returns:
      The loss, and the moved batch statistics with the metrics: global `(sum, count)` pairs.

    Raises:
      ValueError: a setting is none of the known names; its message names those.
    """
    check_option("cutmix_source", cutmix_source, ("labeled", "unlabeled"))
    settings = attention.Settings(
        perturbation=perturbation,
        stages=tuple(stages),
        tokens=tokens,
        key_source=key_source,
        sampling=sampling,
        gate=gate,
        alpha=alpha,
        tau=tau,
        beta=beta,
        heads=heads,
        stop_source=stop_source,
    )
    fuse_members = functools.partial(
        fuse,
        kind=fusion,
        temperature=temperature,
        gamma=gamma,
        target=target,
        threshold=threshold,
    )
    x_l, x_w = batch["labeled"]["image"], batch["unlabeled"]["image"]
    index_l, index_u = batch["labeled"]["index"], batch["unlabeled"]["index"]
    rngs = jax.random.split(rng, 7)
    keys_l, keys_exchange = (parallel.example_keys(k, index_l) for k in rngs[:2])
    keys_u, keys_perturb, keys_feature = (parallel.example_keys(k, index_u) for k in rngs[2:5])
    rng_views, rng_strong = rngs[5:]
    stats = student.batch_stats
    join = functools.partial(parallel.concat_streams, shards=shards)
    loss_of = functools.partial(fusion_loss, axis_name=axis_name, present_only=present_only)

    clean = clean_pass(student, batch, (keys_l, keys_u), axis_name=axis_name, shards=shards)
    features_l, features_u, label = clean.features_l, clean.features, clean.label
    terms = {"supervised": clean.supervised}

    # The teacher's pseudo labels.
    photos, boxes = views.strong_views(rng_views, x_w, index_u, count=strong_views, cutmix=cutmix)
    teaching = teach(
        teacher,
        settings,
        fuse_members,
        labeled=x_l,
        label=label,
        weak=x_w,
        strong=photos[0] if strong_member else None,
        keys=keys_perturb,
        progress=losses.ramp_progress(step, ramp_steps),
        shards=shards,
    )
    goal = (teaching.fused.target, teaching.fused.reliability)

    # The strong views, in one batch.
    pasted = None
    if cutmix_source == "labeled":
        keys = parallel.example_keys(jax.random.fold_in(rng_views, strong_views), index_l)
        shown = (jax.vmap(views.photometric)(keys, x_l), (label, jnp.ones(label.shape[:-1])))
        pasted = parallel.take_partners(shown, x_w.shape[0], shards)
    x_s, goal_s = functools.reduce(join, views.mix(goal, photos, boxes, pasted))
    keys = [parallel.example_keys(k, index_u) for k in jax.random.split(rng_strong, strong_views)]
    logits_s, _ = student.forward(x_s, functools.reduce(join, keys), stats)
    terms["strong"] = loss_of(logits_s, *goal_s)

    # The features of the weak views, perturbed as the teacher's were.
    perturb = functools.partial(attention.perturb, weights=student.extra, shards=shards)
    if perturbation != "none":
        changed = perturb(settings, teaching.plan, features_u, features_l, keys=keys_perturb)
        logits_f, _ = student.decode(changed, keys_feature, stats)
        terms["feature"] = loss_of(logits_f, *goal)

    # Labelled images exchange tokens in pairs: what teaches the projections the true classes.
    if perturbation == "learned":
        exchange = settings._replace(key_source="unlabeled", gate="all", stop_source=False)
        plan = attention.make_plan(
            exchange,
            features_l,
            ambiguity=jnp.zeros(label.shape[:-1]),
            probs=label,
            label=None,
            keys=keys_exchange,
            progress=jnp.ones(()),
            shards=shards,
        )
        changed = perturb(exchange, plan, features_l, None, keys=keys_exchange)
        logits_e, _ = student.decode(changed, keys_l, stats)
        terms["exchange"] = losses.segmentation_loss(logits_e, label, 1.0, axis_name)

    weight = losses.consistency_weight(step, lambda_max=lambda_max, ramp_steps=ramp_steps)
    consistency = (terms["strong"] + terms.get("feature", terms["strong"])) / 2
    total = terms["supervised"] + terms.get("exchange", 0.0) + weight * consistency
    one = jnp.ones(())
    figures = {name: (value, one) for name, value in terms.items()}
    figures |= {"loss": (total, one), "lambda": (weight, one)}
    metrics = jax.lax.stop_gradient(figures | metrics_of(teaching, axis_name))
    return total, (clean.batch_stats, metrics)


def init(rng: Key[Array, ""], feature_channels: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    """Projections of the learned perturbation; no parameters of its own otherwise.

    Raises:
      ValueError: `heads` does not divide the channels of a stage.
    """
    known = {k: v for k, v in settings.items() if k in attention.Settings._fields}
    chosen = attention.Settings(**known)
    if chosen.perturbation != "learned":
        return {}
    return attention.init_projections(rng, feature_channels, chosen)


def pairs(
    *, perturbation: str, key_source: str, cutmix: float, cutmix_source: str, **settings: Any
) -> bool:
    """Whether an image needs a neighbour of its own stream; a labelled partner it always has."""
    del settings
    pasted = cutmix > 0 and cutmix_source == "unlabeled"
    return pasted or key_source == "unlabeled" or perturbation == "learned"
