"""State, place in the data and figures are saved together; the last and the best are kept."""

import shutil
from typing import Any

import flax.linen as nn
import grain
import jax
import numpy as np
import pytest

from cifp_jax.methods import METHODS
from cifp_jax.models import layers
from cifp_jax.training.checkpoint import Checkpoints
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
        make_optimizer(0.1, 0.9, 1e-4, 0.9, 10),
        seed=step,
        input_shape=(1, 4, 4, 1),
        settings=None,
    )
    return state.replace(step=jax.numpy.int32(step))


def make_iterator():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def test_the_last_and_the_best_are_kept_with_their_place_in_the_data(tmp_path):
    iterator = make_iterator()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.last() is None
        assert checkpoints.best() is None
        for step, dice in ((1, 50.0), (2, 70.0), (3, 60.0), (4, None)):
            next(iterator)
            figures = None if dice is None else {"dice": dice}
            checkpoints.save(make_state(step), iterator, figures)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.last(), checkpoints.best()) == (4, 2)
        assert sorted(p.name for p in checkpoints.folder.iterdir() if p.name.isdigit()) == [
            "2",
            "4",
        ]
        fresh = make_iterator()
        restored = checkpoints.restore(make_state(0), 2, fresh)
        assert next(fresh) == 2  # 0 and 1 were drawn before that save
    jax.tree.map(np.testing.assert_array_equal, restored.params, make_state(2).params)
    assert restored.rng == make_state(2).rng


def test_the_reported_checkpoint_is_the_best_where_there_is_one(tmp_path):
    folder = tmp_path / "checkpoints"
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(FileNotFoundError, match="holds no checkpoint: train it first"),
    ):
        checkpoints.reported("best")
    assert not folder.exists()  # to look for one leaves nothing behind
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(1), make_iterator())
        assert checkpoints.reported("best") == 1
        checkpoints.save(make_state(2), make_iterator(), {"dice": 50.0})
        checkpoints.save(make_state(3), make_iterator())
        assert (checkpoints.reported("best"), checkpoints.reported("last")) == (2, 3)


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(make_state(1), make_iterator())
    shutil.rmtree(tmp_path / "checkpoints/1/state")
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(ValueError, match=r"/1 cannot be restored .*Remove that folder"),
    ):
        checkpoints.restore(make_state(0), 1)


def test_a_checkpoint_of_another_network_is_refused_with_its_place(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(make_state(1), make_iterator())
    with (
        Checkpoints(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(
            ValueError, match=r"/1 does not fit .*: batch_stats/0/norm/mean .*2.*3.* here"
        ),
    ):
        checkpoints.restore(make_state(0, features=3), 1)
