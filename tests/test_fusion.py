"""Pseudo labels weighted by their uncertainty, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import fusion
from cifp_jax.methods.fusion import Settings, fusion_loss, normalized_entropy
from cifp_jax.settings import declarations

FUSIONS = declarations(Settings)["kind"][0].options


def fuse(p, *, kind="entropy", entropies=None, keys=None, **settings):
    """The fusion of members, by their entropy where nothing else is said."""
    return fusion.fuse(p, Settings(kind=kind, **settings), entropies=entropies, keys=keys)


def members(*rows: list[float]) -> jax.Array:
    """One image of one voxel, one distribution a member."""
    return jnp.array(rows, jnp.float32)[:, None, None]


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def divergence(p: list[float], q: list[float]) -> float:
    return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


@pytest.mark.parametrize(
    ("p", "want"),
    [([0.25] * 4, 1), ([1, 0, 0, 0], 0), ([0.5, 0.5, 0, 0], 0.5), ([0.5, 0.25, 0.25, 0], 0.75)],
)
def test_entropy_in_units_of_its_maximum(p, want):
    np.testing.assert_allclose(normalized_entropy(jnp.array(p, jnp.float32)), want, atol=1e-6)


def test_entropy_weights_by_hand():
    # One bit against none: weights 1 : e at the default temperature.
    fused = fuse(members([0.5, 0.5], [1.0, 0.0]))
    sure = math.e / (1 + math.e)
    np.testing.assert_allclose(fused.weights[:, 0, 0], [1 - sure, sure], rtol=1e-6)
    p = [(1 + sure) / 2, (1 - sure) / 2]
    np.testing.assert_allclose(fused.probs[0, 0], p, rtol=1e-6)
    np.testing.assert_array_equal(fused.target[0, 0], [1, 0])
    gap = (1 - sure) * divergence([0.5, 0.5], p) + sure * divergence([1, 0], p)
    want = math.exp(-(entropy(p) / math.log(2) + gap))
    np.testing.assert_allclose(fused.reliability[0, 0], want, rtol=1e-5)


def test_the_unit_of_temperature_is_a_bit_for_any_number_of_classes():
    # Two bits against one bit; temperature 2 halves the difference.
    fused = fuse(members([0.25] * 4, [0.5, 0.5, 0, 0]), temperature=2.0)
    ratio = fused.weights[1, 0, 0] / fused.weights[0, 0, 0]
    np.testing.assert_allclose(ratio, math.exp(0.5), rtol=1e-5)


@pytest.mark.parametrize("kind", ["entropy", "kl", "entropy_kl"])
def test_limits_of_the_temperature(kind):
    p = members([0.6, 0.4], [0.55, 0.45], [0.05, 0.95])
    hot = fuse(p, kind=kind, temperature=1e6)
    np.testing.assert_allclose(hot.probs[0, 0], [0.4, 0.6], rtol=1e-5)
    cold = fuse(p, kind=kind, temperature=0.0)
    # By entropy the third is the surest, by divergence the second lies nearest to the mean.
    want = p[1 if kind == "kl" else 2, 0, 0]
    np.testing.assert_allclose(cold.probs[0, 0], want, rtol=1e-6)


def test_a_confident_wrong_member_wins_the_label_but_loses_reliability():
    right, wrong = [0.2, 0.8], [0.999, 0.001]
    fused = fuse(members(right, wrong))
    np.testing.assert_array_equal(fused.target[0, 0], [1, 0])
    agreed = fuse(members(right, wrong[::-1]))
    np.testing.assert_array_equal(agreed.target[0, 0], [0, 1])
    assert fused.reliability[0, 0] < 0.5 * agreed.reliability[0, 0]
    # The divergence from the mean knows no confidence: both members are about equally far.
    by_divergence = fuse(members(right, wrong), kind="kl").weights[:, 0, 0]
    by_entropy = fused.weights[:, 0, 0]
    assert by_divergence[1] < by_entropy[1]


@pytest.mark.parametrize("kind", [k for k in FUSIONS if k != "weak_only"])
def test_equal_members_are_their_own_fusion(kind):
    p = [0.7, 0.2, 0.1]
    fused = fuse(members(p, p, p), kind=kind, keys=jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(fused.probs[0, 0], p, rtol=1e-5)
    # No disagreement: the entropy alone is left.
    want = math.exp(-entropy(p) / math.log(3))
    np.testing.assert_allclose(fused.reliability[0, 0], want, rtol=1e-5)
    if kind != "random":
        np.testing.assert_allclose(fused.weights, 1 / 3, rtol=1e-5)


def test_divergence_weights_by_hand():
    p, q = [0.9, 0.1], [0.3, 0.7]
    r = [(2 * 0.9 + 0.3) / 3, (2 * 0.1 + 0.7) / 3]
    weights = fuse(members(p, p, q), kind="kl").weights[:, 0, 0]
    raw = np.exp([-divergence(p, r), -divergence(p, r), -divergence(q, r)])
    np.testing.assert_allclose(weights, raw / raw.sum(), rtol=1e-5)


def test_sum_of_both_uncertainties_multiplies_their_odds():
    p = members([0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8])
    odds = {
        kind: np.asarray(w[0, 0, 0] / w[2, 0, 0])
        for kind in ("entropy", "kl", "entropy_kl")
        for w in [fuse(p, kind=kind).weights]
    }
    np.testing.assert_allclose(odds["entropy_kl"], odds["entropy"] * odds["kl"], rtol=1e-5)


def test_gamma_is_the_strength_of_the_reliability():
    p = members([0.6, 0.4], [0.1, 0.9])
    np.testing.assert_array_equal(fuse(p, gamma=0.0).reliability, 1)
    one, two = (fuse(p, gamma=g).reliability for g in (1.0, 2.0))
    np.testing.assert_allclose(two, one**2, rtol=1e-5)


def test_mean_and_soft_target():
    fused = fuse(members([0.6, 0.4], [0.1, 0.9]), kind="mean", target="soft")
    np.testing.assert_allclose(fused.target[0, 0], [0.35, 0.65], rtol=1e-6)


def test_weak_only_is_a_threshold_on_the_first_member():
    p = jnp.array([[[[0.96, 0.04], [0.94, 0.06]]], [[[0.0, 1.0], [0.0, 1.0]]]])
    fused = fuse(p, kind="weak_only")
    np.testing.assert_array_equal(fused.reliability, [[1, 0]])
    np.testing.assert_array_equal(fused.probs, p[0])
    np.testing.assert_array_equal(fuse(p, kind="weak_only", threshold=0.9).reliability, [[1, 1]])


def test_random_weights_are_drawn_once_an_example():
    keys = jax.random.split(jax.random.key(0), 2000)
    p = jnp.full((3, 2000, 2, 2), 0.5)
    weights = fuse(p, kind="random", keys=keys).weights
    np.testing.assert_allclose(jnp.sum(weights, axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights[..., 0], weights[..., 1])
    # A flat Dirichlet over three has mean 1/3 and variance 1/18.
    np.testing.assert_allclose(jnp.mean(weights[..., 0], axis=1), 1 / 3, atol=0.02)
    np.testing.assert_allclose(jnp.var(weights[..., 0], axis=1), 1 / 18, atol=0.006)
    with pytest.raises(ValueError, match="key"):
        fuse(p, kind="random")


def test_certain_members_give_no_nan_and_no_gradient():
    p = members([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    for kind in ("entropy", "kl", "entropy_kl", "mean"):
        fused = fuse(p, kind=kind)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in fused)
        # H = log 2 of log 3, and either member is log 2 away from the fusion.
        want = math.exp(-(math.log(2) / math.log(3) + math.log(2)))
        np.testing.assert_allclose(fused.reliability[0, 0], want, rtol=1e-5)
    grad = jax.grad(lambda x: jnp.sum(fuse(x, target="soft").target[..., 0]))(p)
    np.testing.assert_array_equal(grad, 0)


def test_entropies_at_hand_are_taken():
    p = members([0.6, 0.4], [0.1, 0.9])
    for a, b in zip(fuse(p), fuse(p, entropies=normalized_entropy(p)), strict=True):
        np.testing.assert_allclose(a, b)


def test_unknown_names():
    p = members([0.6, 0.4], [0.1, 0.9])
    with pytest.raises(ValueError, match=r"fusion\.Settings\.kind is 'entropie'; known: entropy"):
        fuse(p, kind="entropie")
    with pytest.raises(ValueError, match=r"fusion\.Settings\.target is 'sharp'; known: hard, soft"):
        fuse(p, target="sharp")


def test_the_loss_weighs_voxels_by_reliability_and_spares_the_target():
    logits = jnp.log(jnp.array([[[0.75, 0.25], [0.25, 0.75]]]))
    target = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
    reliability = jnp.array([[1.0, 0.0]])
    # Of the first voxel alone: CE log 4/3; Dice 1 - 1.5 / 1.5625, and 1 for the absent class.
    want = (math.log(4 / 3) + (1 - 1.5 / 1.5625 + 1) / 2) / 2
    got = fusion_loss(logits, target, reliability, None)
    np.testing.assert_allclose(got, want, atol=2e-4)
    grads = jax.grad(fusion_loss, argnums=(0, 1, 2))(logits, target, reliability, None)
    assert float(jnp.abs(grads[0][0, 0]).max()) > 0.01
    for grad in (grads[0][0, 1], grads[1], grads[2]):
        np.testing.assert_array_equal(grad, 0)


def test_a_confident_member_that_left_the_weak_prediction_counts_less_by_deviation():
    weak, strayed = [0.2, 0.8], [0.999, 0.001]
    fused = fuse(members(weak, strayed), kind="deviation")
    np.testing.assert_array_equal(fused.target[0, 0], [0, 1])
    # With two classes T = 1 and log K = log 2; the weak prediction deviates from itself by 0.
    raw = np.exp(
        [
            -entropy(weak) / math.log(2),
            -entropy(strayed) / math.log(2) - divergence(weak, strayed),
        ]
    )
    np.testing.assert_allclose(fused.weights[:, 0, 0], raw / raw.sum(), rtol=1e-4)
