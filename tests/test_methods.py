"""Each method's loss against values worked out by hand, with networks of one line."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.methods import METHODS, crossmatch, ua_mt, views
from cifp_jax.methods.context import Context
from cifp_jax.models.network import Network
from tests.support.methods import (
    LATE,
    LIKELY,
    PIXELS,
    SURE,
    compile_loss,
    dice,
    divide,
    flat,
    make_batch,
    make_network,
    run,
    run_all,
    supervised,
)
from tests.support.steps import make_batch as drawn_batch
from tests.support.steps import quick


@pytest.fixture(autouse=True)
def forget():
    """What was compiled with another test's views."""
    compile_loss.cache_clear()


@pytest.fixture
def plain(monkeypatch):
    """Strong views that are the weak ones."""
    monkeypatch.setattr(views, "photometric", lambda key, image: image)


@pytest.fixture
def quiet(monkeypatch):
    """Teachers that see the images without noise."""
    monkeypatch.setattr(views, "noise", lambda key, image, unit: image)


def test_mean_teacher(quiet):
    # The student's 0.75 against its teacher's 9 / (9 + 1), and 0.5 against 0.5.
    batch = make_batch(LIKELY, 0.0)
    total, stats, _ = run("mean_teacher", batch, teacher=2.0)
    assert total == pytest.approx(supervised(0.75) + 0.1 * 0.15**2 / 2, rel=1e-5)
    assert float(stats["passes"]) == 101
    early, _, metrics = run("mean_teacher", batch, teacher=2.0, step=jnp.int32(0))
    assert metrics["lambda"] == pytest.approx(0.1 * math.exp(-5), rel=1e-5)
    assert early == pytest.approx(supervised(0.75) + 0.1 * math.exp(-5) * 0.15**2 / 2, rel=1e-5)


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt"])
def test_teachers_see_noise_of_an_absolute_level(name):
    seen = []

    def forward(x, keys, stats):
        seen.append(x)
        return teacher.decode((x,), keys, stats)

    teacher = make_network(1.0)
    network, settings = teacher._replace(forward=forward), METHODS[name].settings()
    changes = []
    for scale in (1.0, 100.0):
        batch = jax.tree.map(jnp.asarray, drawn_batch(0, (64, 64), 2, size=2))
        batch["unlabeled"]["image"] *= scale
        with parallel.random_numbers():
            METHODS[name].loss(teacher, network, batch, Context(jax.random.key(0), LATE), settings)
        changes.append(np.asarray(seen[-1] - batch["unlabeled"]["image"]))
    assert abs(np.abs(changes[0]).max() - 0.2) < 1e-5
    assert abs(np.mean(np.abs(changes[0]) < 0.1) - 0.683) < 0.02  # within one deviation
    np.testing.assert_allclose(changes[0], changes[1], atol=1e-4)
    assert abs(np.corrcoef(changes[0].reshape(2, -1))[0, 1]) < 0.05  # an example's own


def test_ua_mt_leaves_out_what_is_uncertain(quiet):
    # Entropies 0.47 and 1 of the largest: the second image is never under the threshold.
    total, stats, metrics = run("ua_mt", make_batch(LIKELY, 0.0), teacher=2.0)
    assert total == pytest.approx(supervised(0.75) + 0.1 * 0.15**2, rel=1e-5)
    assert metrics["certain"] == 0.5
    assert float(stats["passes"]) == 101
    # H(0.75) = 0.56 is over 0.75 log 2 = 0.52 at the start, and under log 2 at the end.
    batch = make_batch(LIKELY, -LIKELY)
    assert run("ua_mt", batch, step=jnp.int32(0))[2]["certain"] == 0
    assert run("ua_mt", batch)[2]["certain"] == 1


