"""Semi-supervised medical image segmentation in JAX. The names that notebooks import."""

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
