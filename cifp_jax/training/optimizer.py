"""Optimizers and schedules: the field's protocol, and what a strong recipe does better with."""

import optax


def make_schedule(
    schedule: str, *, learning_rate: float, power: float, warmup_steps: int, steps: int
) -> optax.Schedule:
    """The learning rate at each update, 0 from that of the last step on.

    A step that is skipped, as it was no number, makes no update, and the rest is that much behind.

    After a linear warm-up from 0 over the first w steps, with the share of the rest that is done,
    `t = (step - w) / (steps - w)`:

    * poly: `learning_rate * (1 - t) ** power`, of the field's protocols (w = 0).
    * cosine: `learning_rate * (1 + cos(pi t)) / 2`.
    """
    rest = max(steps - warmup_steps, 1)
    falling = (
        optax.polynomial_schedule(learning_rate, 0.0, power, rest)
        if schedule == "poly"
        else optax.cosine_decay_schedule(learning_rate, rest)
    )
    if not warmup_steps:
        return falling
    rising = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([rising, falling], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    steps: int,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    power: float = 0.9,
    name: str = "sgd",
    schedule: str = "poly",
    warmup_steps: int = 0,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """The optimizer of a run.

    Args:
      learning_rate: the highest of the schedule.
      steps: to the end of the schedule.
      momentum: of sgd.
      weight_decay: of sgd, added to the gradient before the momentum, as in PyTorch; of adamw,
        apart from the gradient (Loshchilov and Hutter, ICLR 2019).
      power: of the poly schedule.
      name: sgd or adamw.
      schedule: poly or cosine.
      warmup_steps: over which the learning rate rises from 0.
      clip: the largest norm of the gradient, which is scaled down to it; 0 leaves it as it is.
    """
    rate = make_schedule(
        schedule, learning_rate=learning_rate, power=power, warmup_steps=warmup_steps, steps=steps
    )
    if name == "adamw":
        parts = [optax.adamw(rate, weight_decay=weight_decay)]
    else:
        parts = [optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=momentum)]
    return optax.chain(*([optax.clip_by_global_norm(clip)] if clip else []), *parts)
