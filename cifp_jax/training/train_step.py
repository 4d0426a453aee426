"""One pure training step, the same for every method, network, and way of running it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cifp_jax import augmentation, parallel
from cifp_jax.methods import METHODS, Method
from cifp_jax.methods.context import Context, Metrics
from cifp_jax.models.network import bind
from cifp_jax.settings import default_or_given
from cifp_jax.training.state import TrainState, as_tuple, from_tuple

_AUGMENTATION = 1000  # keeps its keys apart from those that methods split off


def find_method(name: str) -> Method:
    """The method of that name; a ValueError names those there are."""
    if name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise ValueError(f"config.method.name or compare says {name!r}; known: {known}.")
    return METHODS[name]


def make_train_step(
    model: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    settings: Any = None,
    strong: augmentation.Settings | None = None,
    patch_size: Sequence[int] = (),
    precision: str = "float32",
    remat: bool = False,
    accumulate: int = 1,
    first_unlabeled: int = 0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds `train_step(state, batch, *, axis_name, shards, mesh) -> (state, metrics)`.

    The returned function is pure; `parallel.compile_step` turns it into a compiled one. Metrics
    are `(sum, count)` pairs over the global batch. A step whose loss or gradient is not finite
    changes nothing but `state.step`, counts in no metric, and is told by the metric `skipped`.

    Args:
      model: a network with an `axis_name` field for the statistics of its batch norms.
      method: its loss, and how its teachers follow.
      optimizer: an Optax transformation over `state.params`.
      ema_decay: of the teacher, reached by `methods.ema.warm_decay` where the method has no
        rule of its own; 0 makes the teacher the student itself (teacher off).
      settings: an instance of `method.settings`; None for its defaults.
      strong: how both streams are augmented before the method sees them; None leaves the batch as
        the loader made it.
      patch_size: where `strong` is given, the spatial shape that it makes of larger crops.
      precision: of images and features, as `models.network.bind` has it.
      remat: whether the students keep what convolutions make alone for the backward pass, as
        `models.network.bind` has it.
      accumulate: parts that the batch is cut into, one after the other; the gradient is the mean of
        theirs. Each part has losses and batch statistics of its own, as a smaller batch would.
      first_unlabeled: the first step that unlabelled images take part in, from which the ramps and
        stages of a method count.

    Raises:
      TypeError: `settings` are those of another method.
    """
    settings = default_or_given(method.settings, settings)

    @parallel.random_numbers()
    def train_step(
        state: TrainState,
        batch: dict[str, Any],
        *,
        axis_name: str | None = None,
        shards: int = 1,
        mesh: Mesh | None = None,
    ) -> tuple[TrainState, Metrics]:
        network = model.clone(axis_name=axis_name)
        key = jax.random.fold_in(state.rng, state.step)
        context = Context(key, state.step, axis_name, shards, first_unlabeled)
        if strong is not None:
            own = jax.random.fold_in(key, _AUGMENTATION)
            batch = augmentation.augment_batch(own, batch, patch_size, strong)

        def networks(params: Any, batch_stats: Any, train: bool) -> Any:
            pairs = zip(as_tuple(params), as_tuple(batch_stats), strict=True)
            one = functools.partial(
                bind,
                network,
                train=train,
                precision=precision,
                remat=remat and train,
                mesh=mesh,
            )
            return from_tuple(tuple(one(p, s) for p, s in pairs))

        teacher = networks(state.ema_params, state.ema_batch_stats, train=False)

        def gradient(part: dict[str, Any], batch_stats: Any) -> tuple[Any, tuple[Any, Metrics]]:
            def objective(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
                student = networks(params, batch_stats, train=True)
                return method.loss(student, teacher, part, context, settings)

            return jax.grad(objective, has_aux=True)(state.params)

        first, *others = parallel.cut(batch, accumulate, shards)
        grads, (batch_stats, metrics) = gradient(first, state.batch_stats)
        # Not a scan: convolutions are slow inside a loop on CPUs.
        for part in others:
            # One part after the other, so that the activations of one are held at a time.
            part, grads = jax.lax.optimization_barrier((part, grads))
            more, (batch_stats, figures) = gradient(part, batch_stats)
            grads, metrics = jax.tree.map(jnp.add, (grads, metrics), (more, figures))
        grads = jax.tree.map(lambda g: g / accumulate, grads)
        # Every device holds its share of the gradient of one global value: summed, not averaged.
        grads = parallel.psum(grads, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)

        decays = method.decays(context, ema_decay, settings)

        def average(new: Any, old: Any) -> Any:
            pairs = zip(as_tuple(old), decays, strict=True)
            return from_tuple(tuple(optax.incremental_update(new, o, 1 - d) for o, d in pairs))

        new_state = TrainState(
            step=state.step,
            params=params,
            batch_stats=batch_stats,
            ema_params=average(as_tuple(params)[0], state.ema_params),
            ema_batch_stats=average(as_tuple(batch_stats)[0], state.ema_batch_stats),
            opt_state=opt_state,
            rng=state.rng,
        )
        norm = optax.tree.norm(grads)
        figures = metrics | {"gradient_norm": (norm, jnp.ones(()))}
        # A step whose loss or gradient is no number changes nothing, on no device: both are global.
        sound = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"][0])
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), new_state, state)
        counted = jax.tree.map(lambda x: jnp.where(sound, x, 0), figures)
        skipped = (1 - sound.astype(jnp.float32), jnp.ones(()))
        return kept.replace(step=state.step + 1), counted | {"skipped": skipped}

    return train_step
