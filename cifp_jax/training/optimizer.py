"""Stochastic gradient descent with the polynomial schedule that the field's protocols share."""

import optax


def poly_schedule(learning_rate: float, steps: int, power: float) -> optax.Schedule:
    """`learning_rate * (1 - step / steps) ** power`, 0 from the last step on."""
    return optax.polynomial_schedule(learning_rate, 0.0, power, steps)


def make_optimizer(
    learning_rate: float, momentum: float, weight_decay: float, power: float, steps: int
) -> optax.GradientTransformation:
    """SGD whose weight decay is added to the gradient before the momentum, as in PyTorch."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(poly_schedule(learning_rate, steps, power), momentum=momentum),
    )
