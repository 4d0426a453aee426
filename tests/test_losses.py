"""Losses by hand: empty classes, weights, and sums over devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.mesh import DATA
from cifp_jax.methods import losses

LN2 = math.log(2)


def two_class(foreground: list[float]) -> jax.Array:
    """One image of a row of voxels, as a distribution over background and foreground."""
    p = jnp.array([foreground], jnp.float32)
    return jnp.stack([1 - p, p], axis=-1)


def test_cross_entropy_is_a_weighted_mean_in_nats():
    log_probs = jnp.log(two_class([0.5, 0.25]))
    target = two_class([1.0, 1.0])
    # -log 1/2 = ln 2 with weight 1 and -log 1/4 = 2 ln 2 with weight 3.
    got = losses.cross_entropy(log_probs, target, jnp.array([[1.0, 3.0]]), None)
    np.testing.assert_allclose(got, 7 / 4 * LN2, rtol=1e-6)


def test_cross_entropy_takes_soft_targets():
    got = losses.cross_entropy(jnp.log(two_class([0.25])), two_class([0.5]), 1.0, None)
    np.testing.assert_allclose(got, 0.5 * 2 * LN2 + 0.5 * math.log(4 / 3), rtol=1e-6)


def test_dice_by_hand():
    got = losses.dice_loss(two_class([1, 0.5, 0, 0]), two_class([1, 1, 0, 0]), 1.0, None)
    foreground, background = 1 - 2 * 1.5 / (1.25 + 2), 1 - 2 * 2 / (2.25 + 2)
    np.testing.assert_allclose(got, (foreground + background) / 2, atol=1e-5)


def test_dice_of_the_foreground_alone():
    probs, target = two_class([1, 0.5, 0, 0]), two_class([1, 1, 0, 0])
    got = losses.dice_loss(probs, target, 1.0, None, foreground_only=True)
    np.testing.assert_allclose(got, 1 - 2 * 1.5 / (1.25 + 2), atol=1e-5)
    sure = jnp.log(jnp.clip(probs, 1e-6))
    halves = losses.segmentation_loss(sure, target, 1.0, None, foreground_only=True)
    np.testing.assert_allclose(halves, (LN2 / 4 + 1 - 3 / 3.25) / 2, atol=1e-4)


def test_dice_sums_over_the_batch_before_it_divides():
    probs = jnp.concatenate([two_class([1, 0]), two_class([0, 0])])
    target = jnp.concatenate([two_class([1, 0]), two_class([1, 0])])
    # Foreground 2 * 1 / (1 + 2), background 2 * 2 / (3 + 2), over both images at once.
    got = losses.dice_loss(probs, target, 1.0, None)
    np.testing.assert_allclose(got, (1 / 3 + 1 / 5) / 2, atol=1e-5)


def test_dice_leaves_out_voxels_without_weight():
    weights = jnp.array([[1.0, 0.0, 1.0, 1.0]])
    got = losses.dice_loss(two_class([1, 0.5, 0, 0]), two_class([1, 1, 0, 0]), weights, None)
    np.testing.assert_allclose(got, 0, atol=1e-6)


def three_class(rows: list[list[float]]) -> jax.Array:
    return jnp.array([rows], jnp.float32)


def test_an_absent_class_costs_one_where_predicted_and_nothing_where_not():
    target = three_class([[1, 0, 0], [0, 1, 0]])
    predicted = three_class([[0.5, 0, 0.5], [0, 1, 0]])
    background = 1 - 2 * 0.5 / (0.25 + 1)
    got = losses.dice_loss(predicted, target, 1.0, None)
    np.testing.assert_allclose(got, (background + 0 + 1) / 3, atol=1e-4)
    got = losses.dice_loss(predicted, target, 1.0, None, present_only=True)
    np.testing.assert_allclose(got, background / 2, atol=1e-4)
    np.testing.assert_allclose(losses.dice_loss(target, target, 1.0, None), 0, atol=1e-6)


def test_a_class_present_only_without_weight_counts_as_absent():
    target = three_class([[1, 0, 0], [0, 1, 0]])
    predicted = three_class([[0.5, 0.5, 0], [0, 0, 1]])
    weights = jnp.array([[1.0, 0.0]])
    got = losses.dice_loss(predicted, target, weights, None, present_only=True)
    np.testing.assert_allclose(got, 1 - 2 * 0.5 / 1.25, atol=1e-4)


def test_segmentation_loss_is_half_of_each():
    logits = jnp.log(two_class([0.75, 0.25]))
    target = two_class([1, 0])
    # CE: log 4/3. Dice of either class: 1 - 2 * 0.75 / (0.625 + 1).
    want = (math.log(4 / 3) + 1 - 1.5 / 1.625) / 2
    got = losses.segmentation_loss(logits, target, 1.0, None)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_no_weight_at_all_gives_no_loss_and_no_gradient():
    def value(logits):
        target = two_class([1, 0])
        return losses.segmentation_loss(logits, target, jnp.zeros((1, 2)), None, present_only=True)

    got, grad = jax.value_and_grad(value)(jnp.ones((1, 2, 2)))
    np.testing.assert_allclose(got, 0, atol=1e-6)
    np.testing.assert_allclose(grad, 0)


@pytest.mark.parametrize("present_only", [False, True])
def test_four_devices_give_the_value_and_the_gradient_of_one(present_only):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(8, 5, 5, 3)), jnp.float32)
    label = rng.integers(0, 3, (8, 5, 5))
    label[:4] = 0  # unequal foreground between devices
    target = losses.one_hot(jnp.asarray(label), 3)
    weights = jnp.asarray(rng.random((8, 5, 5)) * np.arange(8)[:, None, None], jnp.float32)

    def value(logits, target, weights, axis_name=None):
        return losses.segmentation_loss(
            logits, target, weights, axis_name, present_only=present_only
        )

    want, want_grad = jax.value_and_grad(value)(logits, target, weights)
    blocks = [x.reshape((4, 2, *x.shape[1:])) for x in (logits, target, weights)]
    got, got_grad = jax.pmap(lambda *x: jax.value_and_grad(value)(*x, DATA), axis_name=DATA)(
        *blocks
    )
    np.testing.assert_allclose(got, np.full(4, want), rtol=1e-5)
    np.testing.assert_allclose(got_grad.reshape(logits.shape), want_grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("step", "want"), [(0, 2 * math.exp(-5)), (50, 2 * math.exp(-1.25)), (100, 2.0), (900, 2.0)]
)
def test_ramp(step, want):
    got = losses.consistency_weight(jnp.int32(step), lambda_max=2.0, ramp_steps=100)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_ramp_of_no_steps_is_over_at_once():
    got = losses.consistency_weight(jnp.int32(0), lambda_max=0.5, ramp_steps=0)
    np.testing.assert_allclose(got, 0.5)
