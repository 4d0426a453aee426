"""Networks for other programs: what they compute there is what they compute here."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

from cifp_jax import export
from cifp_jax.commands import import_torch
from cifp_jax.exchange import onnx_graph, torch_names
from cifp_jax.inference.weights import Weights, load_weights, save_weights, shapes_of
from cifp_jax.models import make_network
from tests.support.steps import quick
from tests.support.torch_models import FILTERS, build

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))),
    reason="needs ONNX: pip install '.[onnx]'",
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch: pip install '.[torch]'"
)
KINDS = {"unet": (4, "acdc", (64, 48)), "vnet": (2, "la", (32, 48, 32))}
PREPARATION = {"canonical": False, "axes": [0, 1, 2], "spacing": [], "normalization": [["minmax"]]}


def random_variables(kind, normalization):
    """Of a small network; statistics unlike those of a fresh one."""
    classes, _, patch = KINDS[kind]
    network = {"name": kind, "classes": classes, "filters": FILTERS}
    network["normalization"] = normalization
    rng = np.random.default_rng(0)
    shapes = shapes_of(network, len(patch), 1)
    flat = {path: rng.normal(0, 0.3, shape).astype(np.float32) for path, shape in shapes.items()}
    flat |= {path: 0.5 + np.abs(value) for path, value in flat.items() if path[-1] == "var"}
    return network, {"batch_stats": {}, **unflatten_dict(flat)}


@pytest.fixture(params=[*KINDS, "unet-instance", "vnet-instance"])
def saved(request, tmp_path):
    """A file of weights, its kind and its variables."""
    kind, _, normalization = request.param.partition("-")
    network, variables = random_variables(kind, normalization or "batch")
    _, data, patch = KINDS[kind]
    facts = {
        "network": network,
        "data": {
            **{"name": data, "patch_size": patch, "downsample": 1},
            **{"channels": 1, "center_crop": 0, "interpolation": "nearest"},
        },
        "evaluation": {"largest_component": ""},
        "preparation": PREPARATION,
        "method": "cifp",
        "step": 1,
        "training_list": {"labeled": ["patient001"], "unlabeled": []},
    }
    save_weights(tmp_path / "a.safetensors", Weights(variables, facts))
    return tmp_path / "a.safetensors", kind, variables


def logits(kind, variables, image):
    normalization = "batch" if variables["batch_stats"] else "instance"
    model = make_network(
        name=kind, classes=KINDS[kind][0], filters=FILTERS, normalization=normalization
    )
    return np.asarray(quick(lambda v, x: model.apply(v, x, train=False))(variables, image))


def images(kind, count=2):
    shape = (count, *KINDS[kind][2], 1)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def written(saved, form, ending):
    out = saved[0].parent / f"out{ending}"
    export.main([f"--weights={saved[0]}", f"--out={out}", f"--format={form}"])
    return out


def test_pytorchs_names_and_back(saved):
    """A kernel by hand: (out, in, window) there, (window, in, out) here."""
    out = written(saved, "torch", ".safetensors")
    with safetensors.safe_open(out, framework="numpy") as file:
        said = file.metadata()
    assert said["format"] == "pt"
    assert json.loads(said["preparation"]) == PREPARATION
    tensors = safetensors.numpy.load_file(out)
    first = "encoder.in_conv.conv_conv.4" if saved[1] == "unet" else "block_two.conv.0"
    ours = saved[2]["params"]["encoder_0" if saved[1] == "unet" else "encoder_1"]
    kernel = ours["Conv_1" if saved[1] == "unet" else "Conv_0"]["kernel"]
    for a, b in ((0, 1), (1, 0)):
        there = tensors[f"{first}.weight"][a, b]
        np.testing.assert_array_equal(there, kernel[..., b, a])
    imported = import_torch.convert(*import_torch.read(out))
    # What is done to scans, and which patients it has seen, come along.
    assert imported.facts == load_weights(saved[0]).facts
    back = flatten_dict(imported.variables)
    mine = flatten_dict(saved[2])
    assert back.keys() == mine.keys()
    for path, value in mine.items():
        np.testing.assert_array_equal(back[path], value)


@needs_torch
def test_the_fields_networks_load_it(saved):
    torch = pytest.importorskip("torch")
    _, kind, variables = saved
    load_file = pytest.importorskip("safetensors.torch").load_file
    tensors = load_file(written(saved, "torch", ".safetensors"))
    image = images(kind)
    there = torch.tensor(np.moveaxis(image, -1, 1).copy())
    wanted = logits(kind, variables, image)
    assert wanted.std() > 0.01

    normalization = "batch" if variables["batch_stats"] else "instance"
    network = build("unet" if kind == "unet" else "ua_mt", normalization)
    network.load_state_dict(tensors)  # strict: no name too many or too few
    with torch.no_grad():
        found = np.moveaxis(network(there).numpy(), 1, -1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)

    if normalization == "instance":
        return
    # The benchmarks' network has the modules' names of this package.
    benchmarked = pytest.importorskip("benchmarks.torch_networks").NETWORKS[kind]
    classes, _, patch = KINDS[kind]
    network = benchmarked(len(patch), classes, FILTERS).eval()
    layers = getattr(torch_names, f"{kind}_layers")("batch")
    own = {layer.torch: ".".join(layer.flax) for layer in layers}
    renamed = {
        f"{own[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in tensors.items()
    }
    network.load_state_dict(renamed)
    with torch.no_grad():
        found = np.moveaxis(network(there).numpy(), 1, -1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@needs_onnx
def test_onnxruntime_gives_the_same_logits(saved):
    """For images of other numbers and sizes than the comparison at export has."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    _, kind, variables = saved
    out = written(saved, "onnx", ".onnx")
    said = {prop.key: prop.value for prop in onnx.load(out).metadata_props}
    assert json.loads(said["preparation"]) == PREPARATION
    assert json.loads(said["data"])["patch_size"] == list(KINDS[kind][2])
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = images(kind, 3)
    (found,) = session.run(["logits"], {"image": np.moveaxis(image, -1, 1)})
    wanted = logits(kind, variables, image)
    np.testing.assert_allclose(np.moveaxis(found, 1, -1), wanted, atol=1e-4)


