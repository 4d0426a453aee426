"""The command itself: trains, stops, resumes, evaluates, and answers wrong input."""

import base64
import collections
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from cifp_jax import main
from cifp_jax.data.phantom import write_phantoms
from cifp_jax.main import default_workdir

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
    "--config.model.filters=(2,2,4,4,4)",
    "--config.data.batch_labeled=2",
    "--config.data.batch_unlabeled=2",
    "--config.data.labeled=2",
    "--config.training.log_every=1",
    "--config.training.evaluate_every=6",
    "--config.training.checkpoint_every=100",
    "--config.evaluation.overlays=1",
    "--config.parallel=none",
)
PATCHES = {"acdc": "(32,32)", "la": "(16,16,16)"}


def command(workdir: pathlib.Path, root: pathlib.Path, *more: str, data: str = "acdc") -> list[str]:
    return [
        *(sys.executable, "-m", "cifp_jax.main", f"--config=configs/{data}.py"),
        *(f"--workdir={workdir}", f"--config.data.root={root}", *SMALL),
        *(f"--config.data.patch_size={PATCHES[data]}", *more),
    ]


def environment(root: pathlib.Path) -> dict[str, str]:
    """One device, and compiled code kept from start to start."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root.parent / "xla")}
    return os.environ | cache | {"XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}


def programs(root: pathlib.Path) -> set[str]:
    """The programs that were compiled in this environment so far."""
    return {file.name for file in (root.parent / "xla").glob("*-cache")}


def call(
    workdir: pathlib.Path, root: pathlib.Path, *more: str, data: str = "acdc"
) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(workdir, root, *more, data=data),
        cwd=ROOT,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("phantoms") / "ACDC"
    write_phantoms(root, 2, train=4, validation=2, shape=(40, 40))
    return root


def final_state(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, read without the package."""
    import orbax.checkpoint as ocp
    from jax.tree_util import keystr, tree_flatten_with_path

    path = workdir / "checkpoints" / str(step) / "state"
    tree = ocp.StandardCheckpointer().restore(path.absolute())
    return {
        keystr(name): np.asarray(value)
        for name, value in tree_flatten_with_path(tree)[0]
        if "rng" not in keystr(name)
    }


