"""Cores, memory and compiled programs, as a command asks for them."""

import ctypes
import queue
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from cifp_jax import host

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their own way")


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
    config = SimpleNamespace(jax_num_cpu_devices=-1, update=lambda *pair: told.append(pair))
    monkeypatch.setattr(host, "cores", lambda: cores)
    monkeypatch.setattr(host, "jax", SimpleNamespace(config=config))
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


class Allocator(ctypes.CDLL):
    """A C library that notes what it is asked for."""

    def __init__(self):
        self._name, self._handle, self.asked = "allocator", 0, []

    def mallopt(self, parameter, value):
        self.asked.append((parameter, value))

    def malloc_trim(self, pad):
        self.asked.append(("trim", pad))


# Parameters of `mallopt`, as glibc numbers them.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


@on_linux
def test_memory_is_kept_from_the_start_and_watched_by_a_thread(monkeypatch):
    library, watched = Allocator(), queue.Queue()
    monkeypatch.setattr(host, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    monkeypatch.setattr(host, "memory", lambda: 1000)
    monkeypatch.setattr(
        host, "_watch", lambda *given: watched.put((*given, threading.current_thread()))
    )
    host.keep_memory()
    assert library.asked == [(ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)]
    given, limit, thread = watched.get(timeout=60)
    assert (given, limit) == (library, 500)
    assert thread.daemon


class Ended(Exception):
    """Ends the watch, which has no end of its own."""


def test_memory_is_given_back_whenever_the_process_holds_more_than_the_limit(monkeypatch):
    library, held, asked_at_a_pause = Allocator(), iter([100, 500, 501, 200, 900]), []

    def sleep(seconds):
        asked_at_a_pause.append(len(library.asked))
        if len(asked_at_a_pause) == 6:
            raise Ended

    monkeypatch.setattr(host, "_held", lambda: next(held))
    monkeypatch.setattr(host, "time", SimpleNamespace(sleep=sleep))
    with pytest.raises(Ended):
        host._watch(library, 500)
    assert asked_at_a_pause == [0, 0, 0, 1, 1, 2]
    assert library.asked == [("trim", 0)] * 2


# Two arrays of a hundred megabytes, one after the other: by how many megabytes the heap is larger
# after each, as the process starts, and with memory that is kept. What is not of the heap is the
# kernel's again at once. Then an array that does not fit into the hole of another: by how many
# megabytes the process has grown at first, and once it has been seen above the limit.
HEAP = """
import ctypes, threading, time, types
import numpy as np
from cifp_jax import host
end = ctypes.CDLL(None).sbrk
end.argtypes, end.restype = [ctypes.c_long], ctypes.c_void_p
def work():
    before = end(0)
    for _ in range(2):
        np.ones(100_000_000, np.uint8)
        print((end(0) - before) // 1_000_000)
work()
before = host._held()
host.memory = lambda: 2 * (before + 250_000_000)
looks = threading.Event()
host.time = types.SimpleNamespace(sleep=lambda seconds: looks.wait() and time.sleep(seconds))
host.keep_memory()
thread = threading.Thread(target=work); thread.start(); thread.join()
first, between = np.ones(150_000_000, np.uint8), np.ones(1_000_000, np.uint8)
del first
second = np.ones(200_000_000, np.uint8)
print((host._held() - before) // 1_000_000)
looks.set()
while host._held() - before > 220_000_000:
    time.sleep(0.1)
"""


@on_linux
def test_kept_memory_is_not_asked_for_again_until_the_process_passes_its_limit():
    command = [sys.executable, "-c", HEAP]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    *at_first, once, again, held = map(int, done.stdout.split())
    assert at_first == [0, 0]
    assert 90 < once == again
    assert held > 300


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_CONTROL_GROUP", tmp_path)
    machine = host.memory()
    assert machine > 1_000_000_000
    for text, limit in (
        ("max\n", machine),
        ("1000000000\n", 1_000_000_000),
        (f"{2**63}\n", machine),
    ):
        (tmp_path / "memory.max").write_text(text)
        assert host.memory() == limit
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text("900000000\n")  # of the older kind
    assert host.memory() == 900_000_000


def test_jobs_keep_the_order_and_do_not_run_far_ahead():
    started = []

    def slow(i):
        started.append(i)
        return i * i

    results = host.in_order(slow, range(20), 3)
    assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
    time.sleep(0.1)  # whatever was handed out has started by then
    assert max(started) <= 3 + 3  # each waiting result is held in memory
    assert list(results) == [i * i for i in range(4, 20)]
    assert list(host.in_order(slow, [3, 2], 1)) == [9, 4]


def test_a_device_that_is_not_there_is_named():
    check = "from cifp_jax import host; host.use_device('tpu')"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=120
    )
    assert "ValueError: --device=tpu: JAX finds no such device here" in result.stderr
