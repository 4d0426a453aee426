"""Cross-image feature perturbation (given: S2; the mechanism is reconstructed).

Ambiguous tokens of an unlabelled image's feature maps are drawn towards a mix of tokens of labelled
images. Nothing here is used at inference, where no labelled image exists.

A perturbation is planned once, from the teacher's weak prediction, and then done twice: teacher and
student take the same gates and tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from cifp_jax import parallel
from cifp_jax.methods import tokens as tk
from cifp_jax.settings import Checked, setting

CHANNEL_DROPOUT = 0.5
GATE_STREAM = 100  # keeps the keys of random gates apart from those of tokens

Features = tuple[Float[Array, "_ ... _"], ...]


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """How features are perturbed."""

    kind: str = setting(
        "cross_image",
        "What is done to features. cross_image draws them towards tokens of labelled images, by an "
        "attention without parameters; learned does so with trained multi-head projections, which "
        "are also trained by decoding labelled images that exchange tokens in pairs (a term "
        "`L_exchange` of weight 1 against the true labels); channel_dropout drops half of the "
        "channels, and knows neither gate nor alpha; none leaves features alone, and then the "
        "strong views stand for both unlabelled losses.",
        options=("cross_image", "learned", "channel_dropout", "none"),
    )
    stages: tuple[int, ...] = setting(
        (3, 4, 5),
        "The encoder stages that are perturbed, from 1 (full resolution) to 5 (bottleneck).",
    )
    tokens: int = setting(
        256,
        "How many tokens are drawn from the key source; all of them where it has fewer.",
        low=1,
    )
    key_source: str = setting(
        "one",
        "Where tokens come from: the labelled partner (one), all labelled images on the device "
        "(bank), another unlabelled image (unlabeled), the image itself (self), or Gaussian noise "
        "(noise).",
        options=("one", "bank", "unlabeled", "self", "noise"),
    )
    sampling: str = setting(
        "uniform",
        "How tokens are drawn: each with the same chance (uniform), or each class with the same "
        "chance, shared among its tokens (class_balanced).",
        options=("uniform", "class_balanced"),
    )
    gate: str = setting(
        "top_half",
        "Which tokens are perturbed: the more ambiguous half (top_half), each as much as it is "
        "ambiguous (soft), those under a confidence that grows with the ramp (threshold), all of "
        "them (all), or a random half (random).",
        options=("top_half", "soft", "threshold", "all", "random"),
    )
    alpha: float = setting(
        1.0, "The strength of the perturbation: 0 is none, 1 replaces gated tokens.", low=0, high=1
    )
    tau: float = setting(
        0.1,
        "The temperature of the attention: towards 0 the nearest token is taken, towards infinity "
        "the mean of all.",
        above=0,
    )
    beta: float = setting(
        0.0, "The weight of the classes' agreement in the attention's logits.", low=0
    )
    heads: int = setting(
        4,
        "How many heads the learned attention has; their number divides each stage's channels.",
        low=1,
    )
    stop_source: bool = setting(
        True, "Whether gradients into the tokens of the key source are stopped."
    )

    def check_stages(self, depth: int) -> None:
        """Raises ValueError where a network of `depth` stages lacks one of the stages."""
        if not self.stages or not set(self.stages) <= set(range(1, depth + 1)):
            raise ValueError(
                f"config.methods.cifp.perturbation.stages={self.stages} must be some of 1 to "
                f"{depth}."
            )

    @property
    def attends(self) -> bool:
        """Whether features are drawn towards tokens."""
        return self.kind in ("cross_image", "learned")

    @property
    def needs_labeled(self) -> bool:
        """Whether features of labelled images are read at all."""
        return self.attends and self.key_source in ("one", "bank")


class StagePlan(NamedTuple):
    """What one stage's attention does, apart from the features themselves.

    Attributes:
      gate: g in [0, 1] of each token of the unlabelled map.
      positions: of the drawn tokens in the key source's map; None for noise.
      bias: added to the attention's logits; None where beta is 0.
    """

    gate: Float[Array, "b n"]
    positions: Int[Array, "b t"] | None
    bias: Float[Array, "b n t"] | None


def init_projections(
    rng: Key[Array, ""], feature_channels: tuple[int, ...], settings: Settings
) -> dict[str, Any]:
    """Projections of the chosen stages: near the identity, so that they start near `tokens.attend`.

    Raises:
      ValueError: `heads` does not divide a stage's channels, or there is no such stage.
    """
    settings.check_stages(len(feature_channels))
    stages = {}
    for stage in settings.stages:
        channels = feature_channels[stage - 1]
        if channels % settings.heads:
            raise ValueError(
                f"config.methods.cifp.perturbation.heads={settings.heads} does not divide the "
                f"{channels} channels of stage {stage}."
            )
        names = ("query", "key", "value", "output")
        keys = jax.random.split(jax.random.fold_in(rng, stage), len(names))
        stages[f"stage{stage}"] = {
            name: jnp.eye(channels)
            + 0.1 / math.sqrt(channels) * jax.random.normal(key, (channels, channels))
            for name, key in zip(names, keys, strict=True)
        }
    return stages


def _group(
    settings: Settings,
    unlabeled: Float[Array, "u n d"],
    labeled: Float[Array, "l n d"] | None,
    shards: int,
) -> Float[Array, "g m d"]:
    """Maps that tokens are drawn from, each for `u / g` successive unlabelled examples.

    `bank` holds all labelled examples of a device's block: it is the only source whose content
    depends on how many devices share the batch.
    """
    if settings.key_source == "unlabeled":
        return parallel.swap_pairs(unlabeled)
    if settings.key_source == "self":
        return unlabeled
    if labeled is None:
        raise ValueError(f"Key source {settings.key_source!r} needs the labelled images.")
    if settings.key_source == "bank":
        blocks = labeled.reshape((shards, -1, *labeled.shape[1:]))
        return blocks.reshape((shards, -1, *labeled.shape[2:]))
    return parallel.take_partners(labeled, unlabeled.shape[0], shards)


def _stage_keys(keys: Key[Array, " b"], stage: int) -> Key[Array, " b"]:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, stage)


def make_plan(
    settings: Settings,
    features: Features,
    *,
    ambiguity: Float[Array, "u *spatial"],
    probs: Float[Array, "u *spatial k"],
    label: Float[Array, "l *spatial k"] | None,
    keys: Key[Array, " u"],
    progress: Float[Array, ""],
    shards: int,
) -> dict[int, StagePlan]:
    """Gates, drawn positions and biases of the chosen stages; empty where nothing attends.

    Args:
      settings: their stages are checked here.
      features: of the unlabelled images; their shapes alone are read.
      ambiguity: u of the weak prediction, `H / log K`, at full resolution.
      probs: the weak prediction.
      label: one-hot true label of the labelled images; None where the source is not labelled.
      keys: one an unlabelled example.
      progress: of the ramp, in [0, 1].
      shards: blocks in the batch, one a device.
    """
    settings.check_stages(len(features))
    plans = {}
    if not settings.attends:
        return plans
    for stage in sorted(settings.stages):
        grid = features[stage - 1].shape[1:-1]
        # From stage to stage: the next grid divides this one.
        ambiguity, probs = tk.pool(ambiguity, grid), tk.pool(probs, grid)
        label = None if label is None else tk.pool(label, grid)
        draw_keys, gate_keys = _stage_keys(keys, stage), _stage_keys(keys, GATE_STREAM + stage)
        flat = ambiguity.reshape(ambiguity.shape[0], -1)
        make_gate = functools.partial(tk.make_gate, settings.gate, progress=progress)
        gate = jax.vmap(make_gate)(flat, gate_keys)
        if settings.key_source == "noise":
            plans[stage] = StagePlan(gate, None, None)
            continue
        own = tk.flatten(probs)
        groups = _group(settings, own, None if label is None else tk.flatten(label), shards)
        each = jnp.repeat(groups, own.shape[0] // groups.shape[0], axis=0)
        draw = functools.partial(
            tk.draw_positions, tokens=settings.tokens, sampling=settings.sampling
        )
        positions = jax.vmap(draw)(draw_keys, each)
        bias = None
        if settings.beta:
            bias = settings.beta * jnp.einsum("bnk,btk->bnt", own, tk.take(groups, positions))
        plans[stage] = StagePlan(gate, positions, bias)
    return plans


def _drop_channels(
    key: Key[Array, ""], z: Float[Array, "*spatial c"]
) -> Float[Array, "*spatial c"]:
    keep = jax.random.bernoulli(key, 1 - CHANNEL_DROPOUT, (z.shape[-1],))
    return jnp.where(keep, z / (1 - CHANNEL_DROPOUT), 0)


def perturb(
    settings: Settings,
    plan: dict[int, StagePlan],
    features: Features,
    labeled: Features | None,
    *,
    keys: Key[Array, " u"],
    weights: Mapping[str, Any],
    shards: int,
) -> Features:
    """Unlabelled features with the chosen stages perturbed: `z + alpha * g * (o - z)`.

    Args:
      settings: as for `make_plan`.
      plan: of `make_plan`.
      features: of the unlabelled images, full resolution first.
      labeled: of the labelled images; None where the key source does not need them.
      keys: as for `make_plan`; the same for student and teacher.
      weights: of `init_projections`, for the learned form.
      shards: blocks in the batch, one a device.
    """
    if settings.kind == "none":
        return features
    changed = list(features)
    for stage in settings.stages:
        z = features[stage - 1]
        if settings.kind == "channel_dropout":
            changed[stage - 1] = jax.vmap(_drop_channels)(_stage_keys(keys, stage), z)
            continue
        gate, positions, bias = plan[stage]
        query = tk.flatten(z)
        if positions is None:
            noise = functools.partial(tk.noise_tokens, tokens=settings.tokens)
            source = jax.vmap(noise)(_stage_keys(keys, stage), query)
        else:
            other = None if labeled is None else tk.flatten(labeled[stage - 1])
            source = tk.take(_group(settings, query, other, shards), positions)
        if settings.stop_source:
            source = jax.lax.stop_gradient(source)
        if settings.kind == "learned":
            pair = functools.partial(
                tk.attend_learned, weights=weights[f"stage{stage}"], heads=settings.heads
            )
        else:
            pair = tk.attend
        out = jax.vmap(functools.partial(pair, tau=settings.tau))(query, source, bias)
        moved = query + settings.alpha * gate[..., None] * (out - query)
        changed[stage - 1] = moved.reshape(z.shape)
    return tuple(changed)
