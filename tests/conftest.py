"""Four fake devices, shapes checked at run time, and the folder of real data where it is named."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import pathlib
import shutil
import tempfile

import pytest
from absl import flags
from jaxtyping import install_import_hook

# Checks every jaxtyping annotation of the package while the tests run.
install_import_hook("cifp_jax", "beartype.beartype")

# Many tests train the same small network: one compiles it, and the others, also the processes that
# they start, find it here.
if _MADE := "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="programs-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Grain reads absl flags, which only `absl.app.run` parses.
flags.FLAGS.mark_as_parsed()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=30, help="damaged files of each kind")
    parser.addoption(
        "--data", help="folder with real data: LA/ and ACDC/ as docs/reference/files.md has them"
    )


def pytest_unconfigure() -> None:
    if _MADE:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def data_dir(request: pytest.FixtureRequest) -> pathlib.Path:
    folder = request.config.getoption("--data")
    if folder is None:
        pytest.skip("needs real data: pytest --data=DIR")
    return pathlib.Path(folder)
