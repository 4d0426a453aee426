"""What a trained network says about a whole volume."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.inference import prediction
from cifp_jax.training import build, run_folder
from cifp_jax.training.state import network_variables
from tests.support.intensity_run import intensity_run


def test_acdc_runs_see_slices_scaled_as_in_training(tmp_path, monkeypatch):
    run = intensity_run(tmp_path / "run", monkeypatch)
    config = json.loads((run / "config.json").read_text())
    config["data"].update({"name": "acdc", "patch_size": [32, 32]})
    config["evaluation"]["stride"] = [18, 18, 4]
    config["augmentation"]["strong"]["gamma"] = [0.5, 0.7, 1.4]
    del config["preparation"]  # a run from before there was any
    (run / "config.json").write_text(json.dumps(config))
    loaded = prediction.prediction_config(run_folder.load_config(run))
    assert prediction.preparation(loaded).normalization == (("minmax",),)
    assert prediction.window_rows(loaded) == (1, 1)
    assert loaded.augmentation.strong.gamma == (0.5, 0.7, 1.4)


def test_on_a_cpu_a_device_has_one_slice_at_a_time(monkeypatch):
    """Ten slices in passes of eight would cost as much as sixteen."""
    batches = []
    monkeypatch.setattr(
        prediction, "make_slicewise", lambda apply, patch, batch, *_, **__: batches.append(batch)
    )
    monkeypatch.setattr(prediction.jax, "local_device_count", lambda: 3)
    config = default_config()
    config.data.name, config.data.patch_size = "acdc", (32, 32)
    for platform, asked in (("cpu", 8), ("cpu", 2), ("gpu", 8)):
        monkeypatch.setattr(prediction.jax, "default_backend", lambda platform=platform: platform)
        config.evaluation.batch = asked
        prediction.make_predictor(config)
    assert batches == [3, 2, 8]


def test_flips_average_the_mirror_images():
    """Logits that grow from left to right: mirrored and averaged, both ends are alike."""

    def apply(_, x):
        ramp = jnp.arange(x.shape[2], dtype=np.float32)[:, None]
        return jnp.concatenate([0 * ramp, ramp], axis=-1) + 0 * x

    x = jnp.zeros((1, 2, 4, 1))
    logits = np.asarray(prediction._mean_of_flips(apply)({}, x))
    share = 1 / (1 + np.exp(-np.arange(4.0)))
    expected = (share + share[::-1]) / 2
    np.testing.assert_allclose(np.exp(logits[0, 0, :, 1]), expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(logits).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(("axis", "mirrored"), [(0, True), (1, True), (2, False)])
def test_a_volume_is_mirrored_in_the_plane_that_training_mirrors(axis, mirrored):
    """Training never shows a scan upside down: LA loses 5 % Dice where a prediction does."""

    def apply(_, x):
        shape = [1] * 5
        shape[1 + axis] = x.shape[1 + axis]
        ramp = jnp.arange(x.shape[1 + axis], dtype=np.float32).reshape(shape)
        return jnp.concatenate([0 * x, ramp + 0 * x], axis=-1)

    logits = np.asarray(prediction._mean_of_flips(apply)({}, jnp.zeros((1, 3, 4, 5, 1))))
    one = np.moveaxis(np.exp(logits[0, ..., 1]), axis, 0)[:, 0, 0]
    share = 1 / (1 + np.exp(-np.arange(len(one), dtype=float)))
    np.testing.assert_allclose(one, (share + share[::-1]) / 2 if mirrored else share, rtol=1e-5)


@pytest.mark.parametrize(("name", "axes"), [("acdc", (1, 2)), ("la", (0, 1)), ("volumes", (0, 1))])
def test_the_mirrored_axes_of_a_record(name, axes):
    config = default_config()
    config.data.name = name
    assert prediction.mirrored_axes(config) == axes


def test_an_evaluation_with_flips_says_the_same_of_a_mirror_image():
    config = default_config()
    config.data.name, config.data.patch_size = "acdc", (16, 16)
    config.model.filters = (2, 2, 2, 2, 2)
    variables = network_variables(build.make_state(config), "ema")
    image = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)

    def unlike(flips):
        config.evaluation.flips = flips
        predict = prediction.make_predictor(config)(variables)
        return np.abs(predict(image)[:, :, ::-1] - predict(image[:, :, ::-1])).max()

    assert unlike(True) < 1e-6 < 1e-3 < unlike(False)
