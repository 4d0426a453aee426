"""SGD as PyTorch does it, AdamW, and the schedules."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from cifp_jax.training.optimizer import make_optimizer, make_schedule


def test_two_steps_worked_out_by_hand():
    optimizer = make_optimizer(learning_rate=0.1, weight_decay=0.5, power=1.0, steps=2)
    start = jnp.array(2.0)
    updates, state = optimizer.update(jnp.array(1.0), optimizer.init(start), start)
    params: Any = optax.apply_updates(start, updates)
    # gradient 1 + 0.5 * 2 = 2, momentum 2, rate 0.1
    np.testing.assert_allclose(np.asarray(params), 1.8)
    updates, _ = optimizer.update(jnp.array(1.0), state, params)
    # gradient 1 + 0.5 * 1.8 = 1.9, momentum 0.9 * 2 + 1.9 = 3.7, rate 0.1 * (1 - 1/2)
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(np.asarray(params), 1.8 - 0.185)


def test_adamw_by_hand():
    optimizer = make_optimizer(
        learning_rate=0.1, weight_decay=0.5, steps=2, name="adamw", schedule="cosine", clip=1.0
    )
    start = jnp.array(2.0)
    updates, state = optimizer.update(jnp.array(5.0), optimizer.init(start), start)
    # The first step of Adam has length one: 1 + 0.5 * 2 (decay), at the rate 0.1.
    np.testing.assert_allclose(np.asarray(updates), -0.2, rtol=1e-5)
    updates, _ = optimizer.update(jnp.array(5.0), state, start)
    # Both gradients were cut to 1, so the step is the same, at the cosine's middle, 0.05.
    np.testing.assert_allclose(np.asarray(updates), -0.1, rtol=1e-5)


def test_poly_schedule_ends_at_zero():
    schedule = make_schedule("poly", learning_rate=0.01, power=0.9, warmup_steps=0, steps=100)
    np.testing.assert_allclose(schedule(0), 0.01)
    np.testing.assert_allclose(schedule(50), 0.01 * 0.5**0.9, rtol=1e-6)
    assert schedule(100) == 0


def test_cosine_schedule_with_a_warm_up():
    schedule = make_schedule("cosine", learning_rate=0.01, power=0.9, warmup_steps=20, steps=100)
    values = [np.asarray(schedule(step)) for step in (0, 10, 20, 60, 100, 200)]
    np.testing.assert_allclose(values, [0, 0.005, 0.01, 0.005, 0, 0], atol=1e-8)
