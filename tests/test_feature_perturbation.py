"""Unlabelled features that move on the line to labelled ones of their class, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import feature_perturbation
from cifp_jax.methods.feature_perturbation import Settings

ALL = Settings(probability=1.0, gate=0.1, temperature=0.1)


def cells(*classes: int, count: int = 2) -> jax.Array:
    """One image of one row of these classes, each a cell of one voxel."""
    return jax.nn.one_hot(jnp.array([classes]), count)


def perturb(z, source, target, label, doubt, settings=ALL, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(z))
    return feature_perturbation.perturb(
        jnp.asarray(z, jnp.float32),
        jnp.asarray(source, jnp.float32),
        target=target,
        label=label,
        uncertainty=jnp.asarray(doubt, jnp.float32),
        keys=keys,
        settings=settings,
    )


def test_attention_by_hand():
    # Mean of the source: (0, 0). Cosines of the query: 1 and 0; weights e^(1/tau) : 1.
    source = jnp.array([[2.0, 0.0], [-2.0, 3.0], [0.0, -3.0]])
    allowed = jnp.array([[1.0, 0.0, 1.0]])
    got = feature_perturbation.attend(jnp.array([[5.0, 0.0]]), source, allowed, 0.5)
    near = np.exp(2.0) / (np.exp(2.0) + 1)
    np.testing.assert_allclose(got, [[2 * near, -3 * (1 - near)]], rtol=1e-5)


def test_a_cell_moves_at_most_half_way_towards_its_only_partner_or_away():
    moved, gates = perturb(
        [[[1.0, 1.0], [0.0, 5.0]]],
        [[[9.0, 9.0], [4.0, 0.0]]],
        cells(1, 0),
        cells(0, 1),
        [[0.5, 0.0]],
    )
    np.testing.assert_array_equal(gates, [[1, 0]])
    np.testing.assert_array_equal(moved[0, 1], [0, 5])  # sure: left alone
    way = (moved[0, 0] - jnp.array([1.0, 1.0])) / jnp.array([3.0, -1.0])
    assert way[0] == pytest.approx(float(way[1]), abs=1e-5)
    assert 0 < abs(way[0]) <= 0.5


def test_cells_move_towards_and_away_alike():
    z, label = np.zeros((1, 1000, 2)), jnp.ones((1, 1000, 1))
    moved, gates = perturb(z, z + 1, label, label, np.ones((1, 1000)))
    ways = np.sort(moved[0, gates[0] > 0, 0])
    assert len(ways) == 256
    np.testing.assert_allclose(ways, np.linspace(-0.5, 0.5, 256), atol=0.1)


def test_without_a_labelled_cell_of_its_class_nothing_moves():
    z = [[[1.0, 1.0], [0.0, 5.0]]]
    for label in (cells(0, 0), 0.75 * cells(1, 1) + 0.25 * cells(0, 0)):  # absent, or not pure
        moved, gates = perturb(z, [[[9.0, 9.0], [4.0, 0.0]]], cells(1, 1), label, [[1.0, 1.0]])
        assert float(gates.sum()) == 0
        np.testing.assert_array_equal(moved, z)


def test_the_probability_is_the_share_of_ambiguous_cells():
    n = 4000
    z, label = np.zeros((1, n, 2)), jnp.ones((1, n, 1))
    for probability in (0.0, 0.3):
        settings = dataclasses.replace(ALL, probability=probability)
        _, gates = perturb(z[:, :50], z[:, :50] + 1, label[:, :50], label[:, :50], [[1.0] * 50])
        assert float(gates.mean()) == 1
        doubt = np.tile([[1.0, 0.05]], (1, n // 2))
        _, gates = perturb(z, z + 1, label, label, doubt, settings)
        assert float(gates[0, 1::2].sum()) == 0
        assert float(gates[0, ::2].mean()) == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(("cells", "count"), [(200, 200), (600, 256), (2000, 500)])
def test_of_many_ambiguous_cells_a_quarter_moves(cells, count):
    z, label = np.zeros((2, cells, 2)), jnp.ones((2, cells, 1))
    moved, gates = perturb(z, z + 1, label, label, np.ones((2, cells)))
    np.testing.assert_array_equal(gates.sum(axis=1), [count, count])
    np.testing.assert_array_equal(jnp.abs(moved).max(axis=-1) > 0, gates > 0)
    assert float(jnp.abs(gates[0] - gates[1]).max()) == (count < cells)  # each image its own


def test_cells_attend_in_blocks_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(3)
    z, source = (jnp.asarray(rng.normal(size=(1, 8, 2)), jnp.float32) for _ in range(2))
    target, label = cells(0, 1, 1, 0, 1, 0, 0, 1), cells(1, 0, 1, 1, 0, 1, 0, 0)

    def moved(z):
        return perturb(z, source, target, label, np.ones((1, 8)))[0]

    found = []
    for block in (8, 3):  # of eight cells: all at once; two blocks and a rest
        monkeypatch.setattr(feature_perturbation, "_BLOCK", block)
        found.append((moved(z), jax.grad(lambda z: jnp.sum(moved(z) ** 2))(z)))
    for at_once, in_blocks in zip(*found, strict=True):
        np.testing.assert_allclose(in_blocks, at_once, rtol=1e-5, atol=1e-6)
    for cell in range(8):
        allowed = (target[0, cell] @ label[0].T)[None]
        to = feature_perturbation.attend(z[0, cell, None], source[0], allowed, ALL.temperature)[0]
        way = (found[1][0][0, cell] - z[0, cell]) / (to - z[0, cell])
        assert way[0] == pytest.approx(float(way[1]), rel=1e-3)
        assert abs(way[0]) <= 0.5


def test_features_of_half_precision_stay_so():
    z, label = jnp.zeros((1, 4, 2), jnp.bfloat16), jnp.ones((1, 4, 1))
    moved, _ = feature_perturbation.perturb(
        z,
        z + 1,
        target=label,
        label=label,
        uncertainty=jnp.ones((1, 4)),
        keys=jax.random.split(jax.random.key(0), 1),
        settings=ALL,
    )
    assert moved.dtype == jnp.bfloat16
    assert 0 < float(jnp.abs(moved).max()) <= 0.5


def test_cells_are_means_of_voxels():
    x = jnp.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_array_equal(
        feature_perturbation.pool(x, (2, 2)), [[[2.5, 4.5], [10.5, 12.5]]]
    )


def test_no_gradient_reaches_the_labelled_image():
    z, source = jnp.ones((1, 2, 3)), jnp.arange(6.0).reshape(1, 2, 3)
    own, theirs = jax.grad(
        lambda a, b: perturb(a, b, cells(1, 1), cells(1, 1), [[1.0, 1.0]])[0].sum(), (0, 1)
    )(z, source)
    assert float(jnp.abs(theirs).max()) == 0
    assert float(jnp.abs(own).max()) > 0


def test_an_image_draws_by_its_own_key():
    z, source = jnp.zeros((2, 6, 2)), jnp.ones((2, 6, 2))
    target = jnp.tile(cells(*[1] * 6), (2, 1, 1))
    moved, _ = perturb(z, source, target, target, np.ones((2, 6)))
    alone, _ = perturb(z[:1], source[:1], target[:1], target[:1], np.ones((1, 6)))
    np.testing.assert_allclose(moved[0], alone[0], atol=1e-6)
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 0.01
