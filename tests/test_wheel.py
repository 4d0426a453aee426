"""The package as pip installs it: commands on the path, configurations inside, no clone needed."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_every_room_is_packed():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {path.parent for path in (ROOT / "cifp_jax").rglob("__init__.py")}
    found = {".".join(room.relative_to(ROOT).parts) for room in rooms}
    carried = {"cifp_jax.cards", "cifp_jax.configs", "cifp_jax.weights"}
    assert set(packed) == found | carried


@pytest.mark.slow
def test_an_installed_package_trains_and_segments(tmp_path):
    """Of the environment of the tests it takes the dependencies alone."""

    def call(*command, where=tmp_path):
        env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}
        result = subprocess.run(
            command, cwd=where, env=env, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    source = tmp_path / "source"  # or building would leave its own folders in the clone
    for name in ("cifp_jax", "configs", "docs/models", "experiments/weights"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--quiet")
    call(*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", str(source))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 60e6  # package indexes take 100 MB
    call(*pip, "install", "--no-deps", f"--target={tmp_path / 'site'}", str(wheel))
    place = call(sys.executable, "-c", "import cifp_jax; print(cifp_jax.__file__)")
    assert place.startswith(str(tmp_path))
    commands = {name: tmp_path / "site/bin" / name for name in ("cifp-train", "cifp-predict")}
    small = ("model.filters=(2,2,2,2,2)", "training.steps=1", "training.log_every=1")
    data = ("data.phantoms=4", "data.labeled=2", "data.root=phantoms")
    method = ("compare=()", "method.name=supervised", "evaluation.overlays=0")
    flags = [f"--config.{setting}" for setting in (*small, *data, *method)]
    call(commands["cifp-train"], "--config=demo", "--workdir=run", *flags)
    scan = next((tmp_path / "phantoms").rglob("*.h5"))
    call(commands["cifp-predict"], "--weights=run", scan, "masks")
    assert (tmp_path / "masks" / f"{scan.stem}.nii.gz").is_file()
    named = "import pathlib; from cifp_jax.inference.released import card, find_weights; "
    said = call(sys.executable, "-c", f"{named}print(card(find_weights(pathlib.Path('la-8'))))")
    assert said.strip() == str(tmp_path / "site/cifp_jax/cards/la-8.md")
    for name in ("cifp-prepare", "cifp-export"):
        assert "usage:" in call(tmp_path / "site/bin" / name, "--help")
