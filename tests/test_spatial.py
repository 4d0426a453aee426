"""Places of an augmented example, by hand and by SciPy."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cifp_jax.augmentation import Settings, spatial


@jax.jit
def moved(geometry: spatial.Geometry, image: jax.Array) -> jax.Array:
    at = spatial.places(geometry, image.shape, image.shape)
    return spatial.read_linear(image[..., None], at)[..., 0]


def test_a_quarter_turn_is_that_of_numpy():
    image = np.arange(25, dtype=np.float32).reshape(5, 5)
    turn = spatial.plane_rotation(jnp.asarray(math.pi / 2), 2, (0, 1))
    geometry = spatial.identity(2)._replace(matrix=turn)
    np.testing.assert_allclose(moved(geometry, jnp.asarray(image)), np.rot90(image, -1), atol=1e-4)


@pytest.mark.parametrize(("plane", "axes"), [((0, 1), (0, 1)), ((0, 2), (0, 2)), ((1, 2), (1, 2))])
def test_a_half_turn_of_a_volume(plane, axes):
    image = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    turn = spatial.plane_rotation(jnp.asarray(math.pi), 3, plane)
    geometry = spatial.identity(3)._replace(matrix=turn)
    # Turned by half, the last voxel may lie outside by a rounding: the border is left out.
    inner = (slice(1, -1),) * 3
    expected = np.rot90(image, 2, axes)[inner]
    np.testing.assert_allclose(moved(geometry, jnp.asarray(image))[inner], expected, atol=1e-4)


def test_any_map_is_that_of_scipy():
    image = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    matrix = np.array([[0.8, 0.3], [-0.2, 1.1]], np.float32)
    shift = np.array([0.4, -1.3], np.float32)
    geometry = spatial.identity(2)._replace(matrix=jnp.asarray(matrix), shift=jnp.asarray(shift))
    middle = (np.array(image.shape) - 1) / 2
    offset: Any = middle + shift - matrix @ middle
    expected = ndimage.affine_transform(image, matrix, offset, order=1, mode="constant")
    inside = ndimage.affine_transform(np.ones_like(image), matrix, offset, order=1, mode="constant")
    whole = inside == 1  # at the border, SciPy and JAX fade to zero in different ways
    assert whole.sum() > 20
    np.testing.assert_allclose(
        moved(geometry, jnp.asarray(image))[whole], expected[whole], atol=1e-4
    )


def test_a_bend_moves_by_its_voxels():
    image = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    bend = jnp.zeros((2, spatial.ELASTIC_GRID, spatial.ELASTIC_GRID)).at[1].set(2.0)
    shown = moved(spatial.identity(2)._replace(bend=bend), jnp.asarray(image))
    np.testing.assert_allclose(shown[:, :-2], image[:, 2:], atol=1e-5)


def test_labels_are_read_at_the_nearest_voxel():
    label = jnp.arange(6)
    at = jnp.array([[0.0, 0.4, 0.6, 2.49, 4.51, 7.0]])
    np.testing.assert_array_equal(spatial.read_nearest(label, at), [0, 0, 1, 2, 5, 0])


def test_draws_keep_to_their_limits():
    settings = dataclasses.replace(
        Settings(), full_rotation=0.0, rotation=10.0, tilt=5.0, scale=(1.0, 0.7, 1.35), mirror=0.5
    )
    keys = jax.random.split(jax.random.key(0), 500)
    draw = jax.vmap(lambda key: spatial.draw_geometry(key, (32, 16, 8), settings))
    drawn = jax.jit(draw)(keys)
    # The determinant is the volume read: the inverse of the size shown, cubed.
    volume = np.linalg.det(np.asarray(drawn.matrix))
    sizes = np.abs(volume) ** (-1 / 3)
    assert 0.7 - 1e-5 <= sizes.min() < 0.75
    assert 1.25 < sizes.max() <= 1.35 + 1e-5
    assert 0.4 < (volume < 0).mean() < 0.6  # mirrored
    limits = 0.08 * np.array([32, 16, 8])
    shift = np.abs(drawn.shift).max(axis=0)
    assert (shift <= limits + 1e-5).all()
    assert (shift > 0.9 * limits).all()
    bent = np.abs(np.asarray(drawn.bend)).max(axis=(1, 2, 3, 4)) > 0
    assert 0.2 < bent.mean() < 0.4
