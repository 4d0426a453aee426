"""AD-MT: its loss by hand, with networks of one line, the teachers' turns, and its boxes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import METHODS, ad_mt, views
from cifp_jax.methods.context import Context
from tests.support.methods import (
    LIKELY,
    PIXELS,
    SURE,
    compile_loss,
    dice,
    make_batch,
    run,
    supervised,
)


@pytest.fixture(autouse=True)
def forget():
    """What was compiled with another test's views."""
    compile_loss.cache_clear()


@pytest.fixture
def plain(monkeypatch):
    """Strong views that are the weak ones."""
    monkeypatch.setattr(views, "photometric", lambda key, image: image)


@pytest.mark.parametrize(
    ("criterion", "loss"), [("dice", dice(0.75, PIXELS)), ("ce", math.log(4 / 3))]
)
def test_ad_mt_weighs_its_teachers_by_their_entropies(plain, criterion, loss):
    # 0.75 and 0.975 with weights 2^-0.811 / 2^-0.169 in bits, as exponentials: together 0.8975,
    # where their mean is 0.8625. The other image is unsure.
    batch, teachers = make_batch(LIKELY, 0.0), (1.0, SURE / LIKELY)
    settings = {"cutmix": 0.0, "criterion": criterion}
    total, stats, metrics = run("ad_mt", batch, teacher=teachers, threshold=0.895, **settings)
    assert metrics["confident"] == 0.5
    assert total == pytest.approx(supervised(0.75) + 2 * loss, rel=1e-4)
    assert float(stats["passes"]) == 101
    assert run("ad_mt", batch, teacher=teachers, threshold=0.9, **settings)[2]["confident"] == 0
    opposite = run("ad_mt", batch, teacher=(1.0, -1.0), **settings)[2]
    assert opposite["conflict"] == 0.5


def test_ad_mt_changes_its_views_with_the_teachers_turns(monkeypatch):
    monkeypatch.setattr(views, "photometric", lambda key, image: -image)
    batch, teachers = make_batch(SURE, SURE), (1.0, 1.0)
    strong = {
        int(ad_mt.active_teacher(jnp.int32(t), 50)): run(
            "ad_mt", batch, teacher=teachers, step=jnp.int32(t), cutmix=1.0, criterion="ce"
        )[2]["strong"]
        for t in (0, 50, 100)
    }
    assert strong[0] == pytest.approx(math.log(40), rel=1e-4)
    assert strong[1] == pytest.approx(-math.log(0.975), rel=1e-4)


def test_the_teachers_of_ad_mt_take_turns():
    steps = jnp.arange(2000)
    active = np.asarray(jax.vmap(lambda t: ad_mt.active_teacher(t, 7))(steps))
    turns = [len(list(group)) for _, group in itertools.groupby(active)][:-1]
    assert active[0] == 0
    assert set(turns) == set(range(1, 8))
    settings = ad_mt.Settings(period=7)
    key = jax.random.key(0)
    first, second = jax.vmap(lambda t: METHODS["ad_mt"].decays(Context(key, t), 0.9, settings))(
        steps
    )
    np.testing.assert_array_equal(np.asarray(first) == 1, active == 1)
    np.testing.assert_array_equal(np.asarray(second) == 1, active == 0)
    assert float(jnp.minimum(first, second)[-1]) == pytest.approx(0.9)


def test_an_unknown_criterion_names_the_known_ones():
    with pytest.raises(ValueError, match="criterion is 'focal'; known: dice, ce"):
        run("ad_mt", make_batch(SURE, SURE), teacher=(1.0, 1.0), criterion="focal")


def half_boxes(spatial, count):
    """The shares of boxes as the published code draws them, one image at a time."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(count):
        side, share = math.sqrt(1 - rng.beta(4, 4)), 1.0
        for length in spatial:
            half = int(length * side) // 2
            middle = rng.integers(length // 8, length)
            share *= (min(middle + half, length) - max(middle - half, 0)) / length
        shares.append(share)
    return shares


@pytest.mark.parametrize(("spatial", "mean"), [((96, 64), 0.36), ((40, 32, 24), 0.21)])
def test_boxes_of_ad_mt_are_distributed_as_published(spatial, mean):
    keys = jax.random.split(jax.random.key(0), 2000)
    masks = np.asarray(jax.jit(jax.vmap(lambda key: ad_mt.half_box(key, spatial, 1.0)))(keys))
    axes = range(1, masks.ndim)
    sides = [np.asarray(masks.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    shares = masks.mean(axis=tuple(axes))
    filled = np.prod([side.mean(axis=1) for side in sides], axis=0)
    np.testing.assert_allclose(shares, filled, rtol=1e-5)  # a full box
    assert abs(shares.mean() - mean) < 0.015
    places = (0.05, 0.25, 0.5, 0.75, 0.95)
    want = np.quantile(half_boxes(spatial, 20_000), places)
    np.testing.assert_allclose(np.quantile(shares, places), want, atol=0.025)
    # Where nothing sticks out, all sides are the same share of the image's, to two voxels.
    inside = [~(side[:, 0] | side[:, -1]) for side in sides]
    whole = np.logical_and.reduce(inside)
    assert whole.sum() > 20
    lengths = np.array([side[whole].mean(axis=1) for side in sides])
    assert np.ptp(lengths, axis=0).max() <= 2 / min(spatial) + 1e-6


def test_boxes_of_ad_mt_come_with_the_asked_probability():
    keys = jax.random.split(jax.random.key(0), 1000)
    some = jax.jit(jax.vmap(lambda key: ad_mt.half_box(key, (16, 16), 0.3).any()))(keys)
    assert abs(float(some.mean()) - 0.3) < 0.05
