"""Small states, for tests of what is done with a state and not of what it is."""

from typing import Any

import flax.linen as nn
import jax

from cifp_jax.methods import METHODS
from cifp_jax.models import layers
from cifp_jax.training.optimizer import make_optimizer
from cifp_jax.training.state import create_train_state


class Tiny(nn.Module):
    features: int = 2

    def setup(self) -> None:
        self.conv, self.norm = layers.Conv(self.features), layers.batch_norm(None)

    def encode(self, x, *, train, keys=None):
        return (self.norm(self.conv(x), use_running_average=not train),)

    def __call__(self, x, *, train, keys=None):
        return self.encode(x, train=train)[0]


def make_state(step: int, features: int = 2):
    state: Any = create_train_state(
        Tiny(features),
        METHODS["cps"],  # two students: tuples in the state
        make_optimizer(learning_rate=0.1, steps=10),
        seed=step,
        input_shape=(1, 4, 4, 1),
    )
    return state.replace(step=jax.numpy.int32(step))