def test_ua_mt_asks_for_passes_that_agree():
    # Each pass is sure, but dropout decides of what.
    def forward(x, keys, stats):
        sign = jax.vmap(jax.random.rademacher, (0, None, None))(keys, (1, 1, 1), x.dtype)
        return jnp.concatenate([0 * x, 9 * sign + 0 * x], axis=-1), stats

    teacher = make_network(1.0)._replace(forward=forward)
    settings = ua_mt.Settings(passes=32)

    def loss(batch, key):
        return ua_mt.loss(make_network(1.0), teacher, batch, Context(key, jnp.int32(0)), settings)

    with parallel.random_numbers():
        _, (_, metrics) = quick(loss)(make_batch(LIKELY, LIKELY), jax.random.key(0))
    assert float(metrics["certain"][0]) == 0


def test_ua_mt_of_four_classes_keeps_the_twos_of_two(quiet):
    def four(scale):
        def decode(features, keys, stats):
            rest = jnp.zeros((*features[0].shape[:-1], 3))
            return jnp.concatenate([features[0], rest], axis=-1), stats

        network = make_network(scale)
        encode, stats = network.encode, {"passes": jnp.zeros(())}
        return Network(encode, decode, lambda x, k, s: decode(*encode(x, k, s), s), stats)

    def loss(batch, step):
        networks, key = (four(0.5), four(1.0)), jax.random.key(0)
        return ua_mt.loss(*networks, batch, Context(key, step), ua_mt.Settings(passes=2))

    # The teacher's first class has 0.85 and 0.79, the others equal parts of the rest: entropies of
    # 0.588 and 0.745, both under three quarters of log 4 = 1.39, one under log 2 = 0.693.
    images = [math.log(3 * p / (1 - p)) for p in (0.85, 0.79)]
    compiled = quick(loss)
    with parallel.random_numbers():
        early, late = (
            divide(*compiled(make_batch(*images), step))[2] for step in (jnp.int32(0), LATE)
        )
    assert early["certain"] == 0
    assert late["certain"] == 0.5
    # The student has half the logit; the sum of squares over the four classes is halved.
    odds = math.exp(images[0] / 2)
    first, other = odds / (odds + 3), 1 / (odds + 3)
    want = ((first - 0.85) ** 2 + 3 * (other - 0.05) ** 2) / 2
    assert late["consistency"] == pytest.approx(want, rel=1e-4)
    assert late["loss"] == pytest.approx(late["supervised"] + 0.1 * want, rel=1e-4)


def test_cps():
    # The second network says the opposite: each gives the other a label of probability 1/4.
    total, stats, metrics = run("cps", make_batch(LIKELY, -LIKELY), student=(1.0, -1.0))
    want = supervised(0.75) + supervised(0.25) + 0.1 * 2 * math.log(4)
    assert total == pytest.approx(want, rel=1e-5)
    assert [float(s["passes"]) for s in stats] == [101, 101]
    assert metrics["agreement"] == 0


def test_fixmatch(plain):
    # Of two images one is sure.
    total, stats, metrics = run("fixmatch", make_batch(SURE, LIKELY), cutmix=0.0)
    assert total == pytest.approx((supervised(0.75) - math.log(0.975) / 2) / 2, rel=1e-5)
    assert metrics["confident"] == 0.5
    assert float(stats["passes"]) == 101


def test_labels_are_pasted_with_their_images(plain):
    total, _, _ = run("fixmatch", make_batch(SURE, -SURE), cutmix=1.0)
    assert total == pytest.approx((supervised(0.75) - math.log(0.975)) / 2, rel=1e-5)


def test_unimatch(plain):
    batch, half = make_batch(SURE, 0.0), dice(0.975, PIXELS)
    total, stats, _ = run("unimatch", batch, cutmix=0.0, drop=0.0)
    assert total == pytest.approx((supervised(0.75) + half) / 2, rel=1e-4)
    assert float(stats["passes"]) == 101
    # The only channel is dropped, or doubled.
    seen = set()
    for total, _, metrics in run_all("unimatch", batch, cutmix=0.0, seeds=range(4)):
        assert total == pytest.approx(
            (supervised(0.75) + half / 2 + metrics["feature"] / 2) / 2, rel=1e-4
        )
        seen.add(round(metrics["feature"], 4))
    doubled = dice(39**2 / (39**2 + 1), PIXELS)
    assert seen == {round(dice(0.5, PIXELS), 4), round(doubled, 4)}


