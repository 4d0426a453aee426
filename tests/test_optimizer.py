"""SGD as PyTorch does it, and the polynomial schedule."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from cifp_jax.training.optimizer import make_optimizer, poly_schedule


def test_two_steps_worked_out_by_hand():
    optimizer = make_optimizer(0.1, 0.9, 0.5, 1.0, steps=2)
    start = jnp.array(2.0)
    updates, state = optimizer.update(jnp.array(1.0), optimizer.init(start), start)
    params: Any = optax.apply_updates(start, updates)
    # gradient 1 + 0.5 * 2 = 2, momentum 2, rate 0.1
    np.testing.assert_allclose(np.asarray(params), 1.8)
    updates, _ = optimizer.update(jnp.array(1.0), state, params)
    # gradient 1 + 0.5 * 1.8 = 1.9, momentum 0.9 * 2 + 1.9 = 3.7, rate 0.1 * (1 - 1/2)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(np.asarray(params), 1.8 - 0.185)


def test_schedule_ends_at_zero():
    schedule = poly_schedule(0.01, 100, 0.9)
    np.testing.assert_allclose(schedule(0), 0.01)
    np.testing.assert_allclose(schedule(50), 0.01 * 0.5**0.9, rtol=1e-6)
    assert schedule(100) == 0
