"""One pure training step, the same for every method, network, and way of running it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cifp_jax import parallel
from cifp_jax.methods import METHODS, Method
from cifp_jax.models.network import bind
from cifp_jax.training.state import TrainState

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def find_method(name: str) -> Method:
    """The method of that name; a ValueError names those there are."""
    if name not in METHODS:
        raise ValueError(f"config.method.name is {name!r}; known: {', '.join(sorted(METHODS))}.")
    return METHODS[name]


def method_settings(method: Method, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `settings` that the method's loss has; the rest belongs to other methods."""
    known = inspect.signature(method.loss).parameters
    return {name: value for name, value in settings.items() if name in known}


def make_train_step(
    model: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    settings: Mapping[str, Any],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, *, axis_name=None, shards=1) -> (state, metrics)`.

    The returned function is pure; `parallel.compile_step` turns it into a compiled one. Metrics
    are `(sum, count)` pairs over the global batch.

    Args:
      model: a network with an `axis_name` field for the statistics of its batch norms.
      method: loss and initialisation.
      optimizer: an Optax transformation over `state.params`.
      ema_decay: of the teacher, reached as `min(1 - 1 / (step + 1), ema_decay)`; 0 makes the
        teacher the student itself (teacher off).
      settings: keyword arguments of the method's loss.
    """

    @parallel.random_numbers()
    def train_step(
        state: TrainState, batch: dict[str, Any], *, axis_name: str | None = None, shards: int = 1
    ) -> tuple[TrainState, Metrics]:
        network = model.clone(axis_name=axis_name)
        rng = jax.random.fold_in(state.rng, state.step)
        teacher = bind(
            network,
            state.ema_params["network"],
            state.ema_batch_stats,
            train=False,
            extra=state.ema_params["method"],
        )

        def objective(params: dict[str, Any]) -> tuple[jax.Array, tuple[Any, Metrics]]:
            student = bind(
                network, params["network"], state.batch_stats, train=True, extra=params["method"]
            )
            return method.loss(
                student,
                teacher,
                batch,
                rng=rng,
                step=state.step,
                axis_name=axis_name,
                shards=shards,
                **settings,
            )

        grads, (batch_stats, metrics) = jax.grad(objective, has_aux=True)(state.params)
        # Every device holds its share of the gradient of one global value: summed, not averaged.
        grads = parallel.psum(grads, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)

        decay = jnp.minimum(1 - 1 / (state.step + 1), ema_decay)

        def average(new: Any, old: Any) -> Any:
            return optax.incremental_update(new, old, 1 - decay)

        new_state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            ema_params=average(params, state.ema_params),
            ema_batch_stats=average(batch_stats, state.ema_batch_stats),
            opt_state=opt_state,
            rng=state.rng,
        )
        return new_state, metrics | {"gradient_norm": (optax.tree.norm(grads), jnp.ones(()))}

    return train_step
