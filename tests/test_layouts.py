"""What a layout allows, and that one entry of the table is all that a new one needs."""

import dataclasses
import pathlib
import re

import h5py
import numpy as np
import pytest

from cifp_jax import export as export_command
from cifp_jax.config import default_config
from cifp_jax.data.layouts import LAYOUTS, Layout, find_layout
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.inference import prediction
from cifp_jax.inference.weights import load_weights
from cifp_jax.scans.preparation import Preparation
from cifp_jax.training import build, checks, run_folder
from cifp_jax.training.checkpoint import Checkpoints

PAGE = pathlib.Path(__file__).parents[1] / "docs/howto/new_layout.md"
PATCH = (16, 16, 16)


@pytest.fixture
def spleen(monkeypatch, tmp_path):
    """The layout of the how-to, with six scans, and a configuration of them."""
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    ((name, layout),) = eval(f"{{{block}}}", {"Layout": Layout, "Preparation": Preparation}).items()
    monkeypatch.setitem(LAYOUTS, name, layout)
    (tmp_path / "data/Spleen_h5").mkdir(parents=True)
    cases = [f"image{i:04}" for i in range(6)]
    for i, case in enumerate(cases):
        with h5py.File(tmp_path / f"data/Spleen_h5/{case}_norm.h5", "w") as file:
            file["image"] = np.full((40, 36, 34), i, np.float32)
            file["label"] = np.full((40, 36, 34), i % 2, np.uint8)
    (tmp_path / "data/train.list").write_text("\n".join(cases))
    config = default_config()
    config.parallel = "none"
    config.method.name = "supervised"
    config.model.update({"name": "vnet", "classes": 2, "filters": (2, 2, 2, 2, 2)})
    config.data.update({"name": name, "root": str(tmp_path / "data"), "patch_size": PATCH})
    config.evaluation.stride = PATCH
    config.data.update({"labeled": 2, "validation": 1, "batch_labeled": 2, "batch_unlabeled": 2})
    return config


def untrained_run(config, folder):
    """A run that was stopped before its first step."""
    folder.mkdir()
    (folder / "config.json").write_text(build.describe(config))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(build.make_state(config), {})
    return folder


def test_a_new_layout_is_split_checked_and_batched(spleen):
    checks.check_config(spleen)
    split = build.make_split(spleen)
    sets = (split.labeled, split.unlabeled, split.validation, split.test)
    assert ["".join(case.name[-1] for case in cases) for cases in sets] == ["01", "234", "5", ""]
    batch = next(build.make_iterator(spleen, split))
    images = {stream: batch[stream]["image"] for stream in ("labeled", "unlabeled")}
    assert all(image.shape == (2, *PATCH, 1) for image in images.values())
    assert set(np.unique(images["labeled"])) <= {0, 1}
    assert set(np.unique(images["unlabeled"])) <= {2, 3, 4}
    np.testing.assert_array_equal(images["labeled"][..., 0], batch["labeled"]["label"])


def test_a_new_layout_allows_what_its_cut_allows(spleen):
    spleen.data.update({"downsample": 2, "on_device": True})
    checks.check_config(spleen)
    batch = next(build.make_iterator(spleen, build.make_split(spleen)))
    assert (batch["labeled"]["start"] <= (4, 2, 1)).all()  # of scans of 20 x 18 x 17
    spleen.data.channels = 2
    with pytest.raises(ValueError, match="channels must be 1 for spleen"):
        checks.check_config(spleen)
    spleen.data.update({"channels": 1, "phantoms": 4})
    with pytest.raises(ValueError, match="written for la, acdc only, and not for spleen"):
        checks.check_config(spleen)


def test_a_new_layout_is_predicted_and_exported(spleen, tmp_path):
    run = untrained_run(spleen, tmp_path / "run")
    out = tmp_path / "spleen.safetensors"
    export_command.main([f"--weights={run}", f"--out={out}"])
    facts = load_weights(out).facts
    assert facts["data"]["name"] == "spleen"
    assert facts["preparation"]["normalization"] == [["fixed", -125.0, 275.0, 75.0, 200.0]]
    assert facts["training_list"] == {
        "labeled": ["image0000", "image0001"],
        "unlabeled": ["image0002", "image0003", "image0004"],
    }
    run_folder.check_same_data(spleen, out, facts)
    config, variables = run_folder.load_network(out)
    assert prediction.preparation(config) == LAYOUTS["spleen"].preparation
    assert prediction.window_rows(config) == (16, 18)
    config.update_from_flattened_dict({"parallel": "none", "evaluation.stride": PATCH})
    probabilities = prediction.make_predictor(config)(variables)(np.zeros(PATCH, np.float32))
    assert probabilities.shape == (*PATCH, 2)


def test_an_exported_header_says_what_the_layout_does(tmp_path):
    """`config.preparation` has its default, z-score, where the layout has a rule of its own."""
    write_phantoms(tmp_path / "ACDC", 2, train=3, validation=1, shape=(32, 32))
    config = default_config()
    config.parallel = "none"
    config.method.name = "supervised"
    config.model.filters = (2, 2, 2, 2, 2)
    config.data.update({"name": "acdc", "root": str(tmp_path / "ACDC"), "patch_size": (16, 16)})
    config.data.update({"labeled": 2, "batch_labeled": 2, "batch_unlabeled": 2})
    assert config.preparation.normalization == (("zscore",),)
    out = tmp_path / "acdc.safetensors"
    export_command.main([f"--weights={untrained_run(config, tmp_path / 'run')}", f"--out={out}"])
    found = load_weights(out).facts["preparation"]
    assert (found["normalization"], found["axes"]) == ([["minmax"]], [2, 1, 0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        #         slices of volumes, whole slices, channels, averaged down, on the device, phantoms
        ("la", (False, False, False, True, True, True)),
        ("acdc", (False, True, False, False, False, True)),
        ("volumes", (False, False, True, False, False, False)),
        ("slices", (True, False, True, False, False, False)),
        ("pancreas", (False, False, False, True, True, False)),
        ("brats2019", (False, False, False, True, True, False)),
        ("prostate", (False, True, False, False, False, False)),
        ("mnms", (False, True, False, False, False, False)),
    ],
)
def test_what_the_layouts_allow(name, expected):
    layout = find_layout(name)
    assert expected == (
        layout.trains_on_slices_of_volumes,
        layout.predicts_whole_slices,
        layout.may_have_channels,
        layout.may_be_averaged_down,
        layout.may_lie_on_device,
        layout.phantoms,
    )


@pytest.mark.parametrize(("name", "rank"), [("la", 2), ("acdc", 3), ("volumes", 1)])
def test_a_cut_of_another_rank_is_refused(name, rank):
    with pytest.raises(ValueError, match=f"has rank .*, not {rank}"):
        dataclasses.replace(LAYOUTS[name], rank=rank)


def test_an_unknown_layout_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"config\.data\.name is 'LA'; known: la, acdc, volumes, sl"
    ):
        find_layout("LA")
