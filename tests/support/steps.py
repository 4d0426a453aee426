"""What steps of training are tested with."""

import functools
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from cifp_jax.settings import from_mapping

# Compiling is most of the time of many tests.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def settings_with(kind: Any, values: dict[str, Any]) -> Any:
    """Settings of a method with these values, by dotted names."""
    return from_mapping(kind, unflatten_dict(values, sep="."), "settings")


def make_batch(step: int, shape: tuple[int, ...], classes: int, size: int = 8) -> dict:
    """A batch whose foreground is unequal: the first half of the labels is background only."""
    rng = np.random.default_rng(step)
    label = rng.integers(0, classes, (size, *shape)).astype(np.int32)
    label[: size // 2] = 0
    index = np.arange(size, dtype=np.int32) + size * step
    image = lambda: rng.normal(size=(size, *shape, 1)).astype(np.float32)  # noqa: E731
    return {
        "labeled": {"image": image(), "label": label, "index": index},
        "unlabeled": {"image": image(), "index": index + 1000},
    }


def assert_same(ours, theirs):
    """Batches are equal in their types, shapes and values."""

    def same(a, b):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, ours, theirs)
