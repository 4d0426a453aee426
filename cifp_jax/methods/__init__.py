"""The science: pure functions of arrays. A new method is one file and one line in `METHODS`."""

from collections.abc import Callable
from typing import NamedTuple

from cifp_jax.methods import cifp, supervised


class Method(NamedTuple):
    """A way of training.

    Attributes:
      loss: `(student, teacher, batch, *, rng, step, axis_name, shards, **settings) ->
        (loss, (batch_stats, metrics))`; the settings are keyword arguments with defaults.
      init: `(rng, feature_channels, **settings) -> dict` of the method's own parameters.
    """

    loss: Callable
    init: Callable


METHODS: dict[str, Method] = {
    "cifp": Method(cifp.loss, cifp.init),
    "supervised": Method(supervised.loss, supervised.init),
}
