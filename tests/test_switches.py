"""Each setting of each method, changed by itself, changes what is learned."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from cifp_jax import parallel
from cifp_jax.methods import METHODS
from cifp_jax.methods.context import Context
from cifp_jax.settings import declarations
from tests.support.networks import THREE_CLASSES, THREE_SIZE, make_network, make_params
from tests.support.steps import make_batch, settings_with

STEP = jnp.int32(52)  # of a ramp of 100; at this step AD-MT's second teacher is active
# Where each change starts from: the defaults, but for what a small network and the step ask for.
BASE = {
    "ad_mt": {"threshold": 0.4, "ramp_steps": 100},
    "bcp": {"pretrain_steps": 10},
    "cifp": {"perturbation.stage": 2, "perturbation.gate": 0.0, "ramp_steps": 100},
    "cps": {"ramp_steps": 100},
    "crossmatch": {"threshold": 0.4, "threshold_end": 0.5, "threshold_steps": 100},
    "fixmatch": {"threshold": 0.4},
    "mean_teacher": {"ramp_steps": 100},
    "supervised": {},
    "ua_mt": {"passes": 2, "ramp_steps": 100, "threshold_steps": 100},
    "unimatch": {"threshold": 0.4, "ramp_steps": 100},
}
# Other values of the settings that are no choice of names.
OTHERS = {
    "ad_mt": {"threshold": 0.9, "cutmix": 0.0, "period": 1, "lambda_max": 1.0, "ramp_steps": 50},
    "bcp": {"pretrain_steps": 100, "alpha": 1.0, "largest_component": False},
    "cifp": {
        "perturbation.probability": 1.0,
        "perturbation.stage": 1,
        "perturbation.gate": 0.8,
        "perturbation.temperature": 1.0,
        "fusion.temperature": 2.0,
        "fusion.gamma": 0.0,
        "lambda_max": 0.5,
        "ramp_steps": 50,
    },
    "cps": {"lambda_max": 1.0, "ramp_steps": 50},
    "crossmatch": {
        "threshold": 0.9,
        "threshold_end": 0.9,
        "threshold_steps": 0,
        "cutmix": 1.0,
        "drop_weak": 0.75,
        "drop_strong": 0.25,
        "eta": 0.6,
        "distill": 1.0,
        "foreground_only": True,
    },
    "fixmatch": {"threshold": 0.9, "cutmix": 1.0},
    "mean_teacher": {"lambda_max": 1.0, "ramp_steps": 50},
    "supervised": {},
    "ua_mt": {"passes": 3, "lambda_max": 1.0, "ramp_steps": 50, "threshold_steps": 1000},
    "unimatch": {"threshold": 0.9, "cutmix": 1.0, "drop": 0.2, "ramp_steps": 50},
}


# What belongs to a choice that is not the default.
CHOICES = {"fusion.temperature": {"fusion.kind": "entropy"}}


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Each operation is compiled by itself, which takes most of the time, and hardly runs."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def changes():
    """Each setting with each of its options, or with its other value."""
    for name, method in METHODS.items():
        for key, (declared, default) in declarations(method.settings).items():
            options = declared.options if isinstance(default, str) else (OTHERS[name][key],)
            for value in options:
                if value != default:
                    yield pytest.param(name, key, value, id=f"{name}-{key}={value}")


def pair(networks, count):
    """The networks of a method: one, or two that differ."""
    return networks[0] if count == 1 else tuple(networks)


@functools.cache
def batch():
    drawn = make_batch(0, (THREE_SIZE,) * 2, THREE_CLASSES, size=4)
    # The true labels lack the last class; the second class is small, and in one place.
    drawn["labeled"]["label"][:] = 0
    drawn["labeled"]["label"][:, :4, :4] = 1
    # As the strong recipe leaves it: the unlabelled images are their sources, upside down.
    unlabeled = drawn["unlabeled"]
    side = np.arange(THREE_SIZE, dtype=np.float32)
    places = np.stack(np.meshgrid(side[::-1], side, indexing="ij"))
    unlabeled["source"] = unlabeled["image"]
    unlabeled["places"] = np.stack([places] * len(unlabeled["image"]))
    unlabeled["image"] = unlabeled["image"][:, ::-1].copy()
    return jax.tree.map(jnp.asarray, drawn)


def value(params, name, settings):
    """The loss at these parameters of the students; nothing is compiled as a whole."""
    method = METHODS[name]
    # A place weighs, so that CIFP's two members differ.
    ramp = jnp.linspace(-1, 1, THREE_SIZE)[:, None, None] * jnp.array([1.0, 0.0, -1.0])
    students = [make_network(p) for p in params]
    teachers = [make_network(make_params(i) | {"bias": ramp}) for i in (6, 7)]
    with parallel.random_numbers():
        return method.loss(
            pair(students, method.students),
            pair(teachers, method.teachers),
            batch(),
            Context(jax.random.key(0), STEP),
            settings,
        )[0]


@functools.cache
def learned(name, gradient, **values):
    """The loss, or its gradient as one vector."""
    settings = settings_with(METHODS[name].settings, BASE[name] | values)
    params = [make_params(0), make_params(1)]
    if not gradient:
        return value(params, name, settings)
    return jax.flatten_util.ravel_pytree(jax.grad(value)(params, name, settings))[0]


def differs(name, before, after):
    """Whether two choices of settings differ in the loss, or else in the gradient."""
    return any(
        float(jnp.abs(learned(name, gradient, **before) - learned(name, gradient, **after)).max())
        > 1e-6
        for gradient in (False, True)
    )


@pytest.mark.parametrize(("name", "key", "other"), list(changes()))
def test_a_switch_does_something(name, key, other):
    choice = CHOICES.get(key, {})
    assert differs(name, choice, choice | {key: other})


@pytest.mark.parametrize("key", CHOICES)
def test_what_belongs_to_another_choice_changes_nothing(key):
    assert not differs("cifp", {}, {key: OTHERS["cifp"][key]})
