"""Features with dropped channels: decoded, and normalised, in one batch with the clean ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.methods import METHODS, shared
from cifp_jax.methods.context import Context
from cifp_jax.models.network import Network
from tests.support.methods import LIKELY, SURE, make_batch, make_network
from tests.support.steps import quick

# How often each method decodes the features of the weak view, without and with dropped channels.
STREAMS = {"unimatch": 2, "crossmatch": 3}
DROPS = {"unimatch": ("drop",), "crossmatch": ("drop_weak", "drop_strong")}


def run(name, decode, rate):
    """The metrics of a step; images of different sign are labelled, unlabelled ones are sure."""
    network = make_network(1.0)
    network = network._replace(
        decode=decode, forward=lambda x, k, s: decode(network.encode(x, k, s)[0], k, s)
    )
    settings = METHODS[name].settings(cutmix=0.0, **dict.fromkeys(DROPS[name], rate))
    context = Context(jax.random.key(0), jnp.int32(0))
    loss = quick(lambda b: METHODS[name].loss(network, network, b, context, settings))
    with parallel.random_numbers():
        _, (_, metrics) = loss(make_batch(SURE, SURE))
    return {k: float(a / b) for k, (a, b) in metrics.items()}


def logits_of(z):
    return jnp.concatenate([jnp.zeros_like(z), z], axis=-1)


@pytest.mark.parametrize("name", STREAMS)
def test_clean_and_dropped_features_share_their_statistics(name):
    def decode(features, keys, stats):
        (z,) = features
        return logits_of(z - jnp.mean(z)), stats  # half of a batch normalisation

    # Two labelled images of mean zero, and each stream of the unlabelled ones.
    streams = STREAMS[name]
    mean = SURE * streams / (1 + streams)
    in_foreground = 1 / (1 + math.exp(mean - LIKELY))  # label 1
    in_background = 1 / (1 + math.exp(mean + LIKELY))  # label 0
    cross = -(math.log(in_foreground) + math.log(1 - in_background)) / 2
    foreground = 1 - 2 * in_foreground / (in_foreground**2 + in_background**2 + 1)
    rest = 1 - 2 * (1 - in_background) / ((1 - in_foreground) ** 2 + (1 - in_background) ** 2 + 1)
    want = (cross + (foreground + rest) / 2) / 2
    assert run(name, decode, 0.0)["supervised"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("name", STREAMS)
def test_one_call_decodes_them_without_dropout(name):
    calls = []

    def decode(features, keys, stats):
        calls.append((len(features[0]), keys is None))
        return logits_of(features[0]), stats

    run(name, decode, 0.5)
    # Two labelled images, or two of each strong view; UniMatch drops nothing of strong views.
    weak, strong = 2 + 2 * STREAMS[name], {"unimatch": 4, "crossmatch": 8}[name]
    assert calls == [(weak, True), (strong, name == "crossmatch")]


@pytest.mark.parametrize("shards", [1, 2])
def test_each_stream_comes_back_as_it_went_in(shards):
    def decode(features, keys, stats):
        seen.append(np.asarray(features[0])[:, 0, 0, 0])
        return logits_of(features[0]), {"passes": stats["passes"] + 100}

    seen = []
    network = Network(make_network(1.0).encode, decode, decode, {})
    first = jnp.arange(1.0, 3)[:, None, None, None] * jnp.ones((2, 2, 2, 1))
    second = jnp.arange(11.0, 15)[:, None, None, None] * jnp.ones((4, 2, 2, 1))
    features = (parallel.concat_streams(first, second, shards),)
    keys = jax.random.split(jax.random.key(0), 4)
    drops = [(0.0, keys), (0.5, keys)]
    parts, stats = shared.decode_with_dropped(
        network, features, 2, drops, {"passes": jnp.zeros(())}, shards
    )
    assert float(stats["passes"]) == 100
    values = [np.asarray(part)[:, 0, 0, 1].tolist() for part in parts]
    assert values[:3] == [[1, 2], [11, 12, 13, 14], [11, 12, 13, 14]]
    # The only channel is dropped, or doubled, by an example's own key.
    kept = np.array(values[3]) / [11, 12, 13, 14]
    assert set(kept.tolist()) == {0.0, 2.0}
    if shards == 2:  # a device's block holds its part of every stream
        assert seen[0][:7].tolist() == [1, 11, 12, 11, 12, *values[3][:2]]
