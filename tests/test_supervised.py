"""The supervised loss by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cifp_jax.methods import supervised
from cifp_jax.methods.context import Context
from cifp_jax.models.network import Network


def make_network(scale: jax.Array) -> Network:
    """Two classes; the logit of the foreground is the image times `scale`."""

    def forward(x, keys, stats):
        assert keys.shape == (x.shape[0],)
        logits = jnp.concatenate([jnp.zeros_like(x), scale * x], axis=-1)
        return logits, {"images": stats["images"] + x.shape[0]}

    def unused(*_):
        raise AssertionError("only the forward pass is needed")

    return Network(unused, unused, forward, {"images": jnp.zeros(())})


def evaluate(scale, rng=0):
    image = math.log(3) * jnp.array([[[1.0], [1.0]], [[-1.0], [-1.0]]])
    batch = {
        "labeled": {
            "image": image,
            "label": jnp.array([[1, 1], [0, 1]], jnp.int32),
            "index": jnp.arange(2),
        }
    }
    student = make_network(scale)
    return supervised.loss(
        student,
        student,
        batch,
        Context(jax.random.key(rng), jnp.int32(0)),
        supervised.Settings(),
    )


def test_by_hand():
    # Foreground probabilities 3/4, 3/4, 1/4, 1/4 against 1, 1, 0, 1.
    total, (stats, metrics) = evaluate(jnp.float32(1))
    cross_entropy = (3 * math.log(4 / 3) + math.log(4)) / 4
    squares = (2 * 9 + 2 * 1) / 16
    foreground = 1 - 2 * 1.75 / (squares + 3)
    background = 1 - 2 * 0.75 / (squares + 1)
    want = (cross_entropy + (foreground + background) / 2) / 2
    np.testing.assert_allclose(total, want, rtol=1e-5)
    assert float(stats["images"]) == 2
    for name in ("loss", "supervised"):
        np.testing.assert_allclose(metrics[name], (want, 1), rtol=1e-5)


def test_the_gradient_points_downhill():
    grad = jax.grad(lambda s: evaluate(s)[0])(jnp.float32(1))
    before, after = evaluate(jnp.float32(1))[0], evaluate(jnp.float32(1) - 0.1 * grad)[0]
    assert float(after) < float(before)


def test_several_students_have_a_loss_each():
    students = tuple(make_network(jnp.float32(scale)) for scale in (1, 2))
    image = math.log(3) * jnp.array([[[1.0], [1.0]], [[-1.0], [-1.0]]])
    label, index = jnp.array([[1, 1], [0, 1]], jnp.int32), jnp.arange(2)
    batch = {"labeled": {"image": image, "label": label, "index": index}}
    context = Context(jax.random.key(0), jnp.int32(0))
    total, (stats, _) = supervised.loss(students, None, batch, context, supervised.Settings())
    alone = [evaluate(jnp.float32(scale))[0] for scale in (1, 2)]
    np.testing.assert_allclose(total, sum(alone), rtol=1e-6)
    assert [float(s["images"]) for s in stats] == [2, 2]
