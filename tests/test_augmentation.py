"""Both streams under strong augmentation: agreement, identity, layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.augmentation import Settings, augment, augment_labeled
from tests.support.augmentation import NOTHING

SHAPES = ((12, 10), (8, 6, 10))


def example(shape: tuple[int, ...], count: int = 4) -> tuple[jax.Array, jax.Array]:
    drawn = np.random.default_rng(0)
    label = drawn.integers(0, 3, (count, *shape))
    return jnp.asarray(drawn.normal(size=(count, *shape, 2)), jnp.float32), jnp.asarray(label)


@functools.partial(jax.jit, static_argnums=(3, 4))
def labeled(keys, image, label, shape, settings):
    return augment_labeled(keys, image, label, shape, settings)


@functools.partial(jax.jit, static_argnums=(2, 3))
def unlabeled(keys, image, shape, settings):
    return augment(keys, image, shape, settings)


def keys(count: int = 4) -> jax.Array:
    return jax.random.split(jax.random.key(3), count)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_strength_changes_nothing(shape):
    image, label = example(shape)
    seen, same = labeled(keys(), image, label, shape, NOTHING)
    np.testing.assert_allclose(seen, image, atol=1e-6)
    np.testing.assert_array_equal(same, label)


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_larger_source_the_middle_is_seen(shape):
    source = tuple(n + 4 for n in shape)
    image, label = example(source)
    seen, below = labeled(keys(), image, label, shape, NOTHING)
    middle = (slice(None), *(slice(2, -2) for _ in shape))
    np.testing.assert_allclose(seen, image[middle], atol=1e-6)
    np.testing.assert_array_equal(below, label[middle])


@pytest.mark.parametrize("shape", SHAPES)
def test_image_and_label_keep_together(shape):
    """Of an image that shows its own label, what is read agrees wherever the label is not at an
    edge, where a linear reading mixes two classes."""
    settings = dataclasses.replace(
        NOTHING,
        full_rotation=1.0,
        tilt=20.0,
        scale=(1.0, 0.7, 1.35),
        stretch=1.2,
        mirror=0.5,
        translation=0.1,
        elastic_probability=1.0,
    )
    block = np.zeros(shape, np.int64)
    block[tuple(slice(2, n - 3) for n in shape)] = 1
    label = jnp.asarray(np.stack([block] * 16))
    image = label[..., None].astype(jnp.float32)
    seen, below = labeled(keys(16), image, label, shape, settings)
    sure = (seen[..., 0] < 0.01) | (seen[..., 0] > 0.99)
    assert 0.2 < float(jnp.mean(sure)) < 1
    np.testing.assert_array_equal(seen[..., 0][sure] > 0.5, below[sure] > 0)
    assert float(jnp.mean(below != label)) > 0, "nothing has moved"


def test_an_unlabelled_image_is_seen_as_a_labelled_one():
    image, label = example((12, 10))
    seen, _ = labeled(keys(), image, label, (12, 10), Settings())
    np.testing.assert_array_equal(unlabeled(keys(), image, (12, 10), Settings()), seen)


def test_every_example_has_its_own_draw():
    image, _ = example((12, 10))
    seen = unlabeled(keys(), jnp.stack([image[0]] * 4), (12, 10), Settings())
    assert len({np.asarray(one).tobytes() for one in seen}) == 4


def test_the_same_over_four_devices():
    image, label = example((12, 10))
    mesh = parallel.make_mesh()
    assert mesh.size == 4

    def step(image, label, index):
        own = parallel.example_keys(jax.random.key(1), index)
        return augment_labeled(own, image, label, (12, 10), Settings())

    with parallel.random_numbers():
        alone = jax.jit(step)(image, label, jnp.arange(4, dtype=jnp.int32))
        shards = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))
        spread = [jax.device_put(x, shards) for x in (image, label, jnp.arange(4, dtype=jnp.int32))]
        shared = jax.jit(step, in_shardings=(shards,) * 3, out_shardings=shards)(*spread)
    np.testing.assert_allclose(shared[0], alone[0], atol=1e-5)
    np.testing.assert_array_equal(shared[1], alone[1])
