"""PyTorch networks with the names that their layers have in the field."""

import itertools

import pytest

FILTERS = (2, 3, 4, 4, 5)


def convolutions(nn, widths, activation, rank, dropout=False):
    """Convolution, batch norm and activation between each two widths, in one Sequential."""
    conv, norm = getattr(nn, f"Conv{rank}d"), getattr(nn, f"BatchNorm{rank}d")
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [conv(n, m, 3, padding=1), norm(m), activation()]
        if dropout and len(layers) == 3:
            layers.append(nn.Dropout(0.3))
    return nn.Sequential(*layers)


def make_unet(torch):
    """A U-Net whose modules are named as in SSL4MIS."""
    nn = torch.nn

    def block(*widths):
        return nn.ModuleDict({"conv_conv": convolutions(nn, widths, nn.LeakyReLU, 2, True)})

    def down(n, m):
        return nn.ModuleDict({"maxpool_conv": nn.ModuleList([nn.MaxPool2d(2), block(n, m, m)])})

    def up(n, m):
        parts = {"conv1x1": nn.Conv2d(n, m, 1), "conv": block(2 * m, m, m)}
        return nn.ModuleDict(parts)

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            f = FILTERS
            downs = {f"down{i}": down(f[i - 1], f[i]) for i in range(1, 5)}
            self.encoder = nn.ModuleDict({"in_conv": block(1, f[0], f[0]), **downs})
            ups = {f"up{i}": up(f[5 - i], f[4 - i]) for i in range(1, 5)}
            self.decoder = nn.ModuleDict({**ups, "out_conv": nn.Conv2d(f[0], 4, 3, padding=1)})

        def forward(self, x):
            features = [self.encoder["in_conv"]["conv_conv"](x)]
            for i in range(1, 5):
                pool, conv = self.encoder[f"down{i}"]["maxpool_conv"]
                features.append(conv["conv_conv"](pool(features[-1])))
            x = features.pop()
            for i in range(1, 5):
                part = self.decoder[f"up{i}"]
                x = nn.functional.interpolate(
                    part["conv1x1"](x), scale_factor=2, mode="bilinear", align_corners=True
                )
                x = part["conv"]["conv_conv"](torch.cat([features.pop(), x], dim=1))
            return self.decoder["out_conv"](x)

    return UNet()


def make_vnet(torch, parted):
    """A V-Net whose modules are named as in UA-MT, or as in BCP where encoder and decoder part."""
    nn = torch.nn
    numbers = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    widths = (*FILTERS, *FILTERS[-2::-1])

    def named(sequence):
        return nn.ModuleDict({"conv": sequence})

    class VNet(nn.Module):
        def __init__(self):
            super().__init__()
            encoder, decoder = nn.ModuleDict(), nn.ModuleDict()
            for i, depth in enumerate((1, 2, 3, 3, 3, 3, 3, 2, 1)):
                part, width = (encoder if i < 5 else decoder), widths[i]
                first = 1 if i == 0 else width
                sizes = (first, *(width,) * depth)
                part[f"block_{numbers[i]}"] = named(convolutions(nn, sizes, nn.ReLU, 3))
                if i == 8:
                    continue
                layer, suffix = (nn.Conv3d, "dw") if i < 4 else (nn.ConvTranspose3d, "up")
                change = [layer(width, widths[i + 1], 2, stride=2)]
                change += [nn.BatchNorm3d(widths[i + 1]), nn.ReLU()]
                place = encoder if i < 4 else decoder
                place[f"block_{numbers[i]}_{suffix}"] = named(nn.Sequential(*change))
            decoder["out_conv"] = nn.Conv3d(widths[-1], 2, 1)
            if parted:
                self.encoder, self.decoder = encoder, decoder
                self.projection_head = nn.Linear(2, 2)
            else:
                for name, module in (*encoder.items(), *decoder.items()):
                    self.add_module(name, module)

        def forward(self, x):
            blocks = dict(self.named_modules())
            find = lambda name: next(m for n, m in blocks.items() if n.endswith(name))["conv"]  # noqa: E731
            features = []
            for i in range(5):
                x = find(f"block_{numbers[i - 1]}_dw")(x) if i else x
                x = find(f"block_{numbers[i]}")(x)
                features.append(x)
            features.pop()
            for i in range(5, 9):
                x = find(f"block_{numbers[i - 1]}_up")(x) + features.pop()
                x = find(f"block_{numbers[i]}")(x)
            return next(m for n, m in blocks.items() if n.endswith("out_conv"))(x)

    return VNet()


def by_instance(torch, module):
    """The same network with instance norm in place of batch norm."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            kind = type(child).__name__.replace("Batch", "Instance")
            layer = getattr(torch.nn, kind)(child.num_features, affine=True)
            module[name if isinstance(module, torch.nn.ModuleDict) else int(name)] = layer
        else:
            by_instance(torch, child)


def build(kind, normalization="batch"):
    """The network in evaluation, with running statistics unlike those of a fresh one."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = make_unet(torch) if kind == "unet" else make_vnet(torch, kind == "bcp")
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var, module.running_mean):
                tensor.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    if normalization == "instance":
        by_instance(torch, network)
    return network.eval()
