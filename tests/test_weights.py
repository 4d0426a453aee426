"""A run's network as a file: the same figures, an honest header, clear refusals."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import unflatten_dict

from cifp_jax import export as export_command
from cifp_jax.config import default_config
from cifp_jax.data.layouts import LAYOUTS
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.inference import prediction, weights
from cifp_jax.inference.weights import Weights, load_weights, save_weights
from cifp_jax.reports.summaries import reported_summary
from cifp_jax.scans import preparation
from cifp_jax.scans.preparation import Preparation
from cifp_jax.training import build, loop, run_folder, scoring, training_list
from configs import acdc, la
from tests.support.runs import small

FACTS = {
    "network": {
        **{"name": "unet", "classes": 4, "filters": [2, 2, 4, 4, 4]},
        "normalization": "batch",
    },
    "data": {
        **{"name": "acdc", "patch_size": [32, 32], "downsample": 1},
        **{"channels": 1, "center_crop": 0, "interpolation": "nearest"},
    },
    "evaluation": {"largest_component": ""},
    "preparation": json.loads(json.dumps(dataclasses.asdict(preparation.ACDC))),
    "method": "cifp",
    "step": 3,
    "training_list": {"labeled": ["patient001"], "unlabeled": []},
}
VARIABLES = {
    "params": {"head": {"kernel": np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)}},
    "batch_stats": {"norm": {"mean": np.full(2, 1e-9, np.float32)}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, and its configuration."""
    folder = tmp_path_factory.mktemp("weights")
    write_phantoms(folder / "ACDC", 2, train=3, validation=1, shape=(40, 40))
    config = small(folder / "ACDC")
    config.method.name = "supervised"
    config.training.steps = config.training.log_every = 2
    config.training.evaluate_every = config.evaluation.overlays = 0
    summaries = loop.train(config, build.make_split(config), folder / "run")
    return config, folder / "run", summaries


def test_round_trip(tmp_path):
    for half, tolerance in ((False, 0), (True, 1e-3)):
        path = tmp_path / f"{half}.safetensors"
        save_weights(path, Weights(VARIABLES, FACTS), half=half)
        plain = tmp_path / "plain"
        plain.touch()
        assert path.stat().st_mode == plain.stat().st_mode  # others may read it as any file
        loaded = load_weights(path)
        assert loaded.facts == FACTS
        jax.tree.map(
            lambda a, b, t=tolerance: np.testing.assert_allclose(a, b, atol=t),
            loaded.variables,
            VARIABLES,
        )
        # Statistics are not rounded: float16 has no 1e-9.
        assert loaded.variables["batch_stats"]["norm"]["mean"][0] == np.float32(1e-9)
        assert loaded.variables["params"]["head"]["kernel"].dtype == np.float32
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert sizes[0] - sizes[1] >= 20


def test_a_file_of_before_networks_normalised_by_instance_is_of_the_batch(tmp_path):
    network = {k: v for k, v in FACTS["network"].items() if k != "normalization"}
    save_weights(tmp_path / "a.safetensors", Weights(VARIABLES, FACTS | {"network": network}))
    assert load_weights(tmp_path / "a.safetensors").facts == FACTS


@pytest.mark.parametrize("config", [acdc.get_config(), la.get_config()], ids=["acdc", "la"])
def test_the_full_networks_are_small_enough_to_release(config, tmp_path):
    state = jax.eval_shape(lambda: build.make_state(config))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), variables)
    patients = {"labeled": ["0RZDK210BSMWAA6467LU"] * 80, "unlabeled": []}
    save_weights(tmp_path / "a", Weights(zeros, FACTS | {"training_list": patients}), half=True)
    assert (tmp_path / "a").stat().st_size < 20e6


