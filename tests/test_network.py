"""What a method sees of a network: composition, and where the statistics move."""

import functools
import re

import jax
import jax.ad_checkpoint
import numpy as np
import pytest

from cifp_jax.models.network import bind
from cifp_jax.models.unet import UNet
from cifp_jax.models.vnet import VNet
from tests.golden.compare_models import draw_variables, flatten_dict
from tests.support.steps import quick

FILTERS = (2, 2, 3, 3, 4)
MODELS = [UNet(classes=3, filters=FILTERS), VNet(classes=3, filters=FILTERS)]
IDS = ["unet", "vnet"]
VARIABLES = [draw_variables(model, 2) for model in MODELS]


@functools.cache
def results(index: int, train: bool) -> dict:
    """What the calls return for four images."""
    x = jax.random.normal(jax.random.key(1), (4, 32, 32, 1))
    keys = jax.random.split(jax.random.key(2), 4)

    @quick
    def run(variables, x, keys):
        network = bind(MODELS[index], variables["params"], variables["batch_stats"], train=train)
        stats = network.batch_stats
        got = {}
        features, got["encoded"] = network.encode(x, keys, stats)
        got["logits"], got["decoded"] = network.decode(features, keys, got["encoded"])
        got["forward"], got["moved"] = network.forward(x, keys, stats)
        if not train:
            got["plain"], _ = network.forward(x, None, stats)
            got["half"], _ = network.forward(x[2:], keys[2:], stats)
        return got

    return run(VARIABLES[index], x, keys)


def changed(before: dict, after: dict) -> set[str]:
    """Modules of which a statistic differs."""
    old, new = flatten_dict(before), flatten_dict(after)
    assert set(old) == set(new)
    return {path[0] for path in old if not np.array_equal(old[path], new[path])}


def modules(stats: dict, *prefixes: str) -> set[str]:
    return {name for name in stats if name.startswith(prefixes)}


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
@pytest.mark.parametrize("train", [True, False])
def test_decode_after_encode_is_the_whole_network(index, train):
    got = results(index, train)
    assert got["logits"].shape == (4, 32, 32, 3)
    np.testing.assert_allclose(got["logits"], got["forward"], rtol=1e-5, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got["decoded"],
        got["moved"],
    )


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_encode_moves_the_encoders_statistics_and_decode_the_decoders(index):
    got, stats = results(index, True), VARIABLES[index]["batch_stats"]
    encoder, decoder = modules(stats, "encoder", "down"), modules(stats, "decoder", "up")
    assert encoder | decoder == set(stats)
    assert changed(stats, got["encoded"]) == encoder
    assert changed(got["encoded"], got["decoded"]) == decoder


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_without_training_the_statistics_stay(index):
    got, stats = results(index, False), VARIABLES[index]["batch_stats"]
    for name in ("encoded", "decoded", "moved"):
        assert changed(stats, got[name]) == set()


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_part_of_a_batch_gets_the_same_masks(index):
    got = results(index, False)
    np.testing.assert_allclose(got["half"], got["forward"][2:], rtol=1e-5, atol=1e-5)
    assert not np.allclose(got["plain"], got["forward"])  # the keys do drop something


@pytest.mark.parametrize("kind", [UNet, VNet], ids=IDS)
def test_by_instance_a_batch_in_training_is_each_image_alone_in_prediction(kind):
    model = kind(classes=3, filters=FILTERS, normalization="instance")
    variables = draw_variables(model, 2)
    assert variables["batch_stats"] == {}
    x = (
        jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
        * jax.numpy.arange(1, 4)[:, None, None, None]
    )

    @quick
    def run(params, x):
        trained, alone = (bind(model, params, {}, train=train) for train in (True, False))
        logits, moved = trained.forward(x, None, {})
        return logits, moved, [alone.forward(one[None], None, {})[0][0] for one in x]

    logits, moved, alone = run(variables["params"], x)
    assert moved == {}
    assert np.std(logits) > 0.1
    np.testing.assert_allclose(logits, np.stack(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("index", [0, 1], ids=IDS)
def test_the_backward_pass_keeps_what_convolutions_make_alone(index, capsys):
    """One map a convolution, and the masks; not what is normalised, activated, pooled or joined."""
    variables = VARIABLES[index]
    x, keys = jax.numpy.zeros((2, 32, 32, 1)), jax.random.split(jax.random.key(2), 2)

    def total(params):
        stats = variables["batch_stats"]
        network = bind(MODELS[index], params, stats, train=True, remat=True)
        return network.forward(x, keys, stats)[0].sum()

    jax.ad_checkpoint.print_saved_residuals(total, variables["params"])
    kept = [line for line in capsys.readouterr().out.splitlines() if " from a constant" not in line]
    maps = [line for line in kept if re.match(r"\w+\[2(,\d+){3}\]", line) and "params" not in line]
    assert len(maps) > 20
    assert all("named 'kept'" in line for line in maps)
