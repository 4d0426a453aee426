"""Pseudo labels weighted by their uncertainty, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods.fusion import fuse, normalized_entropy


def members(*rows: list[float]) -> jax.Array:
    """One image of one voxel, one distribution a member."""
    return jnp.array(rows, jnp.float32)[:, None, None]


@pytest.mark.parametrize(
    ("p", "want"),
    [([0.25] * 4, 1), ([1, 0, 0, 0], 0), ([0.5, 0.5, 0, 0], 0.5), ([0.5, 0.25, 0.25, 0], 0.75)],
)
def test_entropy_in_units_of_its_maximum(p, want):
    np.testing.assert_allclose(normalized_entropy(jnp.array(p, jnp.float32)), want, atol=1e-6)


def test_weights_by_hand():
    # The largest entropy against none: weights 1 : e at a temperature of 1.
    fused = fuse(members([0.5, 0.5], [1.0, 0.0]), 1.0)
    sure = math.e / (1 + math.e)
    np.testing.assert_allclose(fused.weights[:, 0, 0], [1 - sure, sure], rtol=1e-6)
    np.testing.assert_allclose(fused.probs[0, 0], [(1 + sure) / 2, (1 - sure) / 2], rtol=1e-6)


def test_the_temperature_is_in_units_of_the_largest_entropy():
    # Two bits of two against one: half of the largest entropy; a temperature of 1/4 doubles twice.
    fused = fuse(members([0.25] * 4, [0.5, 0.5, 0, 0]), 0.25)
    ratio = fused.weights[1, 0, 0] / fused.weights[0, 0, 0]
    np.testing.assert_allclose(ratio, math.exp(0.5 / 0.25), rtol=1e-5)


def test_limits_of_the_temperature():
    p = members([0.6, 0.4], [0.55, 0.45], [0.05, 0.95])
    np.testing.assert_allclose(fuse(p, 1e6).probs[0, 0], [0.4, 0.6], rtol=1e-5)
    np.testing.assert_allclose(fuse(p, 0.001).probs[0, 0], p[2, 0, 0], rtol=1e-6)


def test_equal_members_are_their_own_fusion():
    p = [0.7, 0.2, 0.1]
    fused = fuse(members(p, p, p), 0.25)
    np.testing.assert_allclose(fused.probs[0, 0], p, rtol=1e-5)
    np.testing.assert_allclose(fused.weights, 1 / 3, rtol=1e-5)


def test_the_order_of_members_does_not_matter():
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 4)))
    there, back = fuse(p, 0.25), fuse(p[::-1], 0.25)
    np.testing.assert_allclose(there.probs, back.probs, atol=1e-6)
    np.testing.assert_allclose(there.weights, back.weights[::-1], atol=1e-6)
    np.testing.assert_allclose(there.probs.sum(axis=-1), 1, atol=1e-6)


def test_no_gradient_passes_through():
    p = members([0.6, 0.4], [0.1, 0.9])
    assert float(jnp.abs(jax.grad(lambda x: fuse(x, 0.25).probs[0, 0, 0])(p)).max()) == 0
