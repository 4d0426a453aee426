import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import tokens

KEY = jax.random.key(0)
ZERO = jnp.zeros(())


def test_pool_averages_cells():
    x = jnp.arange(16.0).reshape(1, 4, 4)
    np.testing.assert_allclose(tokens.pool(x, (2, 2))[0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(tokens.pool(x, (4, 1))[0, :, 0], [1.5, 5.5, 9.5, 13.5])
    classes = jnp.zeros((1, 2, 2, 2, 3)).at[0, 0, 0, 0, 2].set(1)
    np.testing.assert_allclose(tokens.pool(classes, (1, 1, 1)).ravel(), [0, 0, 0.125])


@pytest.mark.parametrize(
    ("kind", "progress", "want"),
    [
        ("top_half", 0.0, [0, 1, 0, 1, 1]),
        ("soft", 0.0, [0.0, 0.5, 0.25, 1.0, 0.75]),
        ("all", 0.0, [1, 1, 1, 1, 1]),
        # Confidences 1, 0.6, 0.8, 0.2, 0.4 under 0.75, 0.85, and 0.95.
        ("threshold", 0.0, [0, 1, 0, 1, 1]),
        ("threshold", 0.5, [0, 1, 1, 1, 1]),
    ],
)
def test_gates_by_hand(kind, progress, want):
    u = jnp.array([0.0, 0.4, 0.2, 0.8, 0.6])
    got = tokens.make_gate(kind, u, KEY, progress=jnp.float32(progress))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_half_is_exact_with_ties():
    for kind in ("top_half", "random"):
        for count in (1, 6, 7):
            gate = tokens.make_gate(kind, jnp.zeros(count), KEY, progress=ZERO)
            assert float(gate.sum()) == (count + 1) // 2


def test_random_gate_follows_the_key_and_not_the_ambiguity():
    u = jnp.linspace(0, 1, 64)
    keys = jax.random.split(KEY, 500)
    gates = jax.vmap(lambda k: tokens.make_gate("random", u, k, progress=ZERO))(keys)
    np.testing.assert_allclose(gates.mean(axis=0), 0.5, atol=0.1)


def test_soft_gate_of_a_certain_image_is_zero():
    np.testing.assert_array_equal(tokens.make_gate("soft", jnp.zeros(4), KEY, progress=ZERO), 0)


def draw(count: int, classes: jax.Array, sampling: str, keys: int = 300) -> np.ndarray:
    return np.asarray(
        jax.vmap(lambda k: tokens.draw_positions(k, classes, tokens=count, sampling=sampling))(
            jax.random.split(KEY, keys)
        )
    )


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
def test_positions_are_drawn_without_replacement_or_all_taken(sampling):
    classes = jnp.ones((10, 1))
    drawn = draw(4, classes, sampling)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    # Each of ten positions in four of ten draws.
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=10) / 300, 0.4, atol=0.1)
    np.testing.assert_array_equal(draw(12, classes, sampling, 2), [np.arange(10)] * 2)


def test_class_balanced_draws_cover_rare_classes():
    label = jnp.zeros(1000, jnp.int32).at[jnp.array([3, 500])].set(1).at[700].set(2)
    classes = jax.nn.one_hot(label, 4)  # class 3 is absent
    rare = [3, 500, 700]
    balanced = np.isin(draw(16, classes, "class_balanced"), rare)
    assert (balanced.sum(axis=1) == 3).mean() > 0.95
    assert np.isin(draw(16, classes, "uniform"), rare).sum(axis=1).mean() < 0.2
    first = draw(1, classes, "class_balanced", 3000)[:, 0]
    chances = [(first == 700).mean(), np.isin(first, [3, 500]).mean()]
    np.testing.assert_allclose(chances, 1 / 3, atol=0.03)


def test_take_serves_successive_examples_from_their_group():
    groups = jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    positions = jnp.array([[0], [1], [1], [0]])
    np.testing.assert_array_equal(tokens.take(groups, positions).ravel(), [1, 2, 4, 3])


def test_noise_has_the_scale_of_each_channel():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(256, 4)), jnp.float32)
    z = z * jnp.array([1.0, 2.0, 4.0, 8.0]) + jnp.array([5.0, 0.0, 0.0, 0.0])
    noise = tokens.noise_tokens(KEY, z, 4000)
    np.testing.assert_allclose(noise.std(axis=0), [1, 2, 4, 8], rtol=0.12)
    np.testing.assert_allclose(noise.mean(axis=0)[0], 5, atol=0.2)
