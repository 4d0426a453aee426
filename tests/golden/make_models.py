"""Writes models.npz: what PyTorch makes of small V-Nets and U-Nets, in 2D and 3D.

    pip install -e '.[benchmark]'
    python -m tests.golden.make_models

Per case `<network><rank>d`: the input `x`; the `names` of all parameters and the `moving` ones of
all running statistics; `weights` and `statistics`, their values one after the other in PyTorch's
layout; for both modes `<mode>/logits`, every third voxel along each axis, and `<mode>/gradient`,
in the order of `names`; and `moved`, the statistics after the training pass. Modules carry the
names of their Flax counterparts.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
import pathlib

import numpy as np
import torch
from torch import nn

from benchmarks.torch_networks import UNet, VNet

FILTERS = (2, 3, 4, 5, 6)
CLASSES = 3
# The bottleneck of the 3D case is one voxel deep along Y.
SIZES = {2: (32, 48), 3: (32, 16, 32)}
BATCH = 2


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Keeps PyTorch's weights of convolutions; batch norm gets values that are not 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.2, 0.6),
            ):
                with torch.no_grad():
                    tensor.uniform_(low, high, generator=generator)


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """All values, one tensor after the other."""
    return torch.cat([t.detach().flatten() for t in tensors.values()]).numpy().astype(np.float32)


def run(model: nn.Module, x: np.ndarray, rank: int) -> dict[str, np.ndarray]:
    """Logits, channels last, and gradients of `sum(logits * cos(i))`, `i` counting the logits."""
    logits = model(torch.from_numpy(np.moveaxis(x, -1, 1).astype(np.float64))).movedim(1, -1)
    weights = torch.cos(torch.arange(logits.numel(), dtype=torch.float64)).reshape(logits.shape)
    model.zero_grad()
    torch.sum(logits * weights).backward()
    grid = (slice(None), *(slice(None, None, 3),) * rank)
    gradients = {k: p.grad for k, p in model.named_parameters()}
    return {"logits": logits.detach().numpy()[grid].astype(np.float32), "gradient": flat(gradients)}


def case(network: type[nn.Module], rank: int) -> dict[str, np.ndarray]:
    torch.manual_seed(rank)
    model = network(rank, CLASSES, FILTERS, dropout=False)
    randomise(model, torch.Generator().manual_seed(rank))
    # Weights fit float32, sums are taken in float64.
    model.double()
    x = np.random.default_rng(rank).normal(size=(BATCH, *SIZES[rank], 1)).astype(np.float16)
    parameters = dict(model.named_parameters())
    statistics = {k: v for k, v in model.named_buffers() if "running" in k}
    values = {
        "x": x,
        "names": np.array(list(parameters)),
        "moving": np.array(list(statistics)),
        "weights": flat(parameters),
        "statistics": flat(statistics),
    }
    # The first mode reads the running statistics, the second moves them.
    for mode in ("eval", "train"):
        model.train(mode == "train")
        values |= {f"{mode}/{k}": v for k, v in run(model, x, rank).items()}
    return {**values, "moved": flat(statistics)}


def main() -> None:
    values = {}
    for rank in SIZES:
        for name, network in (("vnet", VNet), ("unet", UNet)):
            values |= {f"{name}{rank}d/{k}": v for k, v in case(network, rank).items()}
    np.savez_compressed(pathlib.Path(__file__).parent / "models.npz", **values)


if __name__ == "__main__":
    main()
