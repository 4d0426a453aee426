"""Semi-supervised medical image segmentation in JAX. The names that notebooks import.

Each is imported where it is first asked for: a command that only prints its help needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifp_jax.mesh import make_mesh
    from cifp_jax.methods import METHODS
    from cifp_jax.models.unet import UNet
    from cifp_jax.models.vnet import VNet
    from cifp_jax.parallel import compile_step, shard_batch
    from cifp_jax.training.optimizer import make_optimizer
    from cifp_jax.training.state import TrainState, create_train_state
    from cifp_jax.training.train_step import make_train_step

__all__ = [
    "METHODS",
    "TrainState",
    "UNet",
    "VNet",
    "compile_step",
    "create_train_state",
    "make_mesh",
    "make_optimizer",
    "make_train_step",
    "shard_batch",
]

_PLACES = {
    "mesh": ("make_mesh",),
    "methods": ("METHODS",),
    "models.unet": ("UNet",),
    "models.vnet": ("VNet",),
    "parallel": ("compile_step", "shard_batch"),
    "training.optimizer": ("make_optimizer",),
    "training.state": ("TrainState", "create_train_state"),
    "training.train_step": ("make_train_step",),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(f"cifp_jax.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
