"""A scan as one vector, by a network whose features and foreground are read off the intensity."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.config import default_config
from cifp_jax.inference import embedding


class Halves(nn.Module):
    """Features: the image and its means over blocks of two; foreground: above 0.5, for sure."""

    def encode(self, x, *, train, keys=None):
        pooled = nn.avg_pool(x, (2,) * (x.ndim - 2), (2,) * (x.ndim - 2))
        return x, jnp.concatenate([pooled, 10 * pooled], axis=-1)

    def decode(self, maps, *, train, keys=None):
        steep = 1000 * (maps[0] - 0.5)
        return jnp.concatenate([-steep, steep], axis=-1)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(embedding, "make_network", lambda **_: Halves())
    config = default_config()
    config.data.name = "acdc"
    config.data.patch_size = (4, 4)
    return config


def describe(config, image, center=(0.5, 0.5, 0.5)):
    variables = {"params": {}, "batch_stats": {}}
    return embedding.make_describer(config)(variables)(image, center)


def slices():
    """Of three slices, two have foreground: four pixels of 1, and one of 0.8."""
    image = np.zeros((3, 4, 4), np.float32)
    image[0, :2, :2] = 1
    image[2, 3, 3] = 0.8
    return image


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_slices_count_by_their_foreground(config, batch):
    config.evaluation.batch = batch
    # Block means 1 and 0.2, of which 4/4 and 1/4 are foreground.
    mean = (1 * 1 + 0.25 * 0.2) / 1.25
    np.testing.assert_allclose(describe(config, slices()), [mean, 10 * mean], rtol=1e-5)


def test_slices_of_any_size_are_resized(config):
    large = slices().repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_allclose(describe(config, large), describe(config, slices()), rtol=1e-5)


def test_one_window_of_a_scan_and_no_more_is_seen(config):
    config.data.update({"name": "volumes", "patch_size": (4, 4, 4)})
    image = np.zeros((16, 16, 16), np.float32)
    image[8:12, 8:12, 8:12] = 2
    image[0:4, 0:4, 0:4] = 3
    np.testing.assert_allclose(describe(config, image, (0.625,) * 3), [2, 20], rtol=1e-5)
    np.testing.assert_allclose(describe(config, image, (0.01,) * 3), [3, 30], rtol=1e-5)
    np.testing.assert_allclose(describe(config, image, (0.9, 0.1, 0.5)), [0, 0], atol=1e-6)


def test_windows_of_slices_of_ones_own_and_coarser_scans(config):
    config.data.name = "slices"
    image = np.zeros((2, 16, 16), np.float32)
    image[:, 8:12, 0:4] = 2
    np.testing.assert_allclose(describe(config, image, (0.5, 0.625, 0.1)), [2, 20], rtol=1e-5)
    config.data.update({"name": "la", "patch_size": (4, 4, 4), "downsample": 2})
    image = np.full((8, 8, 8), 4, np.float32)
    np.testing.assert_allclose(describe(config, image), [4, 40], rtol=1e-5)


def test_boxes_stay_inside_and_are_filled_up():
    image = np.arange(10, dtype=np.float32).reshape(10, 1)
    for center, expected in ((0.5, [3, 4, 5, 6]), (0.0, [0, 1, 2, 3]), (1.0, [6, 7, 8, 9])):
        box = embedding.crop_around(image, [center], [4])
        assert box[:, 0].tolist() == expected
    assert embedding.crop_around(image[:3], [0.9], [6])[:, 0].tolist() == [0, 0, 1, 2, 0, 0]
