"""Convolutions and their gradients against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifp_jax.models import convolution
from cifp_jax.models.convolution import convolve

# Each form has its channels: few inputs, an odd number of them, few outputs, as many of both, many
# outputs, and many of both.
CHANNELS = [(1, 9), (5, 9), (8, 5), (12, 4), (12, 12), (20, 16), (3, 65), (17, 20)]


def reference(x, kernel):
    spatial = "XYZ"[: x.ndim - 2]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, kernel, (1,) * len(spatial), "SAME", dimension_numbers=numbers
    )


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


@pytest.mark.parametrize(("c", "d"), CHANNELS)
@pytest.mark.parametrize("spatial", [(6, 5), (3, 6), (6, 5, 4), (1, 2, 1)])
def test_a_convolution_and_its_gradients_equal_xlas(spatial, c, d):
    with jax.enable_x64(True):
        kernel_shape = ((3,) * len(spatial)) + (c, d)
        x, kernel, g = draw((2, *spatial, c), kernel_shape, (2, *spatial, d))

        @jax.jit
        def run(x, kernel, g):
            both = (jax.vjp(f, x, kernel) for f in (convolve, reference))
            return [(value, *pull(g)) for value, pull in both]

        got, expected = run(x, kernel, g)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spatial", [(16, 16), (9, 4, 5)])
def test_bfloat16_is_rounded_no_more_than_xla_rounds_it(spatial):
    x, kernel = draw((2, *spatial, 24), (3,) * len(spatial) + (24, 20))
    exact = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel)]
    half = [a.astype(jnp.bfloat16) for a in (x, kernel)]

    def error(form):
        return float(jnp.std(jax.jit(form)(*half).astype(jnp.float32) - reference(*exact)))

    assert error(convolve) < 1.5 * error(reference)


def test_a_3d_convolution_in_float32_and_mapped_over_a_batch_of_batches():
    x, kernel = (a.astype(jnp.float32) for a in draw((3, 2, 4, 3, 5, 8), (3, 3, 3, 8, 2)))
    got = jax.jit(jax.vmap(convolve, (0, None)))(x, kernel)
    expected = reference(x.reshape(6, 4, 3, 5, 8), kernel).reshape(got.shape)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "c", "d"), [(16, 9, 4), (10, 3, 5)])
def test_the_kernels_gradient_by_bands_of_rows(side, c, d):
    """Where it is taken depends on the processor, so it is not reached on every one."""
    with jax.enable_x64(True):
        x, g, kernel = draw((2, side, side, c), (2, side, side, d), (3, 3, c, d))
        expected = jax.jit(lambda x, g: jax.vjp(reference, x, kernel)[1](g)[1])(x, g)
        got = jax.jit(convolution._kernel_gradient_by_rows)(x, g)
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spatial", [(28, 28), (5, 6, 6)])
def test_other_platforms_get_the_plain_form(spatial):
    """One convolution forwards and one for each gradient, with windows of three, and no loop."""
    image, kernel = draw((2, *spatial, 12), (3,) * len(spatial) + (12, 12))

    @jax.jit
    def run(x, kernel, g):
        value, pull = jax.vjp(convolve, x, kernel)
        return value, pull(g)

    traced = run.trace(image, kernel, image)
    cpu, tpu = (
        traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu")
    )
    names = ("while", "dot_general", "concatenate", "pad")
    special = [f"stablehlo.{name}" for name in names]
    assert tpu.count("stablehlo.convolution") == 3
    assert not any(operation in tpu for operation in special)
    assert all(operation in cpu for operation in special[1:])
