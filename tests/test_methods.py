"""Each method's loss against values worked out by hand, with networks of one line."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.methods import METHODS, ad_mt, bcp, ua_mt, views
from cifp_jax.methods.context import Context
from cifp_jax.models.network import Network
from tests.support.steps import quick

SIZE = 3  # pixels a side
PIXELS = SIZE**2
SMOOTH = 1e-5
SURE = math.log(39)  # a foreground probability of 0.975
LIKELY = math.log(3)  # of 0.75
LATE = jnp.int32(100_000)  # after every ramp


def make_network(scale: float) -> Network:
    """Two classes; the foreground's logit is the image times `scale`.

    Its "statistics" count the passes that moved them: 1 an encoding, 100 a decoding.
    """

    def encode(x, keys, stats):
        return (scale * x,), {"passes": stats["passes"] + 1}

    def decode(features, keys, stats):
        logits = jnp.concatenate([jnp.zeros_like(features[0]), features[0]], axis=-1)
        return logits, {"passes": stats["passes"] + 100}

    def forward(x, keys, stats):
        features, stats = encode(x, keys, stats)
        return decode(features, keys, stats)

    return Network(encode, decode, forward, {"passes": jnp.zeros(())}, {})


def flat(*values: float) -> jax.Array:
    """One image a value, everywhere the same: noise in units of its deviation is none."""
    return jnp.broadcast_to(jnp.array(values)[:, None, None, None], (len(values), SIZE, SIZE, 1))


def make_batch(*unlabeled: float) -> dict:
    label = jnp.broadcast_to(jnp.array([1, 0], jnp.int32)[:, None, None], (2, SIZE, SIZE))
    return {
        "labeled": {"image": flat(LIKELY, -LIKELY), "label": label, "index": jnp.arange(2)},
        "unlabeled": {"image": flat(*unlabeled), "index": jnp.arange(2)},
    }


@functools.cache
def compile_loss(name, student, teacher, **settings):
    networks = [
        tuple(make_network(s) for s in scale) if isinstance(scale, tuple) else make_network(scale)
        for scale in (student, teacher)
    ]
    chosen = METHODS[name].settings(**settings)

    def loss(batch, key, step):
        return METHODS[name].loss(*networks, batch, Context(key, step), chosen)

    return quick(loss)


def run(name, batch, student: Any = 1.0, teacher: Any = 1.0, step=LATE, seeds=(0,), **settings):
    """Total, passes that moved the statistics, and the metrics divided; of the last seed."""
    return run_all(name, batch, student, teacher, step, seeds, **settings)[-1]


def run_all(name, batch, student: Any = 1.0, teacher: Any = 1.0, step=LATE, seeds=(0,), **settings):
    """What `run` returns, for every seed."""
    loss = compile_loss(name, student, teacher, **settings)
    with parallel.random_numbers():
        return [divide(*loss(batch, jax.random.key(seed), step)) for seed in seeds]


def divide(total, aux):
    stats, metrics = aux
    assert set(metrics) >= {"loss"}
    np.testing.assert_allclose(metrics["loss"][0], total, rtol=1e-6)
    return float(total), stats, {k: float(a / b) for k, (a, b) in metrics.items()}


def dice(p: float, pixels: int) -> float:
    """Dice loss of an area of one class that is predicted with probability p, of two classes."""
    right = 1 - (2 * p * pixels + SMOOTH) / ((p**2 + 1) * pixels + SMOOTH)
    wrong = 1 - SMOOTH / ((1 - p) ** 2 * pixels + SMOOTH)
    return (right + wrong) / 2


def supervised(p: float) -> float:
    """L_x where the right class has probability p in both labelled images."""
    return (-math.log(p) + 1 - 2 * p / (p**2 + (1 - p) ** 2 + 1)) / 2


@pytest.fixture(autouse=True)
def forget():
    """What was compiled with another test's views."""
    compile_loss.cache_clear()


@pytest.fixture
def plain(monkeypatch):
    """Strong views that are the weak ones."""
    monkeypatch.setattr(views, "photometric", lambda key, image: image)


