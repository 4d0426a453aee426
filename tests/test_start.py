"""A run that starts from weights: what is taken over, what begins anew, what is refused."""

import pathlib

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cifp_jax.commands import import_torch
from cifp_jax.config import default_config
from cifp_jax.data.sources import Case
from cifp_jax.data.splits import Split
from cifp_jax.exchange.torch_names import to_torch
from cifp_jax.inference.weights import Weights, save_weights, shapes_of
from cifp_jax.training import build
from cifp_jax.training.start import start_from
from cifp_jax.training.state import as_tuple

FILTERS = (2, 2, 4, 4, 4)
LISTS = Split((), (), (Case("patient004_frame01", pathlib.Path("a")),), ())


def own_data(**data):
    """A configuration as of `prepare`: slices of two structures."""
    config = default_config()
    config.method.name = "mean_teacher"
    config.model.update(filters=FILTERS, classes=3)
    config.data.update(name="slices", patch_size=(16, 16), **data)
    return config


def trained(path, classes=4, channels=1, patients=()):
    """A file of weights of ACDC's layout, and its variables by path."""
    network = {"name": "unet", "classes": classes, "filters": FILTERS, "normalization": "batch"}
    rng = np.random.default_rng(0)
    shapes = shapes_of(network, 2, channels)
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    variables = unflatten_dict(flat)
    weights = import_torch.convert(to_torch(network, variables))  # imported weights start a run too
    known = {"training_list": {"labeled": [], "unlabeled": list(patients)}}
    save_weights(path, Weights(weights.variables, weights.facts | known))
    return flat


def networks(state):
    """Variables by path of the student and of the teacher."""
    (student,), (stats,) = as_tuple(state.params), as_tuple(state.batch_stats)
    (teacher,), (ema_stats,) = (
        as_tuple(state.ema_params),
        as_tuple(state.ema_batch_stats),
    )
    return [
        {path: np.asarray(x) for path, x in flatten_dict({"params": p, "batch_stats": s}).items()}
        for p, s in ((student, stats), (teacher, ema_stats))
    ]


@pytest.fixture(scope="module")
def state():
    return build.make_state(own_data())


def test_the_last_layer_begins_anew_where_the_classes_differ(tmp_path, state):
    flat, config = trained(tmp_path / "a.safetensors"), own_data()
    started, remarks = start_from(tmp_path / "a.safetensors", config, LISTS, state)
    fresh = networks(state)[0]
    for network in networks(started):
        for path, value in network.items():
            wanted = fresh[path] if "head" in path else flat[path]
            np.testing.assert_array_equal(value, wanted, err_msg="/".join(path))
    assert remarks == [
        "begun anew, as its shape differs: head/bias ((4,) before, (3,) now)",
        "begun anew, as its shape differs: head/kernel ((3, 3, 2, 4) before, (3, 3, 2, 3) now)",
        "its scans were prepared otherwise, so it has more to learn anew",
    ]
    assert jax.tree.structure(started) == jax.tree.structure(state)


def test_the_first_layer_begins_anew_where_the_channels_differ(tmp_path):
    flat, config = trained(tmp_path / "a.safetensors", classes=3), own_data(channels=2)
    started, remarks = start_from(
        tmp_path / "a.safetensors", config, LISTS, build.make_state(config)
    )
    assert [line for line in remarks if "anew, as" in line] == [
        "begun anew, as its shape differs: encoder_0/Conv_0/kernel ((3, 3, 1, 2) before, "
        "(3, 3, 2, 2) now)"
    ]
    head = ("params", "head", "kernel")
    np.testing.assert_array_equal(networks(started)[0][head], flat[head])


def test_cases_of_patients_that_the_network_was_trained_on_are_named(tmp_path, state):
    trained(tmp_path / "a.safetensors", classes=3, patients=("patient001",))
    trained(tmp_path / "b.safetensors", classes=3, patients=("patient001", "patient004"))
    remarks = [
        start_from(tmp_path / f"{name}.safetensors", own_data(), LISTS, state)[1] for name in "ab"
    ]
    assert not [line for line in remarks[0] if "names of" in line]
    (line,) = [line for line in remarks[1] if "names of" in line]
    assert line.startswith("trained on patients with the names of 1 validation and test cases")
    assert "patient004_frame01" in line


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"filters": (2, 2, 4, 4, 8)}, r"config\.model\.filters is \(2, 2, 4, 4, 4\)"),
        ({"normalization": "instance"}, r"normalization is 'batch', and of the run 'instance'"),
        ({"name": "vnet"}, r"config\.model\.name is 'unet', and of the run 'vnet'"),
        ({}, "number of axes of its images is 2, and of the run 3"),
    ],
)
def test_a_network_of_another_kind_is_refused(tmp_path, state, changes, answer):
    trained(tmp_path / "a.safetensors")
    config = own_data()
    config.model.update(changes)
    if not changes:
        config.data.update(name="volumes", patch_size=(16, 16, 16))
    with pytest.raises(ValueError, match=rf"a\.safetensors: of this network, .*{answer}"):
        start_from(tmp_path / "a.safetensors", config, LISTS, state)