def test_what_float16_cannot_hold_is_refused(tmp_path):
    weights = Weights({"params": {"kernel": np.array([1e6])}}, FACTS)
    with pytest.raises(ValueError, match="params/kernel does not fit float16"):
        save_weights(tmp_path / "a.safetensors", weights, half=True)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match="missing"):
        load_weights(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_weights(path)
    safetensors.numpy.save_file({"a": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="lacking: network, data"):
        load_weights(path)
    metadata = {name: json.dumps(fact) for name, fact in FACTS.items()}
    older = metadata | {"format": "cifp-jax-weights-1"}
    safetensors.numpy.save_file({"a": np.zeros(2)}, path, metadata=older)
    with pytest.raises(ValueError, match=r"'cifp-jax-weights-1', where 'cifp-.*-2'.* again with"):
        load_weights(path)


@pytest.mark.slow
def test_an_exported_run_has_the_figures_of_its_checkpoint(trained, tmp_path):
    config, run, summaries = trained
    out = tmp_path / "a" / "unet.safetensors"
    export_command.main([f"--weights={run}", f"--out={out}"])
    weights = load_weights(out)
    assert weights.facts["network"] == {
        "name": "unet",
        "classes": 4,
        "filters": [2, 2, 4, 4, 4],
        "normalization": "batch",
    }
    assert (weights.facts["method"], weights.facts["step"]) == ("supervised", 2)
    preparation = weights.facts["preparation"]
    assert (preparation["normalization"], preparation["axes"]) == ([["minmax"]], [2, 1, 0])
    assert "normalisation" not in weights.facts  # nothing else says how, or says it otherwise
    patients = weights.facts["training_list"]
    assert (len(patients["labeled"]), len(patients["unlabeled"])) == (2, 1)

    config.model.filters = (16, 32, 64, 128, 256)  # the file says otherwise
    got = scoring.score_weights(config, build.make_split(config), out, tmp_path / "scored")
    config.evaluation.flips = True
    flipped = scoring.score_weights(config, build.make_split(config), out, tmp_path / "flipped")
    config.evaluation.flips = False
    for summary, flips in ((got, False), (flipped, True)):  # no one takes the one for the other
        assert summary["weights/validation"]["facts"]["flips"] is flips
    config.model.filters = (2, 2, 4, 4, 4)
    reported = reported_summary(summaries)
    for part in ("overall", "classes"):
        assert got["weights/validation"][part] == reported[part]
    scored = tmp_path / "scored" / "evaluation" / "weights"
    assert (scored / "validation" / "cases.csv").is_file()
    assert "Reported: the unet.safetensors checkpoint" in (scored / "report.html").read_text()

    export_command.main([f"--weights={run}", f"--out={tmp_path / 'half'}", "--float16"])
    image = np.random.default_rng(0).random((2, 40, 40), np.float32)
    predictor = prediction.make_predictor(config)
    exact, half = (predictor(load_weights(f).variables)(image) for f in (out, tmp_path / "half"))
    np.testing.assert_allclose(half, exact, atol=5e-3)

    # As a reader of the released file would: its network, on a machine of its own.
    command = [
        *(sys.executable, "-m", "cifp_jax.main", "--config=configs/acdc.py"),
        *(f"--config.data.root={config.data.root}", "--config.data.labeled=2"),
        *("--config.parallel=none", "--mode=evaluate", f"--weights={tmp_path / 'half'}"),
        f"--workdir={tmp_path / 'read'}",
    ]
    subprocess.run(command, cwd=pathlib.Path(__file__).parents[1], check=True)
    read = tmp_path / "read" / "evaluation" / "weights" / "validation" / "summary.json"
    summary = json.loads(read.read_text())
    assert (summary["facts"]["checkpoint"], summary["facts"]["step"]) == ("half", 2)
    got = summary["overall"]["dice"]["mean"]
    assert got == pytest.approx(reported["overall"]["dice"]["mean"], abs=1.0)


@pytest.mark.slow
def test_a_run_that_is_evaluated_again_keeps_the_seed_that_it_was_trained_with(trained):
    config, run, _ = trained
    again = config.copy_and_resolve_references()
    again.seed, again.evaluation.empty = 5, "literature"
    for summary in scoring.score_run(again, build.make_split(config), run).values():
        assert summary["facts"]["seed"] == config.seed != 5
        assert summary["facts"]["empty"] == "literature"


def test_weights_are_not_scored_on_what_they_were_trained_on(trained, tmp_path):
    config, run, _ = trained
    out = tmp_path / "weights.safetensors"
    export_command.main([f"--weights={run}", f"--out={out}"])
    weights = load_weights(out)
    split = build.make_split(config)
    case = split.validation[0].name
    known = {"labeled": [re.sub(r"_frame.*", "", case)], "unlabeled": []}
    save_weights(out, weights._replace(facts=weights.facts | {"training_list": known}))
    with pytest.raises(ValueError, match="was trained on"):
        scoring.score_weights(config, split, out, tmp_path)
    other = weights.facts | {"data": weights.facts["data"] | {"name": "la"}}
    save_weights(out, weights._replace(facts=other))
    with pytest.raises(ValueError, match="a configuration of the same data"):
        scoring.score_weights(config, split, out, tmp_path)


def test_a_run_is_not_scored_on_whom_it_was_trained_on_whatever_lists_say(trained, tmp_path):
    """Its weights name them too, though they stand on no training list any more."""
    config, run, _ = trained
    shutil.copytree(run, tmp_path / "run")
    split = build.make_split(config)
    seen = training_list.of_run(tmp_path / "run")
    assert seen == training_list.of_split(split)
    assert all(seen.values())
    volume = split.validation[0]
    moved = volume._replace(name=f"{seen['unlabeled'][-1]}_frame01")
    changed = dataclasses.replace(split, validation=(volume, moved), unlabeled=split.labeled)
    with pytest.raises(ValueError, match=rf"run was trained on '{moved.name}'"):
        scoring.score_run(config, changed, tmp_path / "run")
    more = config.copy_and_resolve_references()
    more.training.steps += 1
    with pytest.raises(ValueError, match=rf"run was trained on '{moved.name}'"):
        loop.train(more, changed, tmp_path / "run")
    training_list.record(
        dataclasses.replace(split, labeled=(), unlabeled=(volume._replace(name="new"),)),
        tmp_path / "run",
        resumed=True,
    )
    out = tmp_path / "weights.safetensors"
    export_command.main([f"--weights={tmp_path / 'run'}", f"--out={out}"])
    kept = load_weights(out).facts["training_list"]
    assert kept == {"labeled": seen["labeled"], "unlabeled": [*seen["unlabeled"], "new"]}


def test_where_other_figures_are_shown_than_predict_would_give_it_is_said(trained, capsys):
    config, run, _ = trained
    other = config.copy_and_resolve_references()
    scoring.score_run(config, build.make_split(config), run)
    assert "predict and export" not in capsys.readouterr().out
    other.evaluation.weights = "student"
    scoring.score_run(other, build.make_split(config), run)
    said = capsys.readouterr().out
    assert "predict and export go by the run's own config.evaluation.weights='ema'" in said


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("method", "name", "supervised"),
        ("data", "name", "la"),
        ("data", "center_crop", 160),
        ("data", "largest_side", 288),
        ("data", "downsample", 2),
        ("data", "patch_size", (160, 160)),
        ("augmentation", "name", "strong"),
        ("model", "classes", 3),
        ("preparation", "spacing", (1.0, 1.0, 1.0)),
    ],
)
def test_a_run_goes_on_as_the_run_that_it_is(part, key, value, tmp_path):
    before, now = default_config(), default_config()
    before.data.name = now.data.name = "acdc"
    run_folder.check_same(now, tmp_path)  # of a new folder nothing is known
    (tmp_path / "config.json").write_text(before.to_json_best_effort())
    now.optimizer.learning_rate = 0.5  # may change
    run_folder.check_same(now, tmp_path)
    now[part][key] = value
    with pytest.raises(ValueError, match=rf"is a run with config\.{part}.*own config"):
        run_folder.check_same(now, tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data", "name", "slices"),
        ("data", "channels", 2),
        ("network", "classes", 2),
        ("preparation", "spacing", (2.0, 1.0, 1.0)),
    ],
)
def test_weights_of_other_data_are_refused(part, key, value):
    config = default_config()
    config.data.name, config.model.classes = "volumes", 4
    config.preparation.spacing = (1.0, 1.0, 1.0)
    facts = FACTS | {
        "data": FACTS["data"] | {"name": "volumes"},
        "preparation": config.preparation.to_dict(),
    }
    file = pathlib.Path("x.safetensors")
    run_folder.check_same_data(config, file, json.loads(json.dumps(facts)))
    facts[part] = facts[part] | {key: value}
    other = json.loads(json.dumps(facts))
    with pytest.raises(ValueError, match=rf"is of data with .*{value if key == 'name' else key}"):
        run_folder.check_same_data(config, file, other)


