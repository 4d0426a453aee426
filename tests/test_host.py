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


# Six hundred megabytes, freed; then what the process still holds, in megabytes.
HELD = """
import os, pathlib, sys, time
import numpy as np
from cifp_jax import host
host._memory = lambda: int(sys.argv[1])
host.keep_memory()
arrays = [np.ones(100_000_000, np.uint8) for _ in range(6)]
del arrays
time.sleep(2)
again = np.ones(100_000_000, np.uint8)
del again
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
print(pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their own way")
def test_a_process_that_holds_half_of_the_machine_gives_memory_back():
    def held(memory: int) -> int:
        command = [sys.executable, "-c", HELD, str(memory)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert held(10_000_000_000) > 600
    assert held(1_000_000_000) < 400


def test_memory_is_that_of_the_container(monkeypatch):
    files = {"memory.max": "max\n"}
    monkeypatch.setattr(host.pathlib.Path, "exists", lambda path: path.name in files)
    monkeypatch.setattr(host.pathlib.Path, "read_text", lambda path: files[path.name])
    machine = host._memory()
    assert machine > 1_000_000_000
    files["memory.max"] = "1000000000\n"
    assert host._memory() == 1_000_000_000
    files["memory.max"] = f"{2**63}\n"
    assert host._memory() == machine
