"""What a command imports before it answers: nothing that takes long, and no work."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

import cifp_jax

ROOT = pathlib.Path(__file__).parents[1]
# Each takes a tenth of a second or more to import.
_ARRAYS = {"jax", "flax", "optax", "numpy", "scipy", "h5py"}
_FILES = {"SimpleITK", "highdicom", "pydicom", "nibabel"}
_TRAINING = {"grain", "orbax", "tensorboardX", "matplotlib"}
COMMANDS = ("main", "prepare", "predict", "export", "import_torch")


def loaded(code: str) -> set[str]:
    """The packages that a new process has imported after this code."""
    said = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def helped(module: str, function: str) -> str:
    """The code of a command that is asked for its help, and goes on after it."""
    return f"""
import sys
from cifp_jax.{module} import {function}
sys.argv = ["{module}", "--help"]
try:
    {function}()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_succeeds_and_needs_neither_arrays_nor_readers(command):
    found = loaded(helped(command, "console" if command == "main" else "main"))
    assert not found & (_ARRAYS | _FILES | _TRAINING)


def test_every_console_script_is_among_them():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {place.partition(":")[0] for place in scripts.values()} <= {
        f"cifp_jax.{command}" for command in COMMANDS
    }


def test_the_package_alone_imports_nothing():
    assert not loaded("import cifp_jax") & (_ARRAYS | _FILES | _TRAINING)


def test_every_public_name_is_found():
    assert dir(cifp_jax) == sorted(cifp_jax.__all__)
    for name in cifp_jax.__all__:
        assert getattr(cifp_jax, name).__name__ if name != "METHODS" else cifp_jax.METHODS
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        _ = cifp_jax.Unet  # pyright: ignore


def test_to_segment_a_scan_takes_no_part_of_training_and_no_other_format():
    """Neither checkpoints nor a loader nor pictures; the slow readers come with their files."""
    found = loaded("from cifp_jax.commands import predict")
    assert not found & (_TRAINING | {"SimpleITK", "highdicom"})
