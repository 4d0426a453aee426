"""CutMix boxes that show labelled images, in every method that has boxes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.methods import views
from tests.support.methods import (
    LIKELY,
    compile_loss,
    flat,
    make_batch,
    run,
    supervised,
)

STEP = jnp.int32(50)  # of AD-MT's second teacher, whose strong view has a box
# The Dice loss, of both classes, of an area of each that is predicted with probability 0.75.
DICE = 1 - 2 * 0.75 / (0.75**2 + 0.25**2 + 1)


@pytest.fixture
def whole(monkeypatch):
    """Boxes that cover the image, and strong views that are negatives."""
    compile_loss.cache_clear()
    monkeypatch.setattr(views, "fill_box", lambda spatial, *_: jnp.ones(spatial, bool))
    monkeypatch.setattr(views, "photometric", lambda key, image: -image)


def labeled_boxes(name, **settings):
    """A step on unlabelled images whose pseudo labels do not count, under boxes of labelled ones.

    Labels are the opposite of what is predicted of the images, so that their negatives are right.
    """
    batch = make_batch(0.0, 0.0)
    batch["labeled"]["image"] = flat(-LIKELY, LIKELY)
    settings = {"cutmix": 1.0, "cutmix_source": "labeled", **settings}
    teacher = (1.0, 1.0) if name == "ad_mt" else 1.0
    total, _, metrics = run(name, batch, teacher=teacher, step=STEP, **settings)
    assert metrics["supervised"] == pytest.approx(supervised(0.25), rel=1e-4)
    assert metrics["confident"] == 0
    return total, metrics


def test_boxes_of_labelled_images_bring_their_labels(whole):
    total, metrics = labeled_boxes("fixmatch")
    assert metrics["strong"] == pytest.approx(-math.log(0.75), rel=1e-4)
    assert total == pytest.approx((supervised(0.25) - math.log(0.75)) / 2, rel=1e-4)

    total, metrics = labeled_boxes("unimatch", drop=0.0)
    assert metrics["strong"] == pytest.approx(DICE, rel=1e-4)
    assert total == pytest.approx((supervised(0.25) + DICE / 2) / 2, rel=1e-4)

    # The weak view's streams learn nothing; those of the strong view learn the label twice.
    total, metrics = labeled_boxes("crossmatch", drop_weak=0.0, drop_strong=0.0)
    distilled = (0.7 / 4 * 2 + 0.3) * DICE
    assert metrics["strong"] == pytest.approx(DICE, rel=1e-4)
    assert metrics["distillation"] == pytest.approx(distilled, rel=1e-4)
    assert total == pytest.approx((supervised(0.25) + DICE / 2 + distilled / 2) / 2, rel=1e-4)


def test_boxes_of_ad_mt_show_weak_views_of_labelled_images(whole):
    total, metrics = labeled_boxes("ad_mt", criterion="ce", ramp_steps=0)
    assert metrics["strong"] == pytest.approx(-math.log(0.25), rel=1e-4)
    assert total == pytest.approx(supervised(0.25) - 2 * math.log(0.25), rel=1e-4)


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "crossmatch", "ad_mt"])
def test_other_boxes_bring_no_true_labels(whole, name):
    assert labeled_boxes(name, cutmix_source="unlabeled")[1]["strong"] == 0


def test_partners_may_be_fewer_than_the_images(whole):
    batch = make_batch(0.0, 0.0)
    batch["unlabeled"] = {"image": flat(0.0, 0.0, 0.0, 0.0), "index": jnp.arange(4)}
    label = jax.nn.one_hot(batch["labeled"]["label"], 2)
    rng = jax.random.key(0)
    shown = views.shown_in_boxes("labeled", rng, batch, label, 1)
    assert shown is not None
    image, (target, weight) = shown
    assert np.asarray(image[:, 0, 0, 0]).tolist() == pytest.approx(
        [-LIKELY, -LIKELY, LIKELY, LIKELY]
    )
    np.testing.assert_array_equal(target, label[jnp.array([0, 0, 1, 1])])
    assert (np.asarray(weight) == 1).all()
    assert views.shown_in_boxes("unlabeled", rng, batch, label, 1) is None
