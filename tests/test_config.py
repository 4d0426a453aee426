"""Every configuration loads, passes the checks, and takes its method's settings from one place."""

import importlib
import json

import pytest

from cifp_jax.config import default_config, method_defaults
from cifp_jax.methods import METHODS
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
    # Left open in the configuration, so that no method's default stands for another's.
    assert default_config().method.tau is None


def test_a_setting_has_one_type_in_all_methods():
    types = {}
    for name in METHODS:
        for key, value in method_defaults(name).items():
            assert types.setdefault(key, type(value)) is type(value), key


def test_given_settings_come_before_those_of_the_data_before_those_of_the_loss():
    config = importlib.import_module("configs.la").get_config()
    config.method.name = "ad_mt"
    chosen = build.method_config(config)
    assert (chosen["threshold"], chosen["criterion"]) == (0.8, "ce")
    config.method.threshold = 0.9
    assert build.method_config(config)["threshold"] == 0.9
    config.method.name = "fixmatch"
    assert build.method_config(config) == {"threshold": 0.9}
    config.method.threshold = None
    assert build.method_config(config) == {}
    written = json.loads(build.describe(config))
    assert written["method"] == {"name": "fixmatch", "threshold": 0.95, "cutmix": 0.5}
    assert "presets" not in written


def test_a_preset_that_its_method_lacks_names_those_it_has():
    config = importlib.import_module("configs.acdc").get_config()
    config.presets.fixmatch.tau = 0.5
    with pytest.raises(ValueError, match=r"presets.fixmatch is 'tau'; known: threshold, cutmix"):
        build.check_config(config)
