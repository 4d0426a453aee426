"""The U-Net: its size, its parts, and PyTorch's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.models.unet import UNet
from tests.golden.compare_models import (
    CLASSES,
    FILTERS,
    check_against_torch,
    draw_variables,
)
from tests.support.networks import feature_shapes, parameter_count
from tests.support.steps import quick


def test_it_has_1813764_parameters():
    assert parameter_count(UNet(), rank=2) == 1_813_764


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "modes"), [(2, ["eval", "train"]), (3, ["train"])])
def test_it_equals_pytorch(rank, modes):
    check_against_torch(UNet(classes=CLASSES, filters=FILTERS), f"unet{rank}d", modes)


def test_features_are_halved_from_map_to_map():
    assert feature_shapes(UNet(), (2, 32, 48, 1)) == [
        (2, 32, 48, 16),
        (2, 16, 24, 32),
        (2, 8, 12, 64),
        (2, 4, 6, 128),
        (2, 2, 3, 256),
    ]


def test_a_size_that_16_does_not_divide_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"\(250, 7\).*\(256, 16\)"):
        UNet().init(jax.random.key(0), jnp.zeros((1, 250, 7, 1)), train=False)


def test_the_encoder_drops_values_and_the_decoder_none():
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    model = UNet(filters=(2, 2, 3, 3, 4))

    @quick
    def run(variables, x, keys):
        apply = functools.partial(model.apply, variables, train=False)
        plain = apply(x, method="encode")
        logits = [apply(plain, keys=k, method="decode") for k in (None, keys)]
        return plain, apply(x, keys=keys, method="encode"), logits

    plain, dropped, (without, with_keys) = run(
        draw_variables(model, 2), x, jax.random.split(jax.random.key(2), 2)
    )
    for a, b in zip(plain, dropped, strict=True):
        assert not np.allclose(a, b)
    np.testing.assert_array_equal(with_keys, without)


def test_the_dropout_rates_belong_to_the_five_blocks_in_order():
    x = jax.random.normal(jax.random.key(1), (1, 16, 16, 1))

    @quick
    def first_that_differs(variables, x, keys):
        first = []
        for stage in range(5):
            rates = tuple(0.5 if i == stage else 0.0 for i in range(5))
            model = UNet(filters=(4,) * 5, dropout=rates)
            apply = functools.partial(model.apply, variables, x, train=False, method="encode")
            maps = zip(apply(keys=keys), apply(), strict=True)
            first.append(jnp.argmax(jnp.stack([jnp.any(a != b) for a, b in maps])))
        return jnp.stack(first)

    keys = jax.random.split(jax.random.key(2), 1)
    variables = draw_variables(UNet(filters=(4,) * 5), 2)
    np.testing.assert_array_equal(first_that_differs(variables, x, keys), [0, 1, 2, 3, 4])
