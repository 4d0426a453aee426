"""BCP's loss against values worked out by hand, with networks of one line."""

import math

import jax
import jax.numpy as jnp
import pytest

from cifp_jax.methods import METHODS, bcp
from cifp_jax.methods.context import Context
from tests.support.methods import (
    LIKELY,
    PIXELS,
    SIZE,
    SURE,
    dice,
    flat,
    make_batch,
    make_network,
    run,
)
from tests.support.steps import quick


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


def test_what_bcp_pastes_has_its_gray_values_changed_as_labelled_images_have():
    """Under the strong recipe the teacher sees the image as it is, the student the other one."""
    batch = make_batch(SURE, SURE)
    alike = run("bcp", batch, step=jnp.int32(10_000))
    batch["unlabeled"]["strong"] = -batch["unlabeled"]["image"]
    other = run("bcp", batch, step=jnp.int32(10_000))
    assert other[2]["foreground"] == alike[2]["foreground"]
    assert float(other[0]) > float(alike[0]) + 0.1


def test_each_pass_of_bcp_has_half_of_a_stream():
    # On LA the published passes have two images: 4 + 4 in a batch.
    sizes = []

    def forward(x, keys, stats):
        sizes.append(len(x))
        return network.forward(x, keys, stats)

    network = make_network(1.0)
    counting = network._replace(forward=forward)
    batch = {
        "labeled": {
            "image": flat(LIKELY, -LIKELY, LIKELY, -LIKELY),
            "label": jnp.tile(make_batch(0.0, 0.0)["labeled"]["label"], (2, 1, 1)),
            "index": jnp.arange(4),
        },
        "unlabeled": {"image": flat(SURE, -SURE, SURE, -SURE), "index": jnp.arange(4)},
    }
    context = Context(jax.random.key(0), jnp.int32(10_000))
    total, _ = quick(lambda b: bcp.loss(counting, counting, b, context, bcp.Settings()))(batch)
    assert sizes == [4, 2, 2]
    # The losses are means and ratios: but for the smoothing of the Dice they stay the same.
    want = run("bcp", make_batch(SURE, -SURE), step=jnp.int32(10_000))[0]
    assert float(total) == pytest.approx(want, rel=1e-3)


def test_bcp_wants_pairs():
    batch = make_batch(SURE, SURE)
    batch["labeled"]["image"] = flat(1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="batch_unlabeled to the same number"):
        run("bcp", batch)


def test_the_teacher_of_bcp_starts_as_the_pretrained_student():
    decays, settings = METHODS["bcp"].decays, bcp.Settings(pretrain_steps=3)
    for first in (0, 5):
        contexts = [
            Context(jax.random.key(0), jnp.int32(first + t), first=first) for t in (0, 2, 3)
        ]
        found = [float(decays(context, 0.9, settings)[0]) for context in contexts]
        assert found == pytest.approx([0, 0, 0.9])
