"""Layers against XLA's own convolutions, values worked out by hand, and their limits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from cifp_jax.models import layers


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize("spatial", [(4, 6), (4, 2, 6)])
def test_down_is_a_convolution_of_stride_two(spatial):
    (x,) = draw((2, *spatial, 3))
    x = x.astype(jnp.float32)
    y, variables = layers.Down(5).init_with_output(jax.random.key(0), x)
    params: Any = variables["params"]
    numbers = ("NXYC", "XYIO", "NXYC") if x.ndim == 4 else ("NXYZC", "XYZIO", "NXYZC")
    expected = lax.conv_general_dilated(
        x, params["kernel"], (2,) * (x.ndim - 2), "VALID", dimension_numbers=numbers
    )
    expected += params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_up_paints_each_value_as_a_block_of_the_kernel():
    kernel = jnp.arange(8.0).reshape(2, 2, 2, 1)  # window, 2 channels in, 1 out
    variables = {"params": {"kernel": kernel, "bias": jnp.array([0.5])}}
    x = jnp.array([[[[1.0, 0.0], [0.0, 10.0]]]])  # 1x2 pixels
    y = layers.Up(1).apply(variables, x)
    assert isinstance(y, jax.Array)
    # First channel of the kernel: 0 2 / 4 6; second: 1 3 / 5 7.
    np.testing.assert_allclose(y[0, ..., 0], [[0.5, 2.5, 10.5, 30.5], [4.5, 6.5, 50.5, 70.5]])


@pytest.mark.parametrize(("layer", "fan_in"), [("Conv", 27 * 6), ("Down", 8 * 6), ("Up", 8 * 50)])
def test_parameters_start_uniform_within_the_root_of_the_fan_in(layer, fan_in):
    x = jnp.zeros((1, 2, 2, 2, 6))
    params = getattr(layers, layer)(50).init(jax.random.key(0), x)["params"]
    for value in (params["kernel"], params["bias"]):
        largest = float(jnp.abs(value).max()) * fan_in**0.5
        assert 0.9 < largest <= 1
        assert float(value.min()) < 0 < float(value.max())


def test_upsampling_keeps_the_corners_and_is_linear():
    # Three samples at 0, 1, 2 become six at multiples of 2/5.
    x = jnp.array([0.0, 5.0, 20.0]).reshape(1, 3, 1, 1)
    y = layers.upsample(x)
    assert y.shape == (1, 6, 2, 1)
    np.testing.assert_allclose(y[0, :, 0, 0], [0, 2, 4, 8, 14, 20], rtol=1e-6)
    np.testing.assert_array_equal(y[:, :, 0], y[:, :, 1])


def test_upsampling_a_linear_field_gives_a_linear_field():
    line = lambda n: jnp.linspace(0.0, 1.0, n)  # noqa: E731
    slopes = jnp.array([1.0, -2.0, 3.0])
    field = lambda *n: jnp.tensordot(  # noqa: E731
        slopes, jnp.stack(jnp.meshgrid(*map(line, n), indexing="ij")), 1
    )
    y = layers.upsample(field(3, 5, 2)[None, ..., None])
    np.testing.assert_allclose(y[0, ..., 0], field(6, 10, 4), atol=1e-6)


def test_max_pool_takes_the_largest_of_each_block():
    x = jnp.array([[1.0, 2, -5, -6], [4, 3, -8, -7]]).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(layers.max_pool(x)[0, :, :, 0], [[4, -5]])


def test_of_equal_values_the_first_gets_the_gradient():
    x = jnp.array([[1.0, 3.0, 2.0, 2.0], [3.0, 3.0, 2.0, 2.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: jnp.sum(layers.max_pool(x)))(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("channels", [True, False])
def test_an_example_keeps_its_mask_wherever_it_is(channels):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jnp.ones((4, 3, 5, 7))
    drop = lambda x, keys: layers.dropout(x, 0.4, keys, 2, channels=channels)  # noqa: E731
    whole = drop(x, keys)
    parts = [drop(x[i : i + 2], keys[i : i + 2]) for i in (0, 2)]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))
    np.testing.assert_array_equal(whole[::-1], drop(x, keys[::-1]))
    assert len({np.asarray(mask).tobytes() for mask in whole}) == 4


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    keys = jax.random.split(jax.random.key(0), 8)
    y = layers.dropout(jnp.full((8, 50, 50, 4), 3.0), 0.2, keys, 0, channels=False)
    assert abs(float((y == 0).mean()) - 0.2) < 0.01
    np.testing.assert_allclose(np.unique(y), [0, 3.75])
    assert abs(float(y.mean()) - 3) < 0.02


def test_channel_dropout_takes_whole_channels_and_layers_differ():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.ones((2, 4, 4, 64))
    y, z = (layers.dropout(x, 0.5, keys, layer, channels=True) for layer in (0, 1))
    np.testing.assert_array_equal(y, jnp.broadcast_to(y[:, :1, :1], y.shape))
    assert not np.array_equal(y, z)


@pytest.mark.parametrize(("rate", "with_keys"), [(0.5, False), (0.0, True)])
def test_no_keys_or_no_rate_is_no_dropout(rate, with_keys):
    x = jnp.ones((2, 4, 4, 3))
    keys = jax.random.split(jax.random.key(0), 2) if with_keys else None
    assert layers.dropout(x, rate, keys, 0, channels=False) is x


def test_batch_norm_of_values_worked_out_by_hand():
    x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(2, 2, 1)  # mean 4, biased variance 5
    variables = {
        "params": {"scale": jnp.array([2.0]), "bias": jnp.array([1.0])},
        "batch_stats": {"mean": jnp.array([2.0]), "var": jnp.array([4.0])},
    }
    norm: nn.BatchNorm = layers.batch_norm(None)
    result: Any = norm.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
    y, moved = result
    np.testing.assert_allclose(
        np.ravel(y), 1 + 2 * np.array([-3, -1, 1, 3]) / np.sqrt(5 + 1e-5), rtol=1e-5
    )
    np.testing.assert_allclose(moved["batch_stats"]["mean"], [0.9 * 2 + 0.1 * 4])
    np.testing.assert_allclose(moved["batch_stats"]["var"], [0.9 * 4 + 0.1 * 5])


@pytest.mark.parametrize("train", [True, False])
def test_instance_norm_of_values_worked_out_by_hand(train):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.normalize(x, "instance", None, train=train)

    # Two images of three voxels: means 2 and 40, biased variances 2 / 3 and 200 / 3.
    x = jnp.array([[1.0, 2.0, 3.0], [30.0, 40.0, 50.0]])[..., None]
    params = {"scale": jnp.array([2.0]), "bias": jnp.array([1.0])}
    y: Any = Layer().apply({"params": {"InstanceNorm_0": params}}, x)
    centred = np.array([[-1, 0, 1], [-10, 0, 10]])
    variances = np.array([[2 / 3], [200 / 3]])
    expected = 1 + 2 * centred / np.sqrt(variances + 1e-5)
    np.testing.assert_allclose(np.squeeze(y), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "fits"), [((15, 32), "(16, 32)"), ((3, 40), "(16, 32)"), ((250, 90, 16), "(256, 96")]
)
def test_a_size_that_does_not_fit_is_named_with_one_that_does(size, fits):
    with pytest.raises(ValueError, match="multiple of 16") as error:
        layers.check_size(size, 16)
    assert str(size) in str(error.value)
    assert fits in str(error.value)


def test_a_size_that_fits_passes():
    layers.check_size((16, 112, 80), 16)
