"""What a run carries from step to step: arrays only."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from cifp_jax import parallel
from cifp_jax.methods import Method


@flax.struct.dataclass
class TrainState:
    """Arrays of a training run: `step` int32 (), `rng` a PRNG key (), the others trees of float32.

    The fields are not checked at run time, as JAX also puts shapes and shardings in their place.

    Where a method has several students, `params` and `batch_stats` are tuples with an entry for
    each; where it has several teachers, `ema_params` and `ema_batch_stats` are. `rng` is a root key
    that never advances: a step folds its number in.
    """

    step: Any
    params: Any
    batch_stats: Any
    ema_params: Any
    ema_batch_stats: Any
    opt_state: Any
    rng: Any


def as_tuple(entry: Any) -> tuple[Any, ...]:
    """The networks of a state's entry, as a tuple even where there is one."""
    return entry if isinstance(entry, tuple) else (entry,)


def from_tuple(networks: tuple[Any, ...]) -> Any:
    """The inverse of `as_tuple`: what the state holds of these networks."""
    first, *others = networks
    return networks if others else first


def create_train_state(
    model: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    input_shape: tuple[int, ...],
) -> TrainState:
    """The state before the first step.

    Args:
      model: a network with `encode` and `decode`.
      method: how many networks it has.
      optimizer: the Optax transformation that the step will use.
      seed: everything random in the device's part of the run follows from it.
      input_shape: shape of one batch, `(b, *spatial, channels)`; the batch size does not matter.
    """
    init_rng, rng = jax.random.split(jax.random.key(seed))
    example = jax.ShapeDtypeStruct((1, *input_shape[1:]), jnp.float32)

    # Only the parameters are computed, one at a time: the forward pass is needed for its shapes.
    keys = [init_rng, *(jax.random.fold_in(init_rng, i) for i in range(1, method.students))]
    with parallel.random_numbers():
        students: list[Any] = [model.lazy_init(key, example, train=False) for key in keys]
    params = from_tuple(tuple(s["params"] for s in students))
    # A teacher starts as a copy: the step donates its state, and donated buffers must not alias.
    teachers = [jax.tree.map(jnp.copy, students[0]) for _ in range(method.teachers)]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=from_tuple(tuple(s.get("batch_stats", {}) for s in students)),
        ema_params=from_tuple(tuple(t["params"] for t in teachers)),
        ema_batch_stats=from_tuple(tuple(t.get("batch_stats", {}) for t in teachers)),
        opt_state=optimizer.init(params),
        rng=rng,
    )


def network_variables(state: TrainState, weights: str) -> dict[str, Any]:
    """Parameters and statistics of the network that is evaluated: the first, on the host.

    `weights` is `ema`, the teacher's, or `student` (`config.evaluation.weights`).
    """
    ema = weights == "ema"
    params = state.ema_params if ema else state.params
    batch_stats = state.ema_batch_stats if ema else state.batch_stats
    return jax.device_get({"params": as_tuple(params)[0], "batch_stats": as_tuple(batch_stats)[0]})
