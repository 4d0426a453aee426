"""The CIFP step in PyTorch, with the defaults of `cifp_jax.methods.cifp`, to be timed against it.

The same passes, losses, views and attention; random numbers differ, so values do not agree.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

STAGES, TOKENS, TAU, SMOOTH = (3, 4, 5), 256, 0.1, 1e-5


def segmentation_loss(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """`(CE + Dice) / 2` against one-hot targets, weighted by voxel where weights are given."""
    log_probs = functional.log_softmax(logits.float(), 1)
    probs = log_probs.exp()
    weights = torch.ones_like(probs[:, :1]) if weights is None else weights[:, None]
    entropy = -(weights * target * log_probs).sum() / weights.sum().clamp(min=1e-6)
    axes = [0, *range(2, logits.ndim)]
    truth = (weights * target).sum(axes)
    shared, own = (weights * probs * target).sum(axes), (weights * probs**2).sum(axes)
    dice = 1 - (2 * shared + SMOOTH) / (own + truth + SMOOTH)
    present = (truth > 0).float()
    return (entropy + (present * dice).sum() / present.sum().clamp(min=1)) / 2


def photometric(x: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast, blur; in 3D gamma and noise too. One draw an example."""
    one = [len(x)] + [1] * (x.ndim - 1)
    axes = tuple(range(1, x.ndim))

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(one, device=x.device).uniform_(low, high)

    dark, mean = x.amin(axes, keepdim=True), x.mean(axes, keepdim=True)
    brightness, contrast = draw(0.5, 1.5), draw(0.5, 1.5)
    middle = dark + brightness * (mean - dark)
    changed = middle + contrast * (dark + brightness * (x - dark) - middle)
    x = torch.where(draw(0, 1) < 0.8, changed, x)
    if x.ndim == 5:
        low = x.amin(axes, keepdim=True)
        width = (x.amax(axes, keepdim=True) - low).clamp(min=1e-6)
        x = low + width * ((x - low) / width) ** draw(-0.5, 0.5).exp()
    blurred, sigma = x, draw(0.1, 2).reshape(-1, 1, 1)
    for axis in range(2, x.ndim):
        position = torch.arange(x.shape[axis], device=x.device)
        weights = torch.exp(-0.5 * ((position[:, None] - position)[None] / sigma) ** 2)
        weights = weights / weights.sum(2, keepdim=True)
        rows = blurred.movedim(axis, -1)
        flat = rows.reshape(len(x), -1, rows.shape[-1]) @ weights.transpose(1, 2)
        blurred = flat.reshape(rows.shape).movedim(-1, axis)
    x = torch.where(draw(0, 1) < 0.5, blurred, x)
    if x.ndim == 5:
        x = x + x.std(axes, keepdim=True) * (0.1 * torch.randn_like(x)).clamp(-0.2, 0.2)
    return x


def box_masks(count: int, spatial: Sequence[int], device: Any) -> torch.Tensor:
    """A box of 2 to 40 % of each image."""
    mask = torch.zeros((count, *spatial), dtype=torch.bool, device=device)
    for i in range(count):
        share = (0.02 + 0.38 * torch.rand(())).item() ** (1 / len(spatial))
        sides = [max(1, round(n * share)) for n in spatial]
        starts = [int(torch.randint(n - s + 1, ())) for n, s in zip(spatial, sides, strict=True)]
        where = tuple(slice(a, a + s) for a, s in zip(starts, sides, strict=True))
        mask[(i, *where)] = True
    return mask


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """`H(p) / log K`."""
    return torch.special.entr(probs).sum(1) / math.log(probs.shape[1])


def make_plan(
    features: Sequence[torch.Tensor], ambiguity: torch.Tensor
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Gates (the more ambiguous half) and drawn positions of every stage."""
    plan = {}
    for stage in STAGES:
        grid = features[stage - 1].shape[2:]
        pool = functional.adaptive_avg_pool3d if len(grid) == 3 else functional.adaptive_avg_pool2d
        flat = pool(ambiguity[:, None], grid).flatten(1)
        ranks = flat.argsort(1).argsort(1)
        draws = torch.rand_like(flat).argsort(1)[:, :TOKENS]
        plan[stage] = ((ranks >= flat.shape[1] // 2).float(), draws)
    return plan


def perturb(
    plan: dict[int, tuple[torch.Tensor, torch.Tensor]],
    features: Sequence[torch.Tensor],
    labeled: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Attention from unlabelled features to drawn tokens of the labelled partner."""
    changed = list(features)
    for stage, (gate, positions) in plan.items():
        z = features[stage - 1]
        query = z.flatten(2).transpose(1, 2)
        source = labeled[stage - 1].detach().flatten(2).transpose(1, 2)
        source = source.gather(1, positions[..., None].expand(-1, -1, source.shape[2]))
        logits = functional.normalize(query, dim=2) @ functional.normalize(source, dim=2).mT / TAU
        moved = query + gate[..., None] * (logits.softmax(2) @ source - query)
        changed[stage - 1] = moved.transpose(1, 2).reshape(z.shape)
    return changed


def fuse(weak: torch.Tensor, perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hard pseudo label (one-hot) and reliability; weights by deviation from the weak member."""
    members = torch.stack([weak, perturbed])
    tiny = torch.finfo(weak.dtype).tiny
    uncertainty = torch.stack([entropy(m) for m in members])
    uncertainty[1] += (weak * (weak.clamp(min=tiny).log() - perturbed.clamp(min=tiny).log())).sum(1)
    weights = torch.softmax(-uncertainty * math.log2(weak.shape[1]), 0)[:, :, None]
    fused = (weights * members).sum(0)
    ratio = members.clamp(min=tiny).log() - fused.clamp(min=tiny).log()
    spread = (weights[:, :, 0] * (members * ratio).sum(2)).sum(0)
    target = functional.one_hot(fused.argmax(1), weak.shape[1]).movedim(-1, 1).float()
    return target, torch.exp(-entropy(fused) - spread)


def loss(
    student: Any,
    teacher: Any,
    x_l: torch.Tensor,
    label: torch.Tensor,
    x_w: torch.Tensor,
) -> torch.Tensor:
    """The loss of one step after the ramp; `label` is one-hot, channels second."""
    count = len(x_l)
    features = student.encode(torch.cat([x_l, x_w]))
    total = segmentation_loss(student.decode(features)[:count], label)
    with torch.no_grad():
        taught = teacher.encode(torch.cat([x_l, x_w]))
        taught_l, taught_u = [f[:count] for f in taught], [f[count:] for f in taught]
        weak = teacher.decode(taught_u).float().softmax(1)
        plan = make_plan(taught_u, entropy(weak))
        perturbed = teacher.decode(perturb(plan, taught_u, taught_l)).float().softmax(1)
        target, reliability = fuse(weak, perturbed)
        mask = box_masks(len(x_w), x_w.shape[2:], x_w.device)
        x_s = torch.where(mask[:, None], photometric(x_l), photometric(x_w))
        target_s = torch.where(mask[:, None], label, target)
        reliability_s = torch.where(mask, torch.ones_like(reliability), reliability)
    strong = segmentation_loss(student(x_s), target_s, reliability_s)
    changed = perturb(plan, [f[count:] for f in features], [f[:count] for f in features])
    return total + (strong + segmentation_loss(student.decode(changed), target, reliability)) / 2
