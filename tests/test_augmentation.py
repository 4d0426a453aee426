"""Both streams under strong augmentation: agreement, identity, layout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.augmentation import Settings, augment, augment_batch, carry, source_size, spatial
from cifp_jax.mesh import DATA, make_mesh
from tests.support.augmentation import NOTHING

SHAPES = ((12, 10), (8, 6, 10))


def example(shape: tuple[int, ...], count: int = 4) -> tuple[jax.Array, jax.Array]:
    drawn = np.random.default_rng(0)
    label = drawn.integers(0, 3, (count, *shape))
    return jnp.asarray(drawn.normal(size=(count, *shape, 2)), jnp.float32), jnp.asarray(label)


def streams(image: jax.Array, label: jax.Array) -> dict:
    """A batch whose two streams show the same."""
    index = jnp.arange(len(image), dtype=jnp.int32)
    return {
        "labeled": {"image": image, "label": label, "index": index},
        "unlabeled": {"image": image, "index": index},
    }


@functools.partial(jax.jit, static_argnums=(2, 3))
def labeled(image, label, shape, settings):
    batch = augment_batch(jax.random.key(3), streams(image, label), shape, settings)
    return batch["labeled"]["image"], batch["labeled"]["label"]


@functools.partial(jax.jit, static_argnums=(2, 3))
def unlabeled(keys, image, shape, settings):
    return augment(keys, image, shape, settings)


def keys(count: int = 4) -> jax.Array:
    return jax.random.split(jax.random.key(3), count)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_strength_changes_nothing(shape):
    image, label = example(shape)
    seen, same = labeled(image, label, shape, NOTHING)
    np.testing.assert_allclose(seen, image, atol=1e-6)
    np.testing.assert_array_equal(same, label)


@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_larger_source_the_middle_is_seen(shape):
    source = tuple(n + 4 for n in shape)
    image, label = example(source)
    seen, below = labeled(image, label, shape, NOTHING)
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
    seen, below = labeled(image, label, shape, settings)
    sure = (seen[..., 0] < 0.01) | (seen[..., 0] > 0.99)
    assert 0.2 < float(jnp.mean(sure)) < 1
    np.testing.assert_array_equal(seen[..., 0][sure] > 0.5, below[sure] > 0)
    assert float(jnp.mean(below != label)) > 0, "nothing has moved"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prediction_is_carried_as_a_label_is(shape):
    """A sure prediction of the source becomes that of the image that was read from it."""
    settings = dataclasses.replace(NOTHING, full_rotation=1.0, scale=(1.0, 0.7, 1.35), elastic=0.05)
    source = tuple(n + 4 for n in shape)
    _, label = example(source, 8)
    probs = jax.nn.one_hot(label, 3)
    _, seen, places = unlabeled(keys(8), probs, shape, settings)
    carried = jax.jit(carry)(probs, places)
    np.testing.assert_allclose(carried.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(carried[..., 1:], seen[..., 1:], atol=1e-5)


def test_outside_of_the_source_a_carried_prediction_is_background():
    probs = jnp.zeros((1, 4, 3)).at[..., 2].set(1.0)
    inside = jnp.array([[[0.0, 1.5, 3.0]]])
    np.testing.assert_allclose(carry(probs, inside), probs[:, :3])
    # Half a voxel beyond the border half of the reading is of what lies outside.
    beyond = jnp.array([[[-0.5, 9.0]]])
    np.testing.assert_allclose(carry(probs, beyond)[0], [[0.5, 0, 0.5], [1, 0, 0]])


def test_a_carried_prediction_is_never_negative():
    """Without background the rounding of the other classes' sum must not make it negative."""
    drawn = np.random.default_rng(0).dirichlet(np.ones(3), (1, 4000)).astype(np.float32)
    probs = jnp.concatenate([jnp.zeros((1, 4000, 1)), drawn], axis=-1)
    at = jnp.arange(3999.0)[None, None] + 0.37
    carried = carry(probs, at)
    assert float((probs.sum(axis=-1) - 1).max()) > 0, "no rounding at all"
    assert float(carried.min()) >= 0


def test_sources_leave_room_and_suit_the_networks():
    assert source_size((64, 64, 48), 1.25) == (80, 80, 64)
    assert source_size((64, 48), 1.0) == (64, 48)


def test_every_example_has_its_own_draw():
    image, _ = example((12, 10))
    strong, weak, _ = unlabeled(keys(), jnp.stack([image[0]] * 4), (12, 10), Settings())
    for seen in (strong, weak):
        assert len({np.asarray(one).tobytes() for one in seen}) == 4


def test_pseudo_labels_are_made_of_gray_values_as_they_are():
    """The two views of an unlabelled image lie alike; only the strong one changes its values."""
    image, label = example((12, 10))
    noisy = dataclasses.replace(Settings(), noise=(1.0, 0.3, 0.3))
    batch = augment_batch(jax.random.key(1), streams(image, label), (12, 10), noisy)["unlabeled"]
    at = batch["places"]
    read = jnp.stack(
        [spatial.read_linear(one, place) for one, place in zip(image, at, strict=True)]
    )
    np.testing.assert_allclose(batch["image"], read, atol=1e-5)
    assert float(jnp.abs(batch["strong"] - batch["image"]).mean()) > 0.1
    quiet = dataclasses.replace(
        NOTHING, full_rotation=1.0, scale=(1.0, 0.7, 1.35), elastic=0.05, mirror=0.5
    )
    batch = augment_batch(jax.random.key(1), streams(image, label), (12, 10), quiet)["unlabeled"]
    np.testing.assert_array_equal(batch["strong"], batch["image"])


def test_the_same_over_four_devices():
    image, label = example((12, 10))
    mesh = make_mesh()
    assert mesh.size == 4

    def step(batch):
        return augment_batch(jax.random.key(1), batch, (12, 10), Settings())

    batch = streams(image, label)
    with parallel.random_numbers():
        alone = jax.jit(step)(batch)
        shards = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(DATA))
        spread = jax.device_put(batch, shards)
        shared = jax.jit(step, in_shardings=(shards,), out_shardings=shards)(spread)
    np.testing.assert_array_equal(shared["labeled"]["label"], alone["labeled"]["label"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), shared, alone)