@needs_onnx
@pytest.mark.parametrize("saved", ["unet"], indirect=True)
def test_a_graph_that_differs_is_not_written(saved, monkeypatch):
    def changed(network, variables):
        tensors = torch_names.to_torch(network, variables)
        last = next(reversed(tensors))
        return tensors | {last: tensors[last] + 0.01}

    monkeypatch.setattr(onnx_graph, "to_torch", changed)
    with pytest.raises(SystemExit, match=r"logits that are 0\.01 off.*Nothing was written"):
        written(saved, "onnx", ".onnx")
    assert sorted(p.name for p in saved[0].parent.iterdir()) == ["a.safetensors"]


@pytest.mark.parametrize("saved", ["unet"], indirect=True)
def test_without_onnx_the_remedy_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit, match=r"in the clone, pip install '.\[onnx\]'"):
        written(saved, "onnx", ".onnx")


def test_a_stablehlo_program_gives_the_same_logits(saved):
    _, kind, variables = saved
    out = written(saved, "stablehlo", ".stablehlo")
    program = jax_export.deserialize(bytearray(out.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    image = images(kind, 3)
    found = np.asarray(program.call(image))
    np.testing.assert_allclose(found, logits(kind, variables, image), atol=1e-5)
    said = json.loads((out.parent / "out.stablehlo.json").read_text())
    assert said["preparation"] == PREPARATION


@pytest.mark.parametrize("saved", ["unet"], indirect=True)
def test_float16_is_for_our_own_format(saved):
    with pytest.raises(SystemExit):
        export.main([f"--weights={saved[0]}", "--out=x", "--format=onnx", "--float16"])


def test_a_network_without_pytorchs_names_is_named():
    with pytest.raises(ValueError, match="'swin' have no names in PyTorch; known: unet, vnet"):
        torch_names.to_torch({"name": "swin"}, {})