def test_mean_teacher():
    # The student's 0.75 against its teacher's 9 / (9 + 1), and 0.5 against 0.5.
    batch = make_batch(LIKELY, 0.0)
    total, stats, _ = run("mean_teacher", batch, teacher=2.0)
    assert total == pytest.approx(supervised(0.75) + 0.1 * 0.15**2 / 2, rel=1e-5)
    assert float(stats["passes"]) == 101
    early, _, metrics = run("mean_teacher", batch, teacher=2.0, step=jnp.int32(0))
    assert metrics["lambda"] == pytest.approx(0.1 * math.exp(-5), rel=1e-5)
    assert early == pytest.approx(supervised(0.75) + 0.1 * math.exp(-5) * 0.15**2 / 2, rel=1e-5)


def test_ua_mt_leaves_out_what_is_uncertain():
    # Entropies 0.47 and 1 of the largest: the second image is never under the threshold.
    total, stats, metrics = run("ua_mt", make_batch(LIKELY, 0.0), teacher=2.0)
    assert total == pytest.approx(supervised(0.75) + 0.1 * 0.15**2, rel=1e-5)
    assert metrics["certain"] == 0.5
    assert float(stats["passes"]) == 101
    # H(0.75) = 0.81 is over three quarters at the start, and under 1 at the end.
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


def area(p: float, pixels: int) -> float:
    return (-math.log(p) + dice(p, pixels)) / 2


def test_bcp():
    # A box of 2 x 2 of 3 x 3 pixels; labels are pasted as the images are.
    batch = make_batch(SURE, -SURE)
    total, stats, metrics = run("bcp", batch, step=jnp.int32(10_000))
    inward = area(0.75, 4) + 0.5 * area(0.975, 5)
    outward = 0.5 * area(0.975, 4) + area(0.75, 5)
    assert metrics["inward"] == pytest.approx(inward, rel=1e-4)
    assert total == pytest.approx(inward + outward, rel=1e-4)
    assert float(stats["passes"]) == 202
    # Before, labelled images only.
    early, _, metrics = run("bcp", batch, step=jnp.int32(9_999))
    assert early == pytest.approx(2 * (area(0.75, 4) + area(0.75, 5)), rel=1e-4)
    assert metrics["pretraining"] == 1


def test_bcp_keeps_the_largest_component_of_a_pseudo_label():
    batch = make_batch(SURE, SURE)
    corner = jnp.zeros((SIZE, SIZE)).at[0, 0].set(1).at[2, 1:].set(1)
    batch["unlabeled"]["image"] = jnp.broadcast_to(
        jnp.where(corner, SURE, -SURE)[..., None], (2, SIZE, SIZE, 1)
    )
    shares = [run("bcp", batch, largest_component=keep)[2]["foreground"] for keep in (True, False)]
    assert shares == pytest.approx([2 / PIXELS, 3 / PIXELS])


def test_bcp_wants_pairs():
    batch = make_batch(SURE, SURE)
    batch["labeled"]["image"] = flat(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="batch_unlabeled to the same number"):
        run("bcp", batch)


def test_the_teacher_of_bcp_starts_as_the_pretrained_student():
    decays, settings = METHODS["bcp"].decays, bcp.Settings(pretrain_steps=3)
    assert [float(decays(jnp.int32(t), 0.9, settings)[0]) for t in (0, 2, 3)] == (
        pytest.approx([0, 0, 0.9])
    )


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
    first, second = jax.vmap(lambda t: METHODS["ad_mt"].decays(t, 0.9, settings))(steps)
    np.testing.assert_array_equal(np.asarray(first) == 1, active == 1)
    np.testing.assert_array_equal(np.asarray(second) == 1, active == 0)
    assert float(jnp.minimum(first, second)[-1]) == pytest.approx(0.9)


def test_an_unknown_criterion_names_the_known_ones():
    with pytest.raises(ValueError, match="criterion is 'focal'; known: dice, ce"):
        run("ad_mt", make_batch(SURE, SURE), teacher=(1.0, 1.0), criterion="focal")
