"""The teacher's part of CIFP: members, their fusion, and figures that describe both."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from cifp_jax import parallel
from cifp_jax.methods import attention
from cifp_jax.methods.context import Batch, Metrics
from cifp_jax.methods.fusion import Fused, fuse, normalized_entropy
from cifp_jax.methods.fusion import Settings as Fusion
from cifp_jax.models.network import Network


class PseudoLabels(NamedTuple):
    """What the teacher says about the weak views.

    Attributes:
      weak: its prediction `p_w`.
      perturbed: its prediction `p_f` from perturbed features; None without a perturbation.
      ambiguity: `H(p_w) / log K`.
      plan: of the perturbation, to be repeated by the student.
      fused: the pseudo label.
    """

    weak: Float[Array, "u *spatial k"]
    perturbed: Float[Array, "u *spatial k"] | None
    ambiguity: Float[Array, "u *spatial"]
    plan: dict[int, attention.StagePlan]
    fused: Fused


def predict_pseudo_labels(
    teacher: Network,
    batch: Batch,
    label: Float[Array, "l *spatial k"],
    strong: Float[Array, "u *spatial c"],
    *,
    keys: Key[Array, " u"],
    progress: Float[Array, ""],
    shards: int,
    perturbation: attention.Settings,
    fusion: Fusion,
) -> PseudoLabels:
    """Pseudo labels by the teacher, which uses running statistics and no dropout.

    Args:
      teacher: the moving average of the student.
      batch: with the weak views.
      label: one-hot true label of the labelled images.
      strong: a strong view of each image before mixing; read where it joins the fusion.
      keys: of the perturbation and of random weights of the fusion.
      progress: of the ramp, in [0, 1].
      shards: blocks in the batch, one a device.
      perturbation: how the teacher's features are perturbed.
      fusion: how its predictions become one.
    """

    def softmax(logits: Float[Array, "u *spatial k"]) -> Float[Array, "u *spatial k"]:
        return jax.lax.stop_gradient(jax.nn.softmax(logits))

    stats = teacher.batch_stats
    labeled, weak = batch["labeled"]["image"], batch["unlabeled"]["image"]
    if perturbation.needs_labeled:
        joined, _ = teacher.encode(parallel.concat_streams(labeled, weak, shards), None, stats)
        features_l, features = parallel.split_streams(joined, labeled.shape[0], shards)
    else:
        features_l, (features, _) = None, teacher.encode(weak, None, stats)
    members = [softmax(teacher.decode(features, None, stats)[0])]
    entropies = [normalized_entropy(members[0])]

    plan = attention.make_plan(
        perturbation,
        features,
        ambiguity=entropies[0],
        probs=members[0],
        label=label if perturbation.needs_labeled else None,
        keys=keys,
        progress=progress,
        shards=shards,
    )
    perturbed = None
    if perturbation.kind != "none":
        changed = attention.perturb(
            perturbation,
            plan,
            features,
            features_l,
            keys=keys,
            weights=teacher.extra,
            shards=shards,
        )
        perturbed = softmax(teacher.decode(changed, None, stats)[0])
        members.append(perturbed)
    if fusion.strong_member:
        members.append(softmax(teacher.forward(strong, None, stats)[0]))
    entropies += [normalized_entropy(p) for p in members[1:]]
    fused = fuse(jnp.stack(members), fusion, entropies=jnp.stack(entropies), keys=keys)
    return PseudoLabels(members[0], perturbed, entropies[0], plan, fused)


def metrics_of(pseudo: PseudoLabels, axis_name: str | None) -> Metrics:
    """Figures that show whether the perturbation perturbs and what the pseudo labels hold."""

    def share(
        values: Float[Array, "*shape"], where: Bool[Array, "*shape"] | None = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        mask = jnp.ones_like(values) if where is None else where.astype(values.dtype)
        total, count = jnp.sum(values * mask), jnp.sum(mask)
        return parallel.global_sum(total, axis_name), parallel.global_sum(count, axis_name)

    weak = jnp.argmax(pseudo.weak, axis=-1)
    fused = jnp.argmax(pseudo.fused.probs, axis=-1)
    metrics = {
        "reliability": share(pseudo.fused.reliability),
        "ambiguity": share(pseudo.ambiguity),
        "fused_differs": share((fused != weak).astype(jnp.float32)),
    }
    for c in range(1, pseudo.weak.shape[-1]):
        metrics[f"pseudo_share_{c}"] = share((fused == c).astype(jnp.float32))
    if pseudo.perturbed is not None:
        flipped = jnp.argmax(pseudo.perturbed, axis=-1) != weak
        metrics["flip_share"] = share(flipped.astype(jnp.float32), weak > 0)
        metrics["perturbed_weight"] = share(pseudo.fused.weights[1])
    return metrics
