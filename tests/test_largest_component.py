"""The largest component inside a compiled step, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cifp_jax.methods.largest_component import keep_largest, largest_component

spiral = """
######
.....#
####.#
#..#.#
#....#
######
"""
SPIRAL = np.array([[c == "#" for c in line] for line in spiral.split()])


def largest(mask: np.ndarray) -> int:
    """Size of the largest component, by SciPy."""
    labels = np.empty(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3,) * mask.ndim), output=labels)
    return int(np.bincount(labels.ravel())[1:].max())


@pytest.mark.parametrize("shape", [(24, 17), (9, 8, 7)])
def test_against_scipy(shape):
    compiled = jax.jit(largest_component)
    rng = np.random.default_rng(0)
    for density in (0.05, 0.2, 0.35):
        mask = rng.random(shape) < density
        kept = np.asarray(compiled(mask))
        assert kept.sum() == largest(mask)
        assert largest(kept) == kept.sum()
        assert not (kept & ~mask).any()


def test_long_and_empty_masks():
    compiled = jax.jit(largest_component)
    np.testing.assert_array_equal(compiled(SPIRAL), SPIRAL)
    assert not compiled(np.zeros_like(SPIRAL)).any()


def test_each_class_by_itself():
    label = jnp.array([[[1, 0, 2, 2], [0, 0, 0, 0], [1, 1, 0, 2]]])
    want = [[[0, 0, 2, 2], [0, 0, 0, 0], [1, 1, 0, 0]]]
    np.testing.assert_array_equal(jax.jit(keep_largest, static_argnums=1)(label, 3), want)


def test_the_foreground_that_holds_most_classes():
    """Of the three pieces of the foreground the last is largest, but the first has both classes."""
    label = jnp.array([[[1, 2, 0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]])
    want = [[[1, 2, 0, 0, 0, 0, 0, 0], [0] * 8]]
    keep = jax.jit(keep_largest, static_argnums=(1, 2))
    np.testing.assert_array_equal(keep(label, 3, "foreground"), want)
    one_class = jnp.minimum(label, 1)
    want = [[[0] * 5 + [1] * 3] * 2]
    np.testing.assert_array_equal(keep(one_class, 3, "foreground"), want)
    np.testing.assert_array_equal(keep(0 * label, 3, "foreground"), 0 * label)
