"""Files that are to be weights and are none: one sentence with the file, never the scan's fault."""

import json

import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict

from cifp_jax import predict
from cifp_jax.inference import weights
from cifp_jax.scans.preparation import LA
from cifp_jax.training import run_folder
from tests.support.dicom_files import series

NETWORK = {"name": "vnet", "classes": 2, "filters": (2, 2, 2, 2, 2)}
FACTS = {
    "network": NETWORK,
    "data": {
        **{"name": "la", "patch_size": [16, 16, 16], "downsample": 1},
        **{"channels": 1, "center_crop": 0, "interpolation": "nearest"},
    },
    "preparation": dict(vars(LA)),
    "evaluation": {"largest_component": ""},
    "method": "supervised",
    "step": 1,
    "training_list": {"labeled": [], "unlabeled": []},
}


def variables():
    """Zeros in the shapes of the network."""
    flat = weights.shapes_of(NETWORK, 3, 1)
    return unflatten_dict({path: np.zeros(shape) for path, shape in flat.items()})


def saved(path, **changes):
    weights.save_weights(path, weights.Weights(variables(), FACTS | changes))
    return path


def test_a_whole_file(tmp_path):
    config, loaded = run_folder.load_network(saved(tmp_path / "a.safetensors"))
    assert config.model.name == "vnet"
    assert not weights.misfit(loaded, weights.shapes_of(NETWORK, 3, 1))


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"network": NETWORK | {"name": "swin"}}, r"does not say what network.*'swin'"),
        ({"network": {"depth": 5}}, "does not say what network"),
        ({"data": FACTS["data"] | {"name": "moon"}}, "does not say what network.*'moon'"),
        ({"network": NETWORK | {"classes": 5}}, r"head/.* has shape .*2.*, where .*5.* is due"),
    ],
)
def test_headers_that_are_of_no_network(tmp_path, changes, answer):
    path = saved(tmp_path / "a.safetensors", **changes)
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{answer}.*export"):
        run_folder.load_network(path)


def test_a_damaged_header(tmp_path):
    metadata = {name: json.dumps(value) for name, value in FACTS.items()}
    metadata |= {"format": weights.FORMAT, "network": "{name"}
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(3)}, metadata=metadata))
    with pytest.raises(ValueError, match=r"a\.safetensors: its header is damaged"):
        weights.load_weights(path)


def test_the_scan_is_not_blamed(tmp_path, capsys):
    path = saved(tmp_path / "a.safetensors", network=NETWORK | {"classes": 5})
    scan = series(tmp_path / "scan")
    assert predict.main([f"--weights={path}", str(scan), str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "error:" in printed
    assert "a.safetensors" in printed
    assert str(scan) not in printed
    assert not (tmp_path / "out").exists()
