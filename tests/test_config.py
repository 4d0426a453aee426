"""Every configuration loads, passes the checks, and takes its method's settings from one place."""

import importlib
import json

import pytest

from cifp_jax.config import default_config, set_where_present
from cifp_jax.methods import METHODS
from cifp_jax.training import build, checks, run_folder

VARIANTS = [
    *(("acdc", v) for v in ("full", "cpu", "gpu")),
    *(("la", v) for v in ("full", "cpu", "gpu")),
    *(("demo", v) for v in ("2d", "3d")),
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_each_variant_can_run_on_one_device(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.parallel = "none"
    checks.check_config(config)


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


def test_settings_stand_in_the_configuration_as_the_methods_declare_them():
    config = default_config()
    assert set(config.methods) == set(METHODS)
    assert config.methods.supervised.to_dict() == {}
    assert config.methods.cifp.perturbation.gate == 0.1
    for name, method in METHODS.items():
        assert build.method_settings(config, name) == method.settings()


def test_each_method_has_the_settings_of_its_data():
    la, acdc = (importlib.import_module(f"configs.{name}") for name in ("la", "acdc"))
    chosen = build.method_settings(la.get_config(), "ad_mt")
    assert (chosen.threshold, chosen.criterion, chosen.ramp_steps) == (0.8, "ce", 6000)
    assert build.method_settings(la.get_config(), "fixmatch").threshold == 0.95
    chosen = build.method_settings(la.get_config(), "crossmatch")
    assert (chosen.threshold, chosen.threshold_end, chosen.foreground_only) == (0.52, 0.69, True)
    assert build.method_settings(la.get_config("cpu"), "crossmatch").threshold_steps == 600
    assert build.method_settings(acdc.get_config("cpu"), "crossmatch").threshold_steps == 0
    assert build.method_settings(acdc.get_config(), "cifp").ramp_steps == 7500
    assert build.method_settings(acdc.get_config(), "ua_mt").threshold_steps == 30_000
    # A short run sets the ramp of every method that has one.
    short = acdc.get_config("cpu")
    ramps = {name: part.ramp_steps for name, part in short.methods.items() if "ramp_steps" in part}
    ramped = ("ad_mt", "cifp", "cps", "mean_teacher", "ua_mt", "unimatch")
    assert ramps == dict.fromkeys(ramped, 500)
    assert acdc.get_config().methods.unimatch.ramp_steps == 0
    assert short.methods.bcp.pretrain_steps == 1000


def test_a_method_that_cannot_be_compared_is_named():
    config = default_config()
    config.data.name = "acdc"
    config.compare = ("supervised", "cpis")
    with pytest.raises(ValueError, match="compare says 'cpis'; known: ad_mt, "):
        checks.check_config(config)


def test_a_setting_that_no_method_has_is_refused():
    with pytest.raises(ValueError, match=r"no setting ramp_step; the nearest are ramp_steps"):
        set_where_present(default_config().methods, ramp_step=5)


@pytest.mark.parametrize("key", ["method.tau", "methods.cifp.gama", "methods.sifp.gamma"])
def test_a_configuration_takes_no_other_keys(key):
    with pytest.raises(KeyError):
        default_config().update_from_flattened_dict({key: 1.0})


def test_a_run_keeps_the_settings_of_its_method_alone(tmp_path):
    config = importlib.import_module("configs.la").get_config()
    config.method.name = "ad_mt"
    config.methods.ad_mt.threshold = 0.9
    (tmp_path / "config.json").write_text(build.describe(config))
    written = json.loads(build.describe(config))
    assert written["method"] == {"name": "ad_mt"}
    assert set(written["methods"]) == {"ad_mt"}
    assert written["methods"]["ad_mt"]["threshold"] == 0.9
    read = run_folder.load_config(tmp_path)
    assert build.method_settings(read) == build.method_settings(config)
    # The configuration itself keeps the others.
    assert "cifp" in config.methods


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"method": {"name": "cifp", "tau": 0.2}}, "is not a run's configuration.*tau"),
        ({"methods": {"cifp": {"gama": 1.0}}}, "is not a run's configuration.*gama"),
    ],
)
def test_a_run_with_other_settings_is_refused(change, answer, tmp_path):
    written = json.loads(build.describe(default_config()))
    (tmp_path / "config.json").write_text(json.dumps(written | change))
    with pytest.raises(ValueError, match=answer):
        run_folder.load_config(tmp_path)


def test_a_run_on_data_that_was_prepared_again_is_refused(tmp_path):
    """What it was trained on may be among the cases that would be scored."""
    config = default_config()
    config.data.update(name="volumes", identity="first")
    config.preparation.label_names = ("background", "tumor")
    (tmp_path / "config.json").write_text(build.describe(config))
    config.preparation.label_names = ("background", "tumour")  # may be corrected
    run_folder.check_same(config, tmp_path)
    config.data.identity = "second"
    with pytest.raises(ValueError, match=r"prepared again since.*init_from"):
        run_folder.check_same(config, tmp_path)


@pytest.mark.parametrize("name", ["label_names", "label_values"])
def test_names_and_values_are_one_for_each_class(name):
    config = default_config()
    config.data.update(name="volumes", patch_size=(16, 16, 16), batch_labeled=8, batch_unlabeled=8)
    config.model.update(name="vnet", classes=2)
    config.evaluation.stride = (8, 8, 8)
    checks.check_config(config)
    config.preparation[name] = ("tumour",) if name == "label_names" else (1,)
    with pytest.raises(ValueError, match=rf"preparation\.{name}=.* one for each of the 2 classes"):
        checks.check_config(config)