@pytest.mark.parametrize(
    ("method", "normalization"),
    [
        ("supervised", "batch"),
        pytest.param("cifp", "batch", marks=pytest.mark.slow),
        pytest.param("cifp", "instance", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_bit_identical_to_one_that_was_not(
    method, normalization, data, tmp_path
):
    flags = (
        *("--config.training.steps=12", f"--config.method.name={method}"),
        f"--config.model.normalization={normalization}",
    )
    whole = call(tmp_path / "whole", data, *flags)
    assert whole.returncode == 0, whole.stderr
    compiled = programs(data)
    assert len(compiled) > 2

    with subprocess.Popen(
        command(tmp_path / "half", data, *flags),
        cwd=ROOT,
        env=environment(data),
        stdout=subprocess.PIPE,
        text=True,
    ) as half:
        assert half.stdout is not None
        for line in half.stdout:
            assert "resumed" not in line
            if line.startswith("step  4/12"):
                half.send_signal(signal.SIGINT)
    assert half.returncode == os.EX_TEMPFAIL
    assert not (tmp_path / "half" / "evaluation").exists()

    resumed = call(tmp_path / "half", data, *flags)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed" in resumed.stdout
    assert programs(data) == compiled  # of a step and a prediction, none a second time

    states = [final_state(tmp_path / name, 12) for name in ("whole", "half")]
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 100
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)
    # Each step stands once in the log of the run that was stopped.
    rows = (tmp_path / "half" / "metrics.jsonl").read_text().splitlines()
    logged = [row["step"] for row in map(json.loads, rows) if "loss" in row]
    assert logged == list(range(1, 13))

    # What a finished run leaves, and what evaluating it again gives.
    folder = tmp_path / "whole" / "evaluation" / "best" / "validation"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["facts"]["reported"]
    assert summary["facts"]["cases"] == 4
    assert len((folder / "cases.csv").read_text().splitlines()) == 1 + 4 * 3
    # The one case that is drawn is the worst.
    with (folder / "cases.csv").open(newline="") as file:
        dice = collections.defaultdict(float)
        for row in csv.DictReader(file):
            dice[row["case"]] += float(row["dice"])
    (overlay,) = folder.glob("*.png")
    assert dice[overlay.stem] == min(dice.values())
    report = (tmp_path / "whole" / "report.html").read_text()
    assert f"<title>{method} on acdc</title>" in report
    assert base64.b64encode(overlay.read_bytes()).decode() in report
    assert f"{summary['overall']['dice']['mean']:.2f}" in report
    assert list((tmp_path / "whole" / "tensorboard").glob("events.*"))
    (folder / "summary.json").unlink()
    again = call(tmp_path / "whole", data, *flags, "--mode=evaluate")
    assert again.returncode == 0, again.stderr
    assert "Dice" in again.stdout
    assert programs(data) == compiled
    assert json.loads((folder / "summary.json").read_text())["overall"] == summary["overall"]


@pytest.mark.slow
def test_scans_on_the_device_end_in_the_same_parameters(tmp_path):
    root = tmp_path / "LA"
    # Smaller than the patch along one axis.
    write_phantoms(root, 3, train=4, validation=1, shape=(24, 20, 12))
    flags = (
        *("--config.method.name=supervised", "--config.training.steps=3"),
        *("--config.evaluation.stride=(16,16,16)", "--config.data.validation=1"),
    )
    for name in ("False", "True"):
        placed = f"--config.data.on_device={name}"
        result = call(tmp_path / name, root, *flags, placed, data="la")
        assert result.returncode == 0, result.stderr
    host, device = (final_state(tmp_path / name, 3) for name in ("False", "True"))
    assert host.keys() == device.keys()
    for name, value in host.items():
        np.testing.assert_allclose(value, device[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--config.data.root=nowhere", "nowhere: this folder of data is missing"),
        (
            "--config.methods.unimatch.drop=0.1",
            "method.name is cifp, so config.methods.unimatch.drop",
        ),
        (
            "--config.compare= --config.methods.unimatch.drop=0.1",
            "method.name is cifp, so config.methods.unimatch.drop",
        ),
        ("--config.method.gate=0.1", "config.methods.cifp.perturbation.gate"),
        ("--config.methods.cifp.fusion.kind=best", "fusion.kind is 'best'; known: none, entropy"),
        ("--config.methods.cifp.lambda_max=-1", "lambda_max is -1.0, but must be at least 0."),
        ("--weights=x.safetensors", "--weights is for --mode=evaluate"),
        (
            "--mode=evaluate --weights=x.safetensors --config.compare=('cps',)",
            "--weights is one network, and this configuration compares several methods",
        ),
        ("--config.compare=('cps','bcp') --config.method.name=bcp", "compares cps, bcp; choose"),
        ("--config=nowhere.py", "nowhere.py"),
        ("--config.model.filters=(8,8)", "config.model.filters is given twice"),
        ("--config.methods.cifp.gat=1", "the nearest are config.methods.cifp.perturbation.gate,"),
        ("--config.training.stebs=1", "the nearest are config.training.steps,"),
    ],
)
def test_wrong_input_gets_one_clear_error_and_writes_nothing(flag, answer, data, tmp_path):
    result = call(tmp_path / "run", data, *flag.split())
    assert result.returncode != 0
    assert answer in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


FAILING = """
from absl import app
from cifp_jax import main
from cifp_jax.commands import train
from cifp_jax.training import build, scoring

def predict(image):
    raise MemoryError("too large")

def run(config, *_, **__):
    scoring.score_cases(config, predict, build.make_split(config).validation)

train.run = run
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.mark.parametrize("verbosity", [0, 1])
def test_a_case_that_cannot_be_evaluated_is_one_error(verbosity, data, tmp_path):
    _, _, _, *flags = command(tmp_path / "run", data)
    result = subprocess.run(
        [sys.executable, "-c", FAILING, *flags, *(["--verbosity=1"] if verbosity else [])],
        cwd=ROOT,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1
    *before, error = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert error.endswith("_frame01' could not be evaluated: too large")
    # Where it happened is for who asks.
    assert any("Traceback" in line for line in before) == bool(verbosity)


# At Python's own end, a prediction that is under way loses its arrays and may crash.
SIGNALLED = """
import atexit, os, signal
from absl import app
from cifp_jax import main
from cifp_jax.commands import train

atexit.register(os._exit, 139)
train.run = lambda *_, **__: signal.raise_signal(signal.SIGTERM)
app.run(main.main, flags_parser=main.parse_flags)
"""


def test_a_signal_outside_of_the_steps_says_that_the_command_goes_on(data, tmp_path):
    _, _, _, *flags = command(tmp_path / "run", data)
    result = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *flags],
        cwd=ROOT,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == os.EX_TEMPFAIL, result.stderr
    assert result.stdout == "stopped; the same command goes on\n"


def refused(*flags):
    """What `main` says of flags that it does not take."""
    result = subprocess.run(
        [sys.executable, "-m", "cifp_jax.main", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode != 0
    return result.stderr


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("config.method.tau = 0.2", 'Key "tau" does not exist'),
        ("config.methods.cifp.update(gama=0.2)", 'Key "gama" does not exist'),
        ("config.presets.cifp.gamma = 0.2", "presets"),
        ("config.methods.cifp.lambda_max = 'high'", "lambda_max"),
        (
            "set_where_present(config.methods, ramp=5)",
            "no setting ramp; the nearest are ramp_steps",
        ),
    ],
)
def test_a_wrong_line_of_a_configuration_file_is_shown(line, answer, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text(
        "from cifp_jax.config import default_config, set_where_present\n"
        f"def get_config():\n    config = default_config()\n    {line}\n    return config\n"
    )
    said = refused(f"--config={file}")
    assert said.startswith(f"error: {file}, line 4: ")
    assert answer in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ((), "no configuration is named: give --config=acdc:cpu"),
        (("--config=configs/nope.py",), "--config=configs/nope.py: there is no configuration of"),
        (("--config=acdc:cpu", "extra"), "extra is no flag"),
        (
            ("--config=acdc:cpu", *2 * ("--config.data.patch_size=(32,32)",)),
            "config.data.patch_size is given twice",
        ),
        (
            ("--config=demo", "--config.compare=supervised,cpis", "--workdir=/nowhere/run"),
            "config.method.name or compare says 'cpis'",
        ),
    ],
)
def test_a_mistyped_command_is_one_line(flags, answer):
    said = refused(*flags)
    assert said.startswith(f"error: {answer}")
    assert said.count("\n") == 1


def test_the_default_folder_says_what_was_run():
    assert str(default_workdir("configs/la.py:cpu", "cifp")) == "runs/la_cpu_cifp"
    assert str(default_workdir("configs/acdc.py", "supervised")) == "runs/acdc_supervised"
    # What `prepare` writes: two data sets do not share a run.
    assert str(default_workdir("data/hearts/config.py", "cifp")) == "runs/hearts_cifp"


def test_a_configuration_by_its_name():
    root = pathlib.Path(main.__file__).parents[1]
    assert main.config_file("la:cpu") == f"{root}/configs/la.py:cpu"
    assert main.config_file("configs/la.py:cpu") == "configs/la.py:cpu"
    assert main.with_config_file(["x", "--config", "acdc", "--config.seed=la"]) == [
        *("x", "--config", f"{root}/configs/acdc.py", "--config.seed=la")
    ]
    with pytest.raises(ValueError, match=r"--config=brats: .*known: acdc, demo, la"):
        main.with_config_file(["x", "--config=brats"])