def test_weights_of_scans_prepared_in_another_way_are_refused():
    """What counts is what a layout's scans go through, whatever `config.preparation` holds."""
    config = default_config()
    config.data.name, config.model.classes = "acdc", 4
    file = pathlib.Path("x.safetensors")
    run_folder.check_same_data(config, file, FACTS)
    facts = FACTS | {"preparation": FACTS["preparation"] | {"normalization": [["zscore"]]}}
    with pytest.raises(ValueError, match=r"is of data with preparation=.*zscore.* has .*minmax"):
        run_folder.check_same_data(config, file, facts)


RELEASED = sorted((pathlib.Path(__file__).parents[1] / "experiments/weights").glob("*.safetensors"))


@pytest.mark.parametrize("file", RELEASED, ids=lambda file: file.stem)
def test_released_files_say_how_their_scans_were_prepared(file):
    config, variables = run_folder.load_network(file)
    layout = LAYOUTS[config.data.name]
    assert Preparation(**config.preparation.to_dict()) == layout.preparation
    assert prediction.preparation(config) == layout.preparation
    run_folder.check_same_data(config, file, load_weights(file).facts)
    assert set(variables) == {"params", "batch_stats"}


def test_there_are_released_files():
    assert RELEASED


def test_a_file_of_an_unknown_layout_names_those_that_are_known(tmp_path):
    save_weights(
        tmp_path / "x", Weights(VARIABLES, FACTS | {"data": FACTS["data"] | {"name": "mri"}})
    )
    with pytest.raises(ValueError, match=r"x: .*config\.data\.name is 'mri'; known: la, acdc"):
        run_folder.load_network(tmp_path / "x")


def test_a_file_of_weights_keeps_the_rule_for_masks(tmp_path):
    facts = FACTS | {"evaluation": {"largest_component": "class"}}
    shapes = weights.shapes_of(FACTS["network"], 2, 1)
    whole = unflatten_dict({path: np.zeros(shape) for path, shape in shapes.items()})
    save_weights(tmp_path / "x", Weights(whole, facts))
    assert run_folder.load_network(tmp_path / "x")[0].evaluation.largest_component
    save_weights(tmp_path / "y", Weights(whole, FACTS))
    assert not run_folder.load_network(tmp_path / "y")[0].evaluation.largest_component


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(SystemExit, match="this file is missing"):
        export_command.main([f"--weights={tmp_path}", f"--out={tmp_path / 'x'}"])
    (tmp_path / "config.json").write_text(json.dumps({"seed": "one"}))
    with pytest.raises(SystemExit, match="not a run's configuration"):
        export_command.main([f"--weights={tmp_path}", f"--out={tmp_path / 'x'}"])
