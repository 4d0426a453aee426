"""The two networks in PyTorch, to be timed and to make the tests' golden values.

Modules carry the names of their Flax counterparts. Both work in 2D and 3D.
"""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

FILTERS = (16, 32, 64, 128, 256)
UNET_DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)


def conv(rank: int) -> type[nn.Module]:
    return nn.Conv3d if rank == 3 else nn.Conv2d


def transposed(rank: int) -> type[nn.Module]:
    return nn.ConvTranspose3d if rank == 3 else nn.ConvTranspose2d


def norm(rank: int) -> type[nn.Module]:
    return nn.BatchNorm3d if rank == 3 else nn.BatchNorm2d


class Chain(nn.Module):
    """Convolutions, each with batch norm and an activation; dropout after the first."""

    def __init__(self, rank: int, c_in: int, c_out: int, depth: int, slope: float, rate: float = 0):
        super().__init__()
        self.slope, self.depth, self.rate = slope, depth, rate
        for i in range(depth):
            self.add_module(f"Conv_{i}", conv(rank)(c_in if i == 0 else c_out, c_out, 3, padding=1))
            self.add_module(f"BatchNorm_{i}", norm(rank)(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i in range(self.depth):
            x = self.get_submodule(f"BatchNorm_{i}")(self.get_submodule(f"Conv_{i}")(x))
            x = functional.leaky_relu(x, self.slope)
            if i == 0 and self.rate:
                x = functional.dropout(x, self.rate, self.training)
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
    """V-Net without residuals; skips are added."""

    def __init__(
        self, rank: int, classes: int, filters: Sequence[int] = FILTERS, *, dropout: bool = True
    ):
        super().__init__()
        f = filters
        self.rank, self.rate = rank, 0.5 if dropout else 0.0
        self.encoder_0 = Chain(rank, 1, f[0], 1, 0)
        for i, depth in enumerate((2, 3, 3, 3)):
            self.add_module(f"down_{i}", Stride(rank, f[i], f[i + 1], "Down_0"))
            self.add_module(f"encoder_{i + 1}", Chain(rank, f[i + 1], f[i + 1], depth, 0))
        for i, depth in enumerate((3, 3, 2, 1)):
            self.add_module(f"up_{i}", Stride(rank, f[4 - i], f[3 - i], "Up_0"))
            self.add_module(f"decoder_{i}", Chain(rank, f[3 - i], f[3 - i], depth, 0))
        self.head = conv(rank)(f[0], classes, 1)

    def channel_dropout(self, x: torch.Tensor) -> torch.Tensor:
        drop = functional.dropout3d if self.rank == 3 else functional.dropout2d
        return drop(x, self.rate, self.training) if self.rate else x

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [self.encoder_0(x)]
        for i in range(4):
            x = self.get_submodule(f"down_{i}")(features[-1])
            features.append(self.get_submodule(f"encoder_{i + 1}")(x))
        features[-1] = self.channel_dropout(features[-1])
        return features

    def decode(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        for i in range(4):
            x = self.get_submodule(f"up_{i}")(x) + features[3 - i]
            x = self.get_submodule(f"decoder_{i}")(x)
        return self.head(self.channel_dropout(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


class UNet(nn.Module):
    """U-Net; skips are concatenated."""

    def __init__(
        self, rank: int, classes: int, filters: Sequence[int] = FILTERS, *, dropout: bool = True
    ):
        super().__init__()
        f = filters
        self.rank = rank
        for i in range(5):
            rate = UNET_DROPOUT[i] if dropout else 0.0
            self.add_module(f"encoder_{i}", Chain(rank, f[i - 1] if i else 1, f[i], 2, 0.01, rate))
        for i in range(4):
            self.add_module(f"reduce_{i}", conv(rank)(f[4 - i], f[3 - i], 1))
            self.add_module(f"decoder_{i}", Chain(rank, 2 * f[3 - i], f[3 - i], 2, 0.01))
        self.head = conv(rank)(f[0], classes, 3, padding=1)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        pool = functional.max_pool3d if self.rank == 3 else functional.max_pool2d
        features = [self.encoder_0(x)]
        for i in range(1, 5):
            features.append(self.get_submodule(f"encoder_{i}")(pool(features[-1], 2)))
        return features

    def decode(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        mode = "trilinear" if self.rank == 3 else "bilinear"
        x = features[-1]
        for i in range(4):
            x = self.get_submodule(f"reduce_{i}")(x)
            x = functional.interpolate(x, scale_factor=2, mode=mode, align_corners=True)
            x = self.get_submodule(f"decoder_{i}")(torch.cat([features[3 - i], x], dim=1))
        return self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x))


NETWORKS: dict[str, type[nn.Module]] = {"vnet": VNet, "unet": UNet}
