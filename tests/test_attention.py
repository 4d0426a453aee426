import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import attention
from cifp_jax.methods.attention import Settings, make_plan, perturb
from cifp_jax.methods.tokens import attend
from tests.support.steps import quick

EYE = jnp.eye(4)


def maps(seed: int, batch: int, size: int = 8, channels: int = 4) -> tuple[jax.Array, ...]:
    """Features of a network with three stages."""
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(rng.normal(size=(batch, size // 2**s, size // 2**s, channels)), jnp.float32)
        for s in range(3)
    )


def run_plain(
    settings, unlabeled, labeled, *, ambiguity=None, probs=None, label=None, weights=None, shards=1
):
    """Plans and perturbs, with two classes."""
    batch, size = unlabeled[0].shape[0], unlabeled[0].shape[1]
    keys = jax.random.split(jax.random.key(3), batch)
    full = (batch, size, size)
    ambiguity = jnp.ones(full) if ambiguity is None else ambiguity
    probs = jnp.full((*full, 2), 0.5) if probs is None else probs
    label = jnp.full((labeled[0].shape[0], size, size, 2), 0.5) if label is None else label
    plan = make_plan(
        settings,
        unlabeled,
        ambiguity=ambiguity,
        probs=probs,
        label=label,
        keys=keys,
        progress=jnp.zeros(()),
        shards=shards,
    )
    return perturb(
        settings, plan, unlabeled, labeled, keys=keys, weights=weights or {}, shards=shards
    )


run = quick(run_plain, static_argnames=("settings", "shards"))


def constant(values: list[float], size: int = 8) -> tuple[jax.Array, ...]:
    """Maps that hold one value an example."""
    v = jnp.array(values)[:, None, None, None]
    return tuple(v * jnp.ones((1, size // 2**s, size // 2**s, 4)) for s in range(3))


def test_attention_with_orthogonal_features_by_hand():
    # Similarity 1 with itself and 0 with three others, whatever the lengths of the vectors.
    source = EYE * jnp.array([1.0, 2.0, 3.0, 4.0])[:, None]
    out = attend(7 * EYE[:2], source, None, tau=0.5)
    match, other = math.e**2 / (math.e**2 + 3), 1 / (math.e**2 + 3)
    np.testing.assert_allclose(out[0], [match, 2 * other, 3 * other, 4 * other], rtol=1e-5)
    np.testing.assert_allclose(out[1], [other, 2 * match, 3 * other, 4 * other], rtol=1e-5)


def test_a_small_tau_picks_the_nearest_token_and_a_large_one_the_mean():
    query = EYE[:1] + 0.5 * EYE[1:2]
    source = 3 * EYE
    np.testing.assert_allclose(attend(query, source, None, tau=1e-3), 3 * EYE[:1], atol=1e-6)
    np.testing.assert_allclose(attend(query, source, None, tau=1e4), [[0.75] * 4], rtol=1e-3)


def test_bias_moves_the_choice():
    bias = jnp.array([[0.0, 0.0, 50.0, 0.0]])
    np.testing.assert_allclose(attend(EYE[:1], EYE, bias, tau=0.1), EYE[2:3], atol=1e-6)


def test_zero_tokens_have_a_finite_gradient():
    grad = jax.grad(lambda q: attend(q, EYE, None, tau=0.1).sum())(jnp.zeros((2, 4)))
    assert bool(jnp.isfinite(grad).all())


def test_alpha_0_is_the_identity_and_untouched_stages_stay():
    unlabeled, labeled = maps(0, 2), maps(1, 2)
    same = run(Settings(stages=(1, 2, 3), alpha=0.0), unlabeled, labeled)
    for a, b in zip(same, unlabeled, strict=True):
        np.testing.assert_array_equal(a, b)
    out = run(Settings(stages=(2,), gate="all"), unlabeled, labeled)
    np.testing.assert_array_equal(out[0], unlabeled[0])
    np.testing.assert_array_equal(out[2], unlabeled[2])
    assert float(jnp.abs(out[1] - unlabeled[1]).min()) > 0


def test_only_the_ambiguous_half_is_touched_and_alpha_scales():
    unlabeled, labeled = maps(0, 2), maps(1, 2)
    ambiguity = jnp.zeros((2, 8, 8)).at[:, :, 4:].set(0.7)  # the right half
    full, half = (
        run(Settings(stages=(1, 3), alpha=a), unlabeled, labeled, ambiguity=ambiguity)
        for a in (1.0, 0.5)
    )
    for stage, middle in ((0, 4), (2, 1)):
        moved = full[stage] - unlabeled[stage]
        np.testing.assert_array_equal(moved[:, :, :middle], 0)
        assert float(jnp.abs(moved[:, :, middle:]).min()) > 0
        np.testing.assert_allclose(half[stage] - unlabeled[stage], moved / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("one", [10, 10, 20, 20]),
        ("bank", [15, 15, 15, 15]),
        ("unlabeled", [2, 1, 4, 3]),
        ("self", [1, 2, 3, 4]),
        ("noise", [1, 2, 3, 4]),  # flat maps have no deviation
    ],
)
def test_key_sources(source, want):
    # More tokens than a map holds are all of its tokens. Of noise as many are drawn as are asked
    # for, and the weights of thousands add up to one with a rounding that depends on the processor.
    tokens = 16 if source == "noise" else 2000
    settings = Settings(stages=(1, 3), key_source=source, gate="all", tokens=tokens)
    out = run(settings, constant([1, 2, 3, 4]), constant([10, 20]))
    for stage in (0, 2):
        np.testing.assert_allclose(out[stage][:, 0, 0, 0], want, rtol=1e-5)


def test_partners_and_bank_stay_inside_a_device_block():
    unlabeled, labeled = constant([1, 2, 3, 4]), constant([10, 20, 30, 40])
    settings = Settings(stages=(2,), gate="all")
    out = run(settings, unlabeled, labeled, shards=2)
    np.testing.assert_allclose(out[1][:, 0, 0, 0], [10, 20, 30, 40], rtol=1e-5)
    bank = replace(settings, key_source="bank", tokens=2000)
    out = run(bank, unlabeled, labeled, shards=2)
    np.testing.assert_allclose(out[1][:, 0, 0, 0], [15, 15, 35, 35], rtol=1e-5)


def test_few_tokens_are_drawn_from_the_map():
    # With one token, every gated position takes that token's value.
    unlabeled, labeled = maps(0, 2), maps(1, 2)
    out = run(Settings(stages=(1,), gate="all", tokens=1), unlabeled, labeled)[0]
    for b in range(2):
        np.testing.assert_allclose(
            out[b], jnp.broadcast_to(out[b, :1, :1], out[b].shape), atol=1e-6
        )
        distance = jnp.abs(labeled[0][b] - out[b, 0, 0]).max(axis=-1)
        assert float(distance.min()) < 1e-5


def test_class_compatibility_leads_to_tokens_of_the_same_class():
    # The labelled map holds 10 where class 0 is and 20 where class 1 is, all in one direction.
    halves = jnp.where(jnp.arange(8) < 4, 10.0, 20.0)[None, :, None, None]
    labeled = (halves * jnp.ones((2, 8, 8, 4)),)
    label = jax.nn.one_hot((jnp.arange(8) >= 4)[None, :, None] * jnp.ones((2, 8, 8), int), 2)
    probs = jax.nn.one_hot((jnp.arange(8) % 2)[None, None] * jnp.ones((2, 8, 8), int), 2)
    settings = Settings(stages=(1,), gate="all", beta=60.0, tokens=16, sampling="class_balanced")
    out = run(settings, (jnp.ones((2, 8, 8, 4)),), labeled, label=label, probs=probs)
    np.testing.assert_allclose(out[0][..., 0], 10 + 10 * probs[..., 1], rtol=1e-4)


@pytest.mark.parametrize("kind", ["cross_image", "learned"])
def test_no_gradient_into_the_labelled_features_unless_asked(kind):
    unlabeled, labeled = maps(0, 2), maps(1, 2)
    settings = Settings(kind=kind, stages=(1, 3), heads=2, tokens=8)
    weights = attention.init_projections(jax.random.key(0), (4, 4, 4), settings)

    def value(u, lab, chosen):
        return sum(jnp.sum(z**2) for z in run_plain(chosen, u, lab, weights=weights))

    for stop in (True, False):
        chosen = replace(settings, stop_source=stop)
        gradient = jax.grad(functools.partial(value, chosen=chosen), argnums=(0, 1))
        own, other = quick(gradient)(unlabeled, labeled)
        assert float(jnp.abs(own[0]).max()) > 0
        assert (float(jnp.abs(other[0]).max()) > 0) != stop


def test_learned_projections_at_the_identity_are_heads_of_plain_attention():
    unlabeled, labeled = maps(0, 2), maps(1, 2)
    settings = Settings(kind="learned", stages=(2,), heads=1, gate="all")
    weights = {"stage2": {n: EYE for n in ("query", "key", "value", "output")}}
    got = run(settings, unlabeled, labeled, weights=weights)
    want = run(replace(settings, kind="cross_image"), unlabeled, labeled)
    np.testing.assert_allclose(got[1], want[1], atol=1e-6)
    # Two heads see two channels each: head by head the same as attention on those channels.
    got = run(replace(settings, heads=2), unlabeled, labeled, weights=weights)[1]
    for part in (slice(0, 2), slice(2, 4)):
        pick = functools.partial(jax.tree.map, lambda z, p=part: z[..., p])
        want = run(replace(settings, kind="cross_image"), pick(unlabeled), pick(labeled))
        np.testing.assert_allclose(got[..., part], want[1], atol=1e-6)


def test_projections_start_near_the_identity_and_heads_must_divide():
    settings = Settings(kind="learned", stages=(2, 3), heads=4)
    weights = attention.init_projections(jax.random.key(0), (4, 8, 16), settings)
    assert sorted(weights) == ["stage2", "stage3"]
    for w in weights["stage3"].values():
        assert 0.3 < float(jnp.linalg.norm(w - jnp.eye(16))) < 0.5
    with pytest.raises(ValueError, match="heads=3 does not divide the 8 channels of stage 2"):
        attention.init_projections(jax.random.key(0), (4, 8, 16), replace(settings, heads=3))


def test_channel_dropout_drops_half_of_the_channels_and_doubles_the_rest():
    unlabeled = tuple(jnp.ones((2, s, s, 400)) for s in (4, 2, 1))
    out = run(Settings(kind="channel_dropout", stages=(1, 3)), unlabeled, unlabeled)
    np.testing.assert_array_equal(out[1], unlabeled[1])
    values = np.asarray(out[0])
    assert set(np.unique(values)) == {0.0, 2.0}
    assert (values == values[:, :1, :1]).all()  # whole channels
    assert abs((values[0, 0, 0] > 0).mean() - 0.5) < 0.1
    assert (values[0] != values[1]).any()


def test_one_example_more_changes_nothing_for_the_others():
    unlabeled, labeled = maps(0, 4), maps(1, 4)
    settings = Settings(stages=(1, 2), tokens=5, gate="random", sampling="class_balanced")
    whole = run(settings, unlabeled, labeled)
    first = run(settings, *(jax.tree.map(lambda z: z[:2], x) for x in (unlabeled, labeled)))
    # `split` gives the same first keys whatever their number.
    for a, b in zip(whole, first, strict=True):
        np.testing.assert_allclose(a[:2], b, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cross"}, "known: cross_image, learned, channel_dropout, none"),
        ({"key_source": "two"}, "known: one, bank, unlabeled, self, noise"),
        ({"sampling": "even"}, "known: uniform, class_balanced"),
        ({"gate": "half"}, "known: top_half, soft, threshold, all, random"),
        ({"stages": (3, 4)}, r"stages=\(3, 4\) must be some of 1 to 3"),
        ({"stages": ()}, "must be some of 1 to 3"),
        ({"tau": 0.0}, "tau is 0.0, but must be above 0"),
        ({"tokens": 0}, "tokens is 0, but must be at least 1"),
    ],
)
def test_unknown_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        run(Settings(**{"stages": (3,), **changes}), maps(0, 2), maps(1, 2))
