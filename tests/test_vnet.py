"""The V-Net: its size, its parts, and PyTorch's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.models.vnet import VNet
from tests.golden.compare_models import (
    CLASSES,
    FILTERS,
    check_against_torch,
    draw_variables,
)
from tests.support.networks import feature_shapes, parameter_count
from tests.support.steps import quick

SMALL = VNet(classes=2, filters=(2, 2, 3, 3, 4))


def test_it_has_9448866_parameters():
    assert parameter_count(VNet(), rank=3) == 9_448_866


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "modes"), [(3, ["eval", "train"]), (2, ["train"])])
def test_it_equals_pytorch(rank, modes):
    check_against_torch(VNet(classes=CLASSES, filters=FILTERS), f"vnet{rank}d", modes)


def test_features_are_halved_from_map_to_map():
    assert feature_shapes(VNet(), (2, 32, 48, 16, 1)) == [
        (2, 32, 48, 16, 16),
        (2, 16, 24, 8, 32),
        (2, 8, 12, 4, 64),
        (2, 4, 6, 2, 128),
        (2, 2, 3, 1, 256),
    ]


def test_a_size_that_16_does_not_divide_is_refused_with_the_nearest():
    x = jnp.zeros((1, 112, 112, 85, 1))
    with pytest.raises(ValueError, match=r"\(112, 112, 85\).*\(112, 112, 80\)"):
        SMALL.init(jax.random.key(0), x, train=False)


def test_channels_are_dropped_whole_at_the_bottleneck_and_before_the_output():
    x = jax.random.normal(jax.random.key(1), (2, 16, 32, 1))
    keys = jax.random.split(jax.random.key(2), 2)
    model = VNet(filters=(2, 2, 3, 3, 64), dropout=0.5)

    @quick
    def run(variables, x, keys):
        apply = functools.partial(model.apply, variables, train=False)
        plain = apply(x, method="encode")
        logits = [apply(plain, keys=k, method="decode") for k in (None, keys)]
        return plain, apply(x, keys=keys, method="encode"), logits

    plain, dropped, (without, with_keys) = run(draw_variables(model, 2), x, keys)
    for a, b in zip(plain[:-1], dropped[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    # What is left is doubled, and a channel of an image goes as a whole.
    kept = np.asarray(dropped[-1]) != 0
    np.testing.assert_allclose(dropped[-1], np.where(kept, 2 * np.asarray(plain[-1]), 0))
    alive = np.asarray(plain[-1]).max((1, 2)) > 0
    whole = kept.any((1, 2))
    assert 0.2 < whole[alive].mean() < 0.8
    assert not np.array_equal(whole[0], whole[1])
    # The same features decoded with keys and without: the output's own dropout.
    assert not np.allclose(with_keys, without)
