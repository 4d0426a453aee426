"""Every configuration loads, passes the checks, and takes its method's settings from one place."""

import importlib

import pytest

from cifp_jax.config import default_config, method_defaults
from cifp_jax.training import build

VARIANTS = [
    *(("acdc", v) for v in ("full", "laptop")),
    *(("la", v) for v in ("full", "laptop")),
    *(("demo", v) for v in ("2d", "3d")),
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_each_variant_can_run_on_one_device(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.parallel = "none"
    build.check_config(config)


@pytest.mark.parametrize("name", ["acdc", "la", "demo"])
def test_an_unknown_variant_names_the_known_ones(name):
    with pytest.raises(ValueError, match="known: "):
        importlib.import_module(f"configs.{name}").get_config("tiny")


def test_the_protocols():
    la = importlib.import_module("configs.la").get_config()
    assert (la.data.patch_size, la.data.batch_labeled) == ((112, 112, 80), 2)
    assert (la.training.steps, la.evaluation.stride) == (15_000, (18, 18, 4))
    assert la.evaluation.report == "last"
    acdc = importlib.import_module("configs.acdc").get_config()
    assert (acdc.data.patch_size, acdc.data.batch_unlabeled) == ((256, 256), 12)
    assert (acdc.training.steps, acdc.training.evaluate_every) == (30_000, 200)
    assert acdc.evaluation.report == "best"


def test_settings_of_the_method_come_from_its_loss():
    assert method_defaults("supervised") == {}
    assert method_defaults("cifp")["tau"] == 0.1
    assert default_config().method.tau == 0.1
