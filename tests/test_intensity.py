"""Changes of grey values: by hand, by SciPy, and with their probabilities."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from cifp_jax.augmentation import intensity
from tests.support.augmentation import NOTHING

IMAGE = jnp.array([[1.0, 3.0], [5.0, 3.0]])[..., None]


def test_brightness_and_contrast():
    np.testing.assert_allclose(
        intensity.brighten(IMAGE, jnp.asarray(2.0))[..., 0], [[1, 5], [9, 5]]
    )
    np.testing.assert_allclose(
        intensity.contrast(IMAGE, jnp.asarray(0.5))[..., 0], [[2, 3], [4, 3]]
    )


def test_gamma():
    np.testing.assert_allclose(intensity.gamma(IMAGE, jnp.asarray(2.0))[..., 0], [[1, 2], [5, 2]])


def test_the_filter_is_that_of_scipy_within_the_image():
    image = np.random.default_rng(0).normal(size=(25, 21)).astype(np.float32)
    found = intensity.gaussian_filter(jnp.asarray(image)[..., None], jnp.asarray(1.0))[..., 0]
    expected = ndimage.gaussian_filter(image, 1.0, truncate=8)
    np.testing.assert_allclose(found[8:-8, 8:-8], expected[8:-8, 8:-8], atol=1e-5)


def test_half_the_resolution():
    line = jnp.array([0.0, 9.0, 2.0, 9.0, 6.0, 9.0])[:, None]
    # Read at 0, 2 and 4 (and 5, where 6 would be), and linear between.
    found = intensity.coarsen(line, jnp.asarray(0.5))[:, 0]
    np.testing.assert_allclose(found, [0, 1, 2, 4, 6, 7.5], atol=1e-6)
    np.testing.assert_allclose(intensity.coarsen(line, jnp.asarray(1.0)), line, atol=1e-6)


def test_each_change_comes_as_often_as_it_should():
    image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    kinds = {"gamma", "brightness", "contrast", "blur", "resolution", "noise"}
    for kind in kinds:
        settings = dataclasses.replace(NOTHING, **{kind: (0.25, 0.5, 0.8)})
        seen = jax.jit(jax.vmap(lambda key, s=settings: intensity.change(key, image, s)))(keys)
        changed = np.asarray(jnp.abs(seen - image).max(axis=(1, 2, 3))) > 1e-4
        assert 0.15 < changed.mean() < 0.35, kind


def test_noise_is_measured_in_the_image():
    image = 100 * jnp.asarray(np.random.default_rng(0).normal(size=(64, 64, 1)), jnp.float32)
    settings = dataclasses.replace(NOTHING, noise=(1.0, 0.2, 0.2))
    added = jax.jit(intensity.change, static_argnums=2)(jax.random.key(0), image, settings) - image
    np.testing.assert_allclose(np.std(added), 20, rtol=0.05)


def test_filter_spreads_a_point_as_a_gaussian():
    image = jnp.zeros((21, 21, 1)).at[10, 10, 0].set(1.0)
    out = np.asarray(intensity.gaussian_filter(image, jnp.float32(1.5)))[..., 0]
    np.testing.assert_allclose(out.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(out[10, 10], 1 / (2 * math.pi * 1.5**2), rtol=1e-3)
    np.testing.assert_allclose(out[12, 10] / out[10, 10], math.exp(-4 / (2 * 1.5**2)), rtol=1e-4)
    np.testing.assert_allclose(out[12, 13] / out[10, 10], math.exp(-13 / (2 * 1.5**2)), rtol=1e-4)


def test_filter_keeps_flat_volumes_and_axes_apart():
    flat = jnp.full((6, 5, 4, 2), -1.5)
    np.testing.assert_allclose(intensity.gaussian_filter(flat, jnp.float32(2)), flat, rtol=1e-5)
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], (6, 5, 4, 1))
    out = intensity.gaussian_filter(ramp, jnp.float32(1))
    np.testing.assert_allclose(out, jnp.broadcast_to(out[:1, :1], out.shape), rtol=1e-5)
    assert out[0, 0, 0, 0] > 0.2
