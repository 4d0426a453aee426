"""PyTorch networks with the field's layer names give the same logits here."""

import importlib.util
import itertools
import sys

import numpy as np
import pytest

from cifp_jax import import_torch
from cifp_jax.commands.import_torch import convert
from cifp_jax.inference.weights import load_weights
from cifp_jax.models import make_network
from tests.support.steps import quick

FILTERS = (2, 3, 4, 4, 5)
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install '.[torch]'")


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


def build(kind):
    """The network in evaluation, with running statistics unlike those of a fresh one."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = make_unet(torch) if kind == "unet" else make_vnet(torch, kind == "bcp")
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var, module.running_mean):
                tensor.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return network.eval()


@needs_torch
@pytest.mark.parametrize(("kind", "inside"), [("unet", "model"), ("ua_mt", None), ("bcp", "net")])
def test_logits_are_equal(kind, inside, tmp_path):
    torch = pytest.importorskip("torch")
    network = build(kind)
    state = network.state_dict()
    if inside == "model":
        state = {f"module.{k}": v for k, v in state.items()}
    content = state if inside is None else {inside: state, "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "a.safetensors")])
    weights = load_weights(tmp_path / "a.safetensors")
    facts = weights.facts["network"]
    assert facts["filters"] == list(FILTERS)
    assert (facts["name"], facts["classes"]) == (("unet", 4) if kind == "unet" else ("vnet", 2))

    shape = (32, 16) if kind == "unet" else (16, 32, 16)
    image = np.random.default_rng(0).normal(size=(1, *shape, 1)).astype(np.float32)
    with torch.no_grad():
        want = np.moveaxis(network(torch.tensor(np.moveaxis(image, -1, 1))).numpy(), 1, -1)
    model = make_network(name=facts["name"], classes=facts["classes"], filters=FILTERS)
    apply = quick(lambda v, x: model.apply(v, x, train=False))
    np.testing.assert_allclose(apply(weights.variables, image), want, atol=1e-4)
    assert want.std() > 0.01


@needs_torch
def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"net": Trap()}, tmp_path / "a.pth")
    with pytest.raises(SystemExit, match="tensors alone, and was not loaded"):
        import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])
    assert not Trap.sprung
    assert not (tmp_path / "out").exists()


class Trap:
    sprung = False

    def __reduce__(self):
        return (Trap.spring, ())

    @staticmethod
    def spring():
        Trap.sprung = True


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["conv1.weight"], "no U-Net or V-Net of a known naming: conv1.weight"),
        (["block_one.conv.0.weight"], "it has no block_one.conv.0.bias"),
        (
            ["encoder.in_conv.conv_conv.0.weight", "decoder.up1.up.weight"],
            "by transposed convolutions",
        ),
    ],
)
def test_other_networks_are_named(names, answer):
    with pytest.raises(ValueError, match=answer):
        convert({name: np.zeros((2, 1, 3, 3, 3), np.float32) for name in names})


def test_without_pytorch_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"pip install 'cifp-jax\[torch\]'"):
        import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])


def test_a_missing_file_is_named(tmp_path):
    if not HAS_TORCH:
        pytest.skip("needs PyTorch: pip install '.[torch]'")
    with pytest.raises(SystemExit, match="this file is missing"):
        import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])
