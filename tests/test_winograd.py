"""Winograd's minimal filtering against sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax.models import winograd


def test_four_outputs_by_hand():
    """1 2 3 over 1 2 3 4 5 6 between zeros: 8, 14, 20, 26, 32 and 17."""
    x = jnp.arange(1.0, 7.0).reshape(1, 6, 1, 1)
    kernel = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    y = winograd.convolve(x, kernel, lambda x, k: x @ k)
    np.testing.assert_allclose(y[0, :, 0, 0], [8, 14, 20, 26, 32, 17], rtol=1e-5)


def test_six_products_for_two_tiles():
    """The rest is convolved six times, each time for a quarter of the rows: half of twelve."""
    seen = []

    def product(x, k):
        seen.append((x.shape, k.shape))
        return x @ k

    winograd.convolve(jnp.zeros((2, 7, 5, 3)), jnp.zeros((3, 3, 8)), product)
    assert seen == [((2, 2, 5, 3), (3, 8))] * 6


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_the_kernels_gradient_by_hand(n, looped):
    """Of y_i = k_0 x_(i-1) + k_1 x_i + k_2 x_(i+1): the products of all g_i with these inputs."""
    rng = np.random.default_rng(n)
    x, g = rng.normal(size=(2, 1, n, 2, 3))
    with jax.enable_x64(True):
        found = winograd.kernel_gradient(
            jnp.asarray(x),
            jnp.asarray(g),
            lambda x, g: jnp.einsum("btrc,btrd->cd", x, g),
            looped=looped,
        )
    around = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    expected = [np.einsum("bnrc,bnrd->cd", around[:, j : j + n], g) for j in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_float32_is_precise():
    """Relative to the results' deviation, of 864 products each, where a direct sum has 1.2e-7."""
    x, kernel = np.random.default_rng(0).normal(size=(2, 288, 400)).astype(np.float32)
    x, kernel = x.T.reshape(1, 400, 1, 288), kernel[:, :3].T.reshape(3, 288, 1)
    y = winograd.convolve(jnp.asarray(x), jnp.asarray(kernel), lambda x, k: x @ k)
    around = np.pad(x.astype(float), ((0, 0), (1, 1), (0, 0), (0, 0)))
    exact = np.sum([around[:, j : j + 400] @ kernel[j].astype(float) for j in range(3)], axis=0)
    assert np.sqrt(np.mean((y - exact) ** 2)) < 3.5e-7 * exact.std()
