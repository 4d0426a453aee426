"""Every method takes real steps, in 2D and in 3D, with as many networks as it asks for."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.methods import METHODS
from cifp_jax.settings import declarations
from cifp_jax.training.checkpoint import Checkpoints
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import as_tuple, create_train_state
from cifp_jax.training.train_step import make_train_step
from tests.support.networks import TwoStages
from tests.support.steps import make_batch, quick, settings_with

# What a short run and a network of two stages need.
SETTINGS = {
    "perturbation.stage": 2,
    "threshold": 0.4,
    "ramp_steps": 2,
    "threshold_steps": 2,
    "pretrain_steps": 1,
    "passes": 2,
    "period": 1,
}
STEPS = 3


def make(name: str, shape: tuple[int, ...]):
    method, model = METHODS[name], TwoStages()
    known = declarations(method.settings)
    settings = settings_with(method.settings, {k: v for k, v in SETTINGS.items() if k in known})
    optimizer = make_optimizer(learning_rate=0.05, steps=STEPS)
    step = make_train_step(model, method, optimizer, ema_decay=0.9, settings=settings)
    state = create_train_state(model, method, optimizer, seed=0, input_shape=(1, *shape, 1))
    return step, state


def run(step, state, shape, mode):
    """The state after some steps, and the last metrics."""
    mesh = make_mesh()
    if mode == "none":
        compiled = quick(step, donate_argnums=0)
    else:
        compiled = parallel.compile_step(step, mode, mesh)
    state = parallel.replicate(state, mode, mesh)
    metrics = {}
    for i in range(STEPS):
        batch = parallel.shard_batch(make_batch(i, shape, 2), mode, mesh)
        state, metrics = compiled(state, batch)
    return state, parallel.to_host(metrics)


def differ(a, b) -> bool:
    return any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_its_networks(name, shape):
    step, state = make(name, shape)
    before = jax.device_get(state)
    after, metrics = run(step, state, shape, "none")
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for leaf in jax.tree.leaves((after.params, after.batch_stats, after.ema_params)):
        assert bool(jnp.isfinite(leaf).all())
    assert all(np.isfinite(pair).all() for pair in metrics.values())
    for field in ("params", "ema_params"):
        old, new = (as_tuple(getattr(s, field)) for s in (before, after))
        count = METHODS[name].students if field == "params" else METHODS[name].teachers
        assert len(new) == count
        assert all(differ(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ad_mt", "bcp", "cps", "crossmatch", "unimatch"])
def test_several_networks_or_streams_and_devices(name):
    shape = (8, 8)
    states = []
    for mode in parallel.MODES:
        step, state = make(name, shape)
        after, _ = run(step, state, shape, mode)
        states.append(
            jax.device_get(
                (after.params, after.ema_params, after.batch_stats, after.ema_batch_stats)
            )
        )
    check = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
    for other in states[1:]:
        jax.tree.map(check, other, states[0])


@pytest.mark.parametrize("name", ["ad_mt", "cps"])
def test_several_networks_are_saved_and_restored(name, tmp_path):
    state: Any = make(name, (8, 8))[1]
    # Neither copies of one another, nor the same buffers, which a step could not donate.
    leaves = jax.tree.leaves((state.params, state.ema_params))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    students = as_tuple(state.params)
    assert len(students) == METHODS[name].students
    assert all(differ(a, students[0]) for a in students[1:])
    changed = jax.tree.map(lambda x: x + 1, state.ema_params)
    state = state.replace(ema_params=changed)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(make(name, (8, 8))[1], 0)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, restored.ema_params, state.ema_params)
