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

    `params` and `ema_params` hold two trees: `network`, and `method` for what a method trains
    beside it (usually empty). `rng` is a root key that never advances: a step folds its number in.
    """

    step: Any
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    ema_params: dict[str, Any]
    ema_batch_stats: dict[str, Any]
    opt_state: Any
    rng: Any


def create_train_state(
    model: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    input_shape: tuple[int, ...],
    settings: dict[str, Any],
) -> TrainState:
    """The state before the first step.

    Args:
      model: a network with `encode` and `decode`.
      method: its loss and the initialisation of its own parameters.
      optimizer: the Optax transformation that the step will use.
      seed: everything random in the device's part of the run follows from it.
      input_shape: shape of one batch, `(b, *spatial, channels)`; the batch size does not matter.
      settings: the method's settings, as for its loss.
    """
    init_rng, method_rng, rng = jax.random.split(jax.random.key(seed), 3)
    example = jax.ShapeDtypeStruct((1, *input_shape[1:]), jnp.float32)

    # Only the parameters are computed, one at a time: the forward pass is needed for its shapes.
    with parallel.random_numbers():
        variables: Any = model.lazy_init(init_rng, example, train=False)
    features = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, method="encode"), variables, example
    )
    own = method.init(method_rng, tuple(f.shape[-1] for f in features), **settings)
    params = {"network": variables["params"], "method": own}
    batch_stats = variables["batch_stats"]
    # The teacher starts as a copy: the step donates its state, and donated buffers must not alias.
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # noqa: E731
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema_params=copy(params),
        ema_batch_stats=copy(batch_stats),
        opt_state=optimizer.init(params),
        rng=rng,
    )
