"""The ground floor on four fake devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.mesh import DATA, local_mesh


def test_global_sum_has_the_global_value_and_gradients_that_add_up():
    x = jnp.arange(1.0, 5.0)

    def square_of_sum(v, axis_name):
        return parallel.global_sum(v, axis_name) ** 2

    value, gradient = jax.pmap(
        lambda v: jax.value_and_grad(square_of_sum)(v, DATA), axis_name=DATA
    )(x)
    np.testing.assert_allclose(value, 100.0)
    # d (a + b + c + d)^2 / da = 2 * 10: each device holds the gradient of its own number.
    np.testing.assert_allclose(gradient, 20.0)


def test_weighted_mean_divides_by_the_global_weight():
    values, weights = jnp.array([1.0, 2.0, 3.0, 10.0]), jnp.array([0.0, 0.0, 3.0, 1.0])
    mean = jax.pmap(lambda v, w: parallel.weighted_mean(v, w, DATA), axis_name=DATA)(
        values, weights
    )
    # (3 * 3 + 1 * 10) / 4; a mean of the devices' means would give (0 + 0 + 3 + 10) / 4.
    np.testing.assert_allclose(mean, 19 / 4)
    assert parallel.weighted_mean(values, jnp.zeros(4), None) == 0


def test_streams_are_joined_inside_each_block_and_parted_again():
    a, b = jnp.arange(4), jnp.arange(10, 18)
    joined = parallel.concat_streams(a, b, shards=2)
    np.testing.assert_array_equal(joined, [0, 1, 10, 11, 12, 13, 2, 3, 14, 15, 16, 17])
    for part, whole in zip(parallel.split_streams(joined, 4, 2), (a, b), strict=True):
        np.testing.assert_array_equal(part, whole)


def test_partners_are_the_same_on_any_layout():
    x = {"a": jnp.arange(3), "b": jnp.arange(6).reshape(3, 2)}
    got = parallel.take_partners(x, 6, 1)
    np.testing.assert_array_equal(got["a"], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(got["b"][4], [4, 5])
    np.testing.assert_array_equal(parallel.take_partners(jnp.arange(4), 2, 1), [0, 2])
    np.testing.assert_array_equal(parallel.take_partners(jnp.arange(4), 4, 1), [0, 1, 2, 3])
    whole = parallel.take_partners(jnp.arange(8), 12, 1)
    np.testing.assert_array_equal(parallel.take_partners(jnp.arange(8), 12, 4), whole)


def test_pairs_swap():
    np.testing.assert_array_equal(parallel.swap_pairs(jnp.array([1, 2, 3, 4])), [2, 1, 4, 3])
    with pytest.raises(ValueError, match="odd"):
        parallel.swap_pairs(jnp.arange(3))


def test_example_keys_depend_on_the_index_alone():
    rng = jax.random.key(0)
    keys = parallel.example_keys(rng, jnp.array([7, 3]))
    assert keys[1] == jax.random.fold_in(rng, 3)
    assert keys[0] != keys[1]


def test_a_mapped_batch_is_computed_by_the_devices_that_divide_it():
    def function(factor, batch):
        # The mean tells a device's own part from the whole.
        return factor * batch["x"] - jnp.mean(batch["x"])

    batch = {"x": np.arange(8.0, dtype=np.float32)}
    for size, mode, devices in ((8, "jit", 4), (8, "none", 1), (6, "pmap", 3), (7, "jit", 1)):
        mesh = local_mesh(size, mode)
        assert mesh.size == devices
        factor = parallel.replicate(np.float32(2), "jit", mesh)
        x = batch["x"][:size]
        got = parallel.map_batch(function, mesh)(factor, {"x": x})
        means = x.reshape(devices, -1).mean(axis=1).repeat(size // devices)
        np.testing.assert_allclose(got, 2 * x - means, rtol=1e-6)
        assert got.devices() == {jax.devices()[0]}


@pytest.mark.parametrize(("labeled", "unlabeled"), [(4, 8), (8, 12), (0, 8)])
def test_a_batch_that_the_devices_do_not_divide_is_refused(labeled, unlabeled):
    sizes = {"batch_labeled": labeled, "batch_unlabeled": unlabeled}
    with pytest.raises(ValueError, match="multiple of 8"):
        parallel.check_batch(sizes, 2, "jit")
    if labeled:
        parallel.check_batch(sizes, 2, "none")
        parallel.check_batch(sizes, 1, "jit")


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="jit, pmap, none"):
        parallel.shard_count("tpu")


@pytest.mark.parametrize("mode", ["pmap", "none"])
def test_several_processes_train_one_network_in_one_mode_alone(mode, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=f"config.parallel='{mode}' keeps to one process"):
        parallel.shard_count(mode)


def test_free_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    assert parallel.free_memory() is None  # CPUs do not tell
    full, empty = ({"bytes_limit": 100, "bytes_in_use": used} for used in (70, 10))
    devices = [Device(empty), Device(full), Device(None)]
    monkeypatch.setattr(parallel, "jax", SimpleNamespace(local_devices=lambda: devices))
    assert parallel.free_memory() == 30
