"""Writes models.npz: what PyTorch makes of small V-Nets and U-Nets, in 2D and 3D.

    pip install torch numpy
    python tests/golden/make_models.py

Per case `<network><rank>d`: the input `x`; the `names` of all parameters and the `moving` ones of
all running statistics; `weights` and `statistics`, their values one after the other in PyTorch's
layout; for both modes `<mode>/logits`, every third voxel along each axis, and `<mode>/gradient`,
in the order of `names`; and `moved`, the statistics after the training pass. Modules carry the
names of their Flax counterparts.
"""

# pyright: reportMissingImports=false
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

FILTERS = (2, 3, 4, 5, 6)
CLASSES = 3
# The bottleneck of the 3D case is one voxel deep along Y.
SIZES = {2: (32, 48), 3: (32, 16, 32)}
BATCH = 2


def conv(rank: int) -> type[nn.Module]:
    return nn.Conv3d if rank == 3 else nn.Conv2d


def transposed(rank: int) -> type[nn.Module]:
    return nn.ConvTranspose3d if rank == 3 else nn.ConvTranspose2d


def norm(rank: int) -> type[nn.Module]:
    return nn.BatchNorm3d if rank == 3 else nn.BatchNorm2d


class Chain(nn.Module):
    """Convolutions, each with batch norm and an activation."""

    def __init__(self, rank: int, c_in: int, c_out: int, depth: int, slope: float):
        super().__init__()
        self.slope = slope
        self.depth = depth
        for i in range(depth):
            self.add_module(f"Conv_{i}", conv(rank)(c_in if i == 0 else c_out, c_out, 3, padding=1))
            self.add_module(f"BatchNorm_{i}", norm(rank)(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.depth):
            x = self.get_submodule(f"BatchNorm_{i}")(self.get_submodule(f"Conv_{i}")(x))
            x = functional.leaky_relu(x, self.slope)
        return x


class Stride(nn.Module):
    """Stride-2 convolution, plain or transposed, with batch norm and ReLU."""

    def __init__(self, rank: int, c_in: int, c_out: int, name: str):
        super().__init__()
        layer = (conv if name == "Down_0" else transposed)(rank)(c_in, c_out, 2, stride=2)
        self.add_module(name, layer)
        self.BatchNorm_0 = norm(rank)(c_out)
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.BatchNorm_0(self.get_submodule(self.name)(x)))


class VNet(nn.Module):
    def __init__(self, rank: int):
        super().__init__()
        f = FILTERS
        self.encoder_0 = Chain(rank, 1, f[0], 1, 0)
        for i, depth in enumerate((2, 3, 3, 3)):
            self.add_module(f"down_{i}", Stride(rank, f[i], f[i + 1], "Down_0"))
            self.add_module(f"encoder_{i + 1}", Chain(rank, f[i + 1], f[i + 1], depth, 0))
        for i, depth in enumerate((3, 3, 2, 1)):
            self.add_module(f"up_{i}", Stride(rank, f[4 - i], f[3 - i], "Up_0"))
            self.add_module(f"decoder_{i}", Chain(rank, f[3 - i], f[3 - i], depth, 0))
        self.head = conv(rank)(f[0], CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder_0(x)
        skips = []
        for i in range(4):
            skips.append(x)
            x = self.get_submodule(f"encoder_{i + 1}")(self.get_submodule(f"down_{i}")(x))
        for i in range(4):
            x = self.get_submodule(f"up_{i}")(x) + skips.pop()
            x = self.get_submodule(f"decoder_{i}")(x)
        return self.head(x)


class UNet(nn.Module):
    def __init__(self, rank: int):
        super().__init__()
        f = FILTERS
        self.rank = rank
        for i in range(5):
            self.add_module(f"encoder_{i}", Chain(rank, f[i - 1] if i else 1, f[i], 2, 0.01))
        for i in range(4):
            self.add_module(f"reduce_{i}", conv(rank)(f[4 - i], f[3 - i], 1))
            self.add_module(f"decoder_{i}", Chain(rank, 2 * f[3 - i], f[3 - i], 2, 0.01))
        self.head = conv(rank)(f[0], CLASSES, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = functional.max_pool3d if self.rank == 3 else functional.max_pool2d
        x = self.encoder_0(x)
        skips = []
        for i in range(1, 5):
            skips.append(x)
            x = self.get_submodule(f"encoder_{i}")(pool(x, 2))
        mode = "trilinear" if self.rank == 3 else "bilinear"
        for i in range(4):
            x = self.get_submodule(f"reduce_{i}")(x)
            x = functional.interpolate(x, scale_factor=2, mode=mode, align_corners=True)
            x = self.get_submodule(f"decoder_{i}")(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


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
    model = network(rank)
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
