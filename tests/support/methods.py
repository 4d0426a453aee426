"""Losses of methods with networks of one line, and what their values are worked out with.

A test module that changes the views is to forget what was compiled with others: `compile_loss`
keeps it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifp_jax import parallel
from cifp_jax.methods import METHODS
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

    return Network(encode, decode, forward, {"passes": jnp.zeros(())})


def flat(*values: float) -> jax.Array:
    """One image a value, everywhere the same."""
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
