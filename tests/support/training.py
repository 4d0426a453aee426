"""Small networks that are trained for a few steps, in each way to run them."""

import functools
from typing import Any

import jax

from cifp_jax import parallel
from cifp_jax.mesh import make_mesh
from cifp_jax.models.unet import UNet
from cifp_jax.models.vnet import VNet
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import create_train_state
from cifp_jax.training.train_step import find_method, make_train_step
from tests.support.networks import TwoStages
from tests.support.steps import make_batch, settings_with

FILTERS = (2, 2, 4, 4, 4)
STEPS = 4
LEARNING_RATE = 0.01  # of both protocols
# Settings of CIFP for two stages and few steps.
SMALL: dict[str, Any] = {"perturbation.stage": 2, "ramp_steps": 2}


CASES = {
    "two_stages": (TwoStages(), (8, 8), 2),
    "unet": (UNet(classes=3, filters=FILTERS), (16, 16), 3),
    "instance": (UNet(classes=3, filters=FILTERS, normalization="instance"), (32, 32), 3),
    "vnet": (VNet(classes=2, filters=FILTERS), (16, 16, 16), 2),
}


def make_all(
    network: str,
    name: str,
    *,
    precision: str = "float32",
    remat: bool = False,
    accumulate: int = 1,
    shape: tuple[int, ...] = (),
    **settings,
):
    model, usual, classes = CASES[network]
    shape = shape or usual
    method = find_method(name)
    optimizer = make_optimizer(learning_rate=LEARNING_RATE, steps=STEPS)
    chosen = settings_with(method.settings, settings)
    step = make_train_step(
        model,
        method,
        optimizer,
        ema_decay=0.9,
        settings=chosen,
        precision=precision,
        remat=remat,
        accumulate=accumulate,
    )

    def new_state():
        return create_train_state(model, method, optimizer, seed=0, input_shape=(1, *shape, 1))

    return step, new_state, functools.partial(make_batch, shape=shape, classes=classes)


def run(mode: str, step, state, batch, space=1):
    mesh = make_mesh(space)
    compiled = parallel.compile_step(step, mode, mesh)
    state = parallel.replicate(state, mode, mesh)
    metrics = []
    for i in range(STEPS):
        state, of_step = compiled(state, parallel.shard_batch(batch(i), mode, mesh))
        metrics.append(parallel.to_host(of_step))
    return jax.device_get(
        (state.params, state.ema_params, state.batch_stats, state.ema_batch_stats)
    ), metrics
