"""Devices that share a batch wait for one another outside of loops alone.

XLA's CPU devices run a loop and what does not depend on it in any order: two that add up in a loop
and beside it may each wait for what the other has not begun, until the process is ended.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.methods.largest_component import keep_largest
from cifp_jax.models.convolution import convolve
from tests.support.programs import loops


def _largest(of):
    return lambda label: keep_largest(label, 3, of)


def _kernel_gradient(x):
    kernel = jnp.ones((3, 3, 3, x.shape[-1], 8))
    return jax.grad(lambda k: jnp.sum(convolve(x, k) ** 2))(kernel)


@pytest.mark.parametrize(
    ("function", "batch"),
    [
        (_largest("class"), np.random.default_rng(0).integers(0, 3, (4, 9, 8, 7))),
        (_largest("foreground"), np.random.default_rng(1).integers(0, 3, (4, 9, 8, 7))),
        (_kernel_gradient, np.random.default_rng(2).normal(size=(4, 8, 6, 6, 8))),
    ],
)
def test_no_loop_waits_for_other_devices(function, batch):
    batch = batch.astype(np.float32 if batch.dtype == np.float64 else np.int32)

    def step(state, batch, shards, mesh):
        return state, function(batch)

    mesh = make_mesh()
    compiled = parallel.compile_step(step, "jit", mesh)
    given = parallel.replicate(jnp.zeros(()), "jit", mesh), parallel.shard_batch(batch, "jit", mesh)
    program = compiled.lower(*given).compile()
    found = loops(program.as_text())
    assert found
    assert not any(found), found
    np.testing.assert_allclose(program(*given)[1], function(jnp.asarray(batch)), rtol=1e-4)
