"""PyTorch networks with the field's layer names give the same logits here."""

import importlib.util
import sys

import numpy as np
import pytest
import safetensors.numpy

from cifp_jax import import_torch
from cifp_jax.commands.import_torch import convert, read
from cifp_jax.inference.weights import load_weights
from cifp_jax.models import make_network
from tests.support.steps import quick
from tests.support.torch_models import FILTERS, build

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs PyTorch: pip install '.[torch]'")


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


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 1, 3, 3, 3)])
def test_images_of_other_channels_or_axes_are_refused(shape):
    first = "encoder.in_conv.conv_conv.0.weight"
    with pytest.raises(ValueError, match=rf"{first} has the shape .* \(filters, 1, 3, 3\) is due"):
        convert({first: np.zeros(shape, np.float32)})


def test_batch_norm_without_its_running_statistics_is_not_taken_for_instance_norm():
    tensors = {k: v.numpy() for k, v in build("unet").state_dict().items() if "running" not in k}
    with pytest.raises(ValueError, match=r"no .*running_mean, which this network has"):
        convert(tensors)


def test_what_others_write_beside_their_tensors_is_no_header(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"x": np.ones(2, np.float16)}
    safetensors.numpy.save_file(tensors, path, metadata={"author": "free text"})
    found, said = read(path)
    assert said is None
    np.testing.assert_array_equal(found["x"], np.ones(2, np.float32))


def test_without_pytorch_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").touch()
    with pytest.raises(SystemExit, match=r"in the clone, pip install '.\[torch\]'"):
        import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])


def test_a_missing_file_is_named(tmp_path):
    if not HAS_TORCH:
        pytest.skip("needs PyTorch: pip install '.[torch]'")
    with pytest.raises(SystemExit, match="this file is missing"):
        import_torch.main([str(tmp_path / "a.pth"), str(tmp_path / "out")])
