"""Strong views of an image, by hand and by their statistics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import views
from tests.support.steps import quick


def many(function, count: int, *args):
    return jax.jit(jax.vmap(lambda key: function(key, *args)))(
        jax.random.split(jax.random.key(1), count)
    )


@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_jitter_is_two_factors_around_minimum_and_mean(shift):
    image = jnp.array([0.0, 1.0, 2.0, 5.0])[:, None, None] + shift  # mean 2, minimum 0
    out = np.asarray(many(views.jitter, 3000, image))[..., 0, 0] - shift
    same = np.isclose(out, [0, 1, 2, 5], atol=1e-5).all(axis=1)
    assert abs((~same).mean() - views.JITTER_PROBABILITY) < 0.03
    # Brightness b moves the mean to 2 b; contrast c then makes the slope b c.
    brightness = out.mean(axis=1) / 2
    contrast = (out[:, 3] - out[:, 0]) / 5 / brightness
    for factor in (brightness[~same], contrast[~same]):
        assert factor.min() >= 0.5 - 1e-4
        assert factor.max() <= 1.5 + 1e-4
        assert abs(factor.mean() - 1) < 0.03
        assert factor.std() > 0.25
    assert abs(np.corrcoef(brightness[~same], contrast[~same])[0, 1]) < 0.1


def test_gamma_keeps_the_range_and_bends_between():
    image = jnp.array([-2.0, 0.0, 2.0])[:, None, None, None]
    out = np.asarray(many(views.gamma, 500, image))[..., 0, 0, 0]
    np.testing.assert_allclose(out[:, [0, 2]], [[-2, 2]] * 500, atol=1e-5)
    power = np.log((out[:, 1] + 2) / 4) / math.log(0.5)
    assert np.exp(-0.5) - 1e-4 <= power.min() < 0.65
    assert 1.6 < power.max() <= np.exp(0.5) + 1e-4


def test_gamma_of_a_flat_image_is_the_image():
    image = jnp.full((4, 4, 4, 1), 3.0)
    np.testing.assert_allclose(views.gamma(jax.random.key(0), image), image)


def test_blur_happens_half_of_the_time():
    image = jnp.zeros((9, 9, 1)).at[4, 4, 0].set(1.0)
    peak = np.asarray(many(views.blur, 2000, image))[:, 4, 4, 0]
    # A sigma under 0.3 leaves the point alone; those are 0.2 / 1.9 of the blurred ones.
    assert abs((peak > 0.99).mean() - (0.5 + 0.5 * 0.2 / 1.9)) < 0.05


def test_noise_is_clipped_and_scaled_by_the_image():
    image = 5 * jnp.asarray(np.random.default_rng(0).normal(size=(20, 20, 20, 1)), jnp.float32)
    change = np.asarray(views.noise(jax.random.key(0), image) - image) / 5
    assert abs(np.abs(change).max() - 0.2) < 0.01
    assert 0.07 < change.std() < 0.1


def test_views_depend_on_their_key_and_keep_the_shape():
    view = quick(jax.vmap(views.photometric))
    for shape in ((16, 12, 1), (8, 8, 6, 1)):
        image = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
        keys = jax.random.split(jax.random.key(0), 4)
        out = view(keys, image)
        assert out.shape == image.shape
        assert bool(jnp.isfinite(out).all())
        alone = view(keys[2:3], image[2:3])
        np.testing.assert_allclose(out[2], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spatial", [(96, 64), (56, 48, 40)])
def test_boxes_cover_2_to_40_percent_and_are_boxes(spatial):
    rank = len(spatial)

    def describe(key):
        mask = views.box_mask(key, spatial, 1.0)
        axes = range(rank)
        sides = [
            jnp.any(mask, axis=tuple(b for b in axes if b != a)).sum() / spatial[a] for a in axes
        ]
        start = [jnp.argmax(jnp.any(mask, axis=tuple(b for b in axes if b != a))) for a in axes]
        return jnp.mean(mask), jnp.array(sides), jnp.array(start)

    share, sides, start = map(np.asarray, many(describe, 400))
    np.testing.assert_allclose(share, sides.prod(axis=1), rtol=1e-4)  # a full box, inside
    assert share.min() > 0.02 * 0.85  # sides are rounded to voxels
    assert share.max() < 0.4 * 1.1
    assert share.min() < 0.06
    assert share.max() > 0.36
    assert abs(share.mean() - 0.21) < 0.03
    ratios = sides[:, :-1] / sides[:, -1:]
    assert ratios.min() > 0.3 * 0.8
    assert ratios.max() < 3.3 * 1.2
    assert ratios.min() < 0.45
    assert ratios.max() > 2.2
    # Every axis is its own: sides and positions vary along each.
    assert (sides.std(axis=0) > 0.1).all()
    assert (start.max(axis=0) > np.array(spatial) / 2).all()
    assert (start.min(axis=0) < np.array(spatial) / 8).all()


def test_boxes_come_with_the_asked_probability():
    some = np.asarray(many(lambda key: views.box_mask(key, (16, 16), 0.5).any(), 2000))
    assert abs(some.mean() - 0.5) < 0.04
    assert not np.asarray(many(lambda key: views.box_mask(key, (16, 16), 0.0).any(), 50)).any()


def test_cutmix_pastes_the_neighbour_into_the_box_everywhere_alike():
    image = jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 6, 8, 2))
    target = image[..., 0]
    mask = jnp.zeros((4, 6, 8), bool).at[0, 1:3, 2:7].set(True).at[3, 0, :].set(True)
    ((out, mixed),) = views.mix(target, [image], [mask])
    want = np.array(target)
    want[0, 1:3, 2:7] = 1  # from its neighbour, example 1
    want[3, 0] = 2
    np.testing.assert_array_equal(mixed, want)
    np.testing.assert_array_equal(out[..., 0], want)
    np.testing.assert_array_equal(out[..., 1], want)
    # Or what is given, with its own target.
    ((out, mixed),) = views.mix(target, [image], [mask], (image + 10, target + 20))
    np.testing.assert_array_equal(out[..., 0], np.where(mask, image[..., 0] + 10, image[..., 0]))
    np.testing.assert_array_equal(mixed, np.where(mask, target + 20, target))
