"""Cores, memory and compiled programs, as a command asks for them."""

import subprocess
import sys
from typing import Any

import jax
import pytest

from cifp_jax import host


@pytest.mark.parametrize(
    ("sizes", "unit", "cores", "devices"),
    [
        ((4, 4), 2, 2, 2),
        ((4, 4), 2, 4, 2),
        ((12, 12), 2, 16, 6),
        ((2, 2), 2, 2, 1),
        ((2, 2), 1, 2, 2),
        ((3, 2), 2, 8, 1),  # refused elsewhere
    ],
)
def test_cores_become_devices_as_far_as_they_divide_the_batch(
    sizes, unit, cores, devices, monkeypatch
):
    told = []
    monkeypatch.setattr(host, "_cores", lambda: cores)
    monkeypatch.setattr(jax.config, "update", lambda *pair: told.append(pair))
    host.use_cores(sizes, unit)
    assert not told  # the tests' four fake devices stay
    monkeypatch.setenv("XLA_FLAGS", "")
    host.use_cores(sizes, unit)
    assert told == [("jax_num_cpu_devices", devices)]


def test_compiled_programs_lie_in_the_users_cache_unless_jax_is_told_where(monkeypatch, tmp_path):
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
        host.use_compilation_cache()
        assert config.jax_compilation_cache_dir == before
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        host.use_compilation_cache()
        assert config.jax_compilation_cache_dir == str(tmp_path / "cifp_jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


# A hundred megabytes of a thread of its own, four times; then the pages that the kernel gave.
FAULTS = """
import resource, sys, threading
import numpy as np
from cifp_jax import host
if sys.argv[1] == "keep":
    host.keep_memory()
def work():
    for _ in range(4):
        np.ones(100_000_000, np.uint8)
first = threading.Thread(target=work); first.start(); first.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
then = threading.Thread(target=work); then.start(); then.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their own way")
def test_kept_memory_is_not_asked_for_again():
    def faults(way: str) -> int:
        command = [sys.executable, "-c", FAULTS, way]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < 20
    assert faults("free") > 100  # each a huge page, where the kernel has them
