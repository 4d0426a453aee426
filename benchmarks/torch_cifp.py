"""The CIFP step in PyTorch, with the defaults of `cifp_jax.methods.cifp`, to be timed against it.

The same passes, losses, photometric changes and attention, under the weak recipe; random numbers
differ, so values do not agree.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
import math
from typing import Any

import torch
from torch.nn import functional

STAGE, PROBABILITY, GATE, TAU, PURE, SMOOTH = 3, 0.5, 0.1, 0.1, 0.8, 1e-5


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`(CE + Dice) / 2` against one-hot targets, Dice over the classes that they hold."""
    log_probs = functional.log_softmax(logits.float(), 1)
    probs = log_probs.exp()
    entropy = -(target * log_probs).sum(1).mean()
    axes = [0, *range(2, logits.ndim)]
    truth = target.sum(axes)
    dice = 1 - (2 * (probs * target).sum(axes) + SMOOTH) / ((probs**2).sum(axes) + truth + SMOOTH)
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


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """`H(p) / log K`."""
    return torch.special.entr(probs).sum(1) / math.log(probs.shape[1])


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * (x**2).sum(-1, keepdim=True).clamp(min=1e-4).rsqrt()


def perturb(
    z: torch.Tensor,
    partner: torch.Tensor,
    target: torch.Tensor,
    label: torch.Tensor,
    uncertainty: torch.Tensor,
) -> torch.Tensor:
    """Ambiguous cells move towards what they attend to among labelled cells, or away from it."""
    pool = functional.adaptive_avg_pool3d if z.ndim == 5 else functional.adaptive_avg_pool2d

    def cells(x: torch.Tensor) -> torch.Tensor:
        return pool(x, z.shape[2:]).flatten(2).mT

    query, source = z.flatten(2).mT, partner.detach().flatten(2).mT
    own = functional.one_hot(cells(target).argmax(2), target.shape[1]).float()
    allowed = own @ (cells(label) >= PURE).float().mT
    mean = source.mean(1, keepdim=True)
    logits = _unit(query - mean) @ _unit(source - mean).mT / TAU
    seen = logits.masked_fill(allowed == 0, -1e9).softmax(2) @ source
    chosen = torch.rand_like(query[..., 0]) < PROBABILITY
    gate = (cells(uncertainty[:, None])[..., 0] > GATE) & chosen & (allowed.amax(2) > 0)
    move = gate * (torch.rand_like(query[..., 0]) - 0.5)
    return (query + move[..., None] * (seen - query)).mT.reshape(z.shape)


def loss(
    student: Any,
    teacher: Any,
    x_l: torch.Tensor,
    label: torch.Tensor,
    x_u: torch.Tensor,
) -> torch.Tensor:
    """The loss of one step after the ramp; `label` is one-hot, channels second."""
    count = len(x_l)
    with torch.no_grad():
        probs = teacher(x_u).float().softmax(1)
        target = functional.one_hot(probs.argmax(1), probs.shape[1]).movedim(-1, 1).float()
    features = list(student.encode(torch.cat([photometric(x_l), photometric(x_u)])))
    stage = features[STAGE - 1]
    changed = perturb(stage[count:], stage[:count], target, label, entropy(probs))
    features[STAGE - 1] = torch.cat([stage[:count], changed])
    logits = student.decode(features)
    return segmentation_loss(logits[:count], label) + segmentation_loss(logits[count:], target)
