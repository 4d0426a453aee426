"""Winograd's minimal filtering along the first spatial axis; arrays are `(b, n, *rest, c)`.

With a filter of three, four neighbouring outputs need six products in place of twelve:
`y = A [(G k) * (B x)]` (Lavin and Gray 2016, https://arxiv.org/abs/1509.09308). A product is here a
convolution over the rest of the axes, so the transforms are sums of whole rows or planes.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TILE = 4  # outputs that are computed together
PARTS = TILE + 2  # products that they need, and inputs that they read
# Toom and Cook's points, beside infinity. Rounding in float32 carries 1.7 times as far with them as
# with two outputs at a time; with 0, 1, -1, 2 and -2, which are usual, 2.4 times.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def _matrices(
    points: Sequence[float],
) -> tuple[Float[np.ndarray, "4 6"], Float[np.ndarray, "6 6"], Float[np.ndarray, "6 3"]]:
    """A, B and G: polynomials are multiplied by their values at the points and at infinity."""
    a, b, g = np.zeros((TILE, PARTS)), np.zeros((PARTS, PARTS)), np.zeros((PARTS, 3))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        a[:, i] = point ** np.arange(TILE)
        b[i, :-1] = np.poly(others)[::-1]
        g[i] = point ** np.arange(3) / np.prod([point - other for other in others])
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(points)[::-1]
    return a, b, g


A, B, G = _matrices(_POINTS)


def combine(weights: Float[np.ndarray, " n"], arrays: Sequence[Array] | Array) -> Array:
    """The weighted sum of `n` arrays."""
    terms = [float(w) * a for w, a in zip(weights, arrays, strict=True) if w]
    return functools.reduce(operator.add, terms)


def inputs(x: Float[Array, "b n *rest c"]) -> list[Float[Array, "b tiles *rest c"]]:
    """`B x`: the six transformed inputs of each tile."""
    read = _rows_of_tiles(x, 1, PARTS)
    return [combine(weights, read) for weights in B]


def convolve(
    x: Float[Array, "b n *rest c"],
    kernel: Float[Array, "3 *window c d"],
    convolve_rest: Callable[[Array, Array], Array],
) -> Float[Array, "b n *rest d"]:
    """Zero-padded convolution; `convolve_rest(x, kernel)` is that over the rest of the axes."""
    kernels = [combine(weights, kernel) for weights in G]
    products = [convolve_rest(v, k) for v, k in zip(inputs(x), kernels, strict=True)]
    tiles = jnp.stack([combine(weights, products) for weights in A], axis=2)
    return tiles.reshape(x.shape[0], -1, *tiles.shape[3:])[:, : x.shape[1]]


def kernel_gradient(
    x: Float[Array, "b n *rest c"],
    g: Float[Array, "b n *rest d"],
    gradient_of_rest: Callable[[Array, Array], Array],
    *,
    looped: bool,
) -> Float[Array, "3 *of_rest"]:
    """The kernel's gradient; `gradient_of_rest(x, g)` is that over the rest of the axes.

    `looped` compiles it once, as the body of a loop, for parts that are all in memory.
    """
    read = _rows_of_tiles(g, 0, TILE)
    parts = inputs(x), [combine(weights, read) for weights in A.T]
    if looped:
        stacks = tuple(jnp.stack(part) for part in parts)
        found = lax.map(lambda part: gradient_of_rest(*part), stacks)
    else:
        found = [gradient_of_rest(v, m) for v, m in zip(*parts, strict=True)]
    return jnp.stack([combine(weights, found) for weights in G.T])


def _rows_of_tiles(
    x: Float[Array, "b n *rest c"], before: int, count: int
) -> list[Float[Array, "b tiles *rest c"]]:
    """Of each tile the `count` rows that begin `before` rows ahead of it; zeros outside."""
    length = -(-x.shape[1] // TILE) * TILE
    around = (before, length - x.shape[1] + count - TILE - before)
    padded = jnp.pad(x, ((0, 0), around, *((0, 0),) * (x.ndim - 2)))
    return [padded[:, i : i + length - TILE + 1 : TILE] for i in range(count)]
