"""What a command asks of its host before JAX starts: cores, memory, compiled programs."""

import collections
import concurrent.futures
import ctypes
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
from absl import logging

# Parameters of `mallopt`, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_CONTROL_GROUP = pathlib.Path("/sys/fs/cgroup")


def use_compilation_cache() -> None:
    """Keeps compiled programs beyond the process, so that a second start does not compile again.

    They lie in `cifp_jax` of the user's cache folder, unless JAX's own variables say otherwise:
    `JAX_COMPILATION_CACHE_DIR` names another, `JAX_ENABLE_COMPILATION_CACHE=false` wants none.
    """
    # Also those that took less than JAX's second: a run has hundreds, and none is compiled twice.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder / "cifp_jax"))


def quiet() -> None:
    """Keeps other libraries from remarks, and from tracebacks of errors that are raised as well.

    Orbax remarks on every save, and logs each of its threads that a full disk has stopped.
    """
    logging.set_verbosity(logging.FATAL)


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], jobs: int
) -> Iterator[_Result]:
    """`map`, of which `jobs` items are worked on ahead, in threads; results come in order."""
    if jobs == 1:
        yield from map(function, items)
        return
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        ahead: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) == jobs:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


def use_device(kind: str | None) -> None:
    """Segments on all devices of a kind, or of the best kind; call it before any array is made.

    Args:
      kind: cpu, gpu or tpu; None: an accelerator where there is one.

    Raises:
      ValueError: there is none of this kind.
    """
    if kind:
        jax.config.update("jax_platforms", kind)
    use_cores((), 1)
    try:
        jax.devices()
    except RuntimeError as error:
        raise ValueError(f"--device={kind}: JAX finds no such device here ({error}).") from error


def use_cores(sizes: Sequence[int], unit: int) -> None:
    """Makes each core of a CPU a device, as far as the devices divide the batch.

    It has to be called before any array is made.

    XLA computes most operations on one core, so that devices that share a batch are the faster way
    to several cores: by a third to a half on two. Where JAX was told a number, that is left alone.

    Args:
      sizes: examples of each stream in a batch.
      unit: what a device's share of a stream is a multiple of.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.config.jax_num_cpu_devices != -1:  # pyright: ignore
        return
    fits = [n for n in range(1, cores() + 1) if not any(size % (n * unit) for size in sizes)]
    jax.config.update("jax_num_cpu_devices", max(fits, default=1))


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_memory() -> None:
    """On Linux, keeps memory that is freed with the process, for the next array to take.

    XLA's CPU client asks for all temporary memory of a program anew at every call, and glibc hands
    blocks of that size back to the kernel, which zeroes them page by page when they are used again:
    a quarter of the time of a V-Net step. It takes one heap for all threads, since only the main
    one can grow to such blocks; so call this before there are threads.

    Holes between blocks stay too, up to as much again. Whenever a process comes to hold half of the
    machine's memory, it gives back what it has freed until then.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            libc.mallopt(parameter, value)
        threading.Thread(target=_watch, args=(libc, memory() // 2), daemon=True).start()


def _watch(libc: ctypes.CDLL, limit: int) -> None:
    """Has freed memory given back whenever the process holds more than `limit` bytes."""
    while True:
        time.sleep(0.5)
        if _held() > limit:
            libc.malloc_trim(0)


def _held() -> int:
    """Bytes of this process that lie in memory."""
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def memory() -> int:
    """Bytes that this process may use: of the machine, or of the container that it runs in."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = _CONTROL_GROUP / file
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total