def test_the_unlabelled_terms_of_unimatch_may_have_a_ramp(plain):
    batch, half = make_batch(SURE, 0.0), dice(0.975, PIXELS)
    settings = {"cutmix": 0.0, "drop": 0.0, "ramp_steps": 100}
    for step, weight in ((0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1.0)):
        total, _, metrics = run("unimatch", batch, step=jnp.int32(step), **settings)
        assert metrics["lambda"] == pytest.approx(weight, rel=1e-5)
        assert total == pytest.approx((supervised(0.75) + weight * half) / 2, rel=1e-4)
    # As published there is none.
    assert run("unimatch", batch, step=jnp.int32(0), cutmix=0.0)[2]["lambda"] == 1


def test_crossmatch(plain):
    batch, half = make_batch(SURE, 0.0), dice(0.975, PIXELS)
    total, stats, metrics = run("crossmatch", batch, cutmix=0.0, drop_weak=0.0, drop_strong=0.0)
    assert total == pytest.approx((supervised(0.75) + half) / 2, rel=1e-4)
    assert metrics["distillation"] == pytest.approx(half, rel=1e-4)
    assert float(stats["passes"]) == 101
    # The strong stream drops its only channel, and is unsure, or doubles it; on each view alone.
    losses = {False: dice(0.5, PIXELS), True: dice(39**2 / (39**2 + 1), PIXELS)}
    possible = {
        round(
            0.7 / 4 * (2 * half + losses[on_weak] + losses[on_strong])
            + 0.3 / 2 * (half + (losses[on_strong] if on_weak else 0.0)),
            4,
        )
        for on_weak, on_strong in itertools.product((False, True), repeat=2)
    }
    seen = set()
    settings = {"cutmix": 0.0, "drop_weak": 0.0, "drop_strong": 0.5, "distill": 1.0}
    for total, _, metrics in run_all("crossmatch", batch, seeds=range(6), **settings):
        seen.add(round(metrics["distillation"], 4))
        want = (supervised(0.75) + half / 2 + metrics["distillation"]) / 2
        assert total == pytest.approx(want, rel=1e-4)
    assert seen <= possible
    assert len(seen) >= 3


def test_the_threshold_of_crossmatch_grows():
    ramp = crossmatch.Settings(threshold=0.5, threshold_end=0.7, threshold_steps=100)
    constant = crossmatch.Settings(threshold=0.5, threshold_end=0.7)
    for step, share in ((0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1), (200, 1)):
        tau = crossmatch.threshold(jnp.int32(step), ramp)
        assert float(tau) == pytest.approx(0.5 + 0.2 * share)
        assert float(crossmatch.threshold(jnp.int32(step), constant)) == 0.5
    # 0.75 is sure enough at first.
    settings = {"threshold": 0.7, "threshold_end": 0.8, "threshold_steps": 100}
    for step, sure in ((0, 1), (100, 0)):
        batch = make_batch(LIKELY, LIKELY)
        assert run("crossmatch", batch, step=jnp.int32(step), **settings)[2]["confident"] == sure


def test_crossmatch_of_the_foreground_alone(plain):
    # Foreground probabilities of 0.75 where it is, and of 0.025 where it is not.
    batch = make_batch(SURE, 0.0)
    batch["labeled"]["image"] = flat(LIKELY, -SURE)
    settings = {"cutmix": 0.0, "drop_weak": 0.0, "drop_strong": 0.0, "foreground_only": True}
    total, _, metrics = run("crossmatch", batch, **settings)
    entropy = -(math.log(0.75) + math.log(0.975)) / 2
    want = (entropy + 1 - 2 * 0.75 / (0.75**2 + 0.025**2 + 1)) / 2
    assert metrics["supervised"] == pytest.approx(want, rel=1e-4)
    foreground = 1 - 2 * 0.975 / (0.975**2 + 1)
    assert metrics["strong"] == pytest.approx(foreground, rel=0.01)
    assert metrics["distillation"] == pytest.approx(foreground, rel=0.01)
    assert total == pytest.approx((want + foreground) / 2, rel=1e-4)
