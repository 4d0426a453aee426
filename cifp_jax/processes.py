"""Several processes of one run (TPU pod, cluster): joining, and what they tell each other.

All of it happens on the hosts, outside the compiled step. Each function does nothing that a single
process would notice.
"""

import json
import os
import pathlib
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from cifp_jax.files import make_folder

T = TypeVar("T")

# A process that ends without a word is missed after this time; one whose connection breaks in a
# step, at once.
_MISSED_AFTER = 30  # seconds
_JOINED_WITHIN = 120  # seconds


class AnotherProcessFailed(RuntimeError):
    """Another process of the run has ended, or has said why it cannot go on."""


def join(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Joins the other processes of the run; to be called before a device is asked for.

    Args:
      coordinator: address and port of process 0, `host:port`; None where the cluster tells (Slurm,
        Open MPI, GKE, TPU pods: JAX's own detection).
      count: number of processes; None likewise.
      index: of this process; None likewise.

    Raises:
      ValueError: no cluster is found. Where the others do not come within two minutes, the process
        ends: JAX's own end of waiting, which cannot be caught, would take a page to say so.
    """
    given = (coordinator, count, index)
    if any(x is None for x in given) and not all(x is None for x in given):
        raise ValueError("--coordinator, --processes and --process are given together, or none.")
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(f"--process={index} must be one of 0 to {count - 1} ({count} processes).")
    whom = (
        f"--coordinator={coordinator}: not all {count} processes have come"
        if coordinator
        else "--distributed: not all processes of this cluster have come"
    )
    with _within(
        _JOINED_WITHIN,
        f"{whom} within {_JOINED_WITHIN} s. Start all of them, with the same address of process 0, "
        f"which the others have to reach.",
    ):
        try:
            jax.distributed.initialize(
                coordinator,
                count,
                index,
                initialization_timeout=2 * _JOINED_WITHIN,
                heartbeat_timeout_seconds=_MISSED_AFTER,
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"--distributed: no cluster is found. Name the processes by "
                f"--coordinator=HOST:PORT --processes=N --process=I, or start one alone without "
                f"it. JAX says: {error}"
            ) from error


@contextmanager
def _within(seconds: int, otherwise: str) -> Iterator[None]:
    """Ends the process with a message where what stands inside takes longer."""
    timer = threading.Timer(seconds, end, (f"error: {otherwise}",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end(message: str, status: int = 1) -> NoReturn:
    """Ends this process at once, whatever its threads are in; without a word if `message` is empty.

    JAX's farewell, which waits for those that have ended, is left out.
    """
    sys.stdout.flush()
    if message:
        print(message, file=sys.stderr, flush=True)
    os._exit(status)


def asked_to_end() -> bool:
    """Whether one of several processes has had a SIGTERM, which JAX tells the others of."""
    # jax.experimental.multihost_utils can be asked once a step only, by all processes alike.
    client = distributed.global_state.client
    try:
        return client is not None and bool(client.key_value_try_get("RECEIVED_PREEMPTION_NOTICE"))
    except jax.errors.JaxRuntimeError:  # there is no such key, or nobody left to ask
        return False


def first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return not several() or jax.process_index() == 0


def several() -> bool:
    """Whether the run has more than one process."""
    # The first question touches no device, which a command may still be about to choose.
    return jax.distributed.is_initialized() and jax.process_count() > 1


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what the processes divide among them."""
    return items[jax.process_index() :: jax.process_count()] if several() else items


def gather(value: Any) -> list[Any]:
    """What each process hands in, on all of them, in their order; it waits for them.

    Args:
      value: of what JSON holds; tuples come back as lists.

    Raises:
      AnotherProcessFailed: one of them has ended.
    """
    if not several():
        return [json.loads(json.dumps(value))]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    try:
        sizes = multihost_utils.process_allgather(np.array(text.size)).reshape(-1)
        padded = np.pad(text, (0, int(sizes.max()) - text.size))
        rows = multihost_utils.process_allgather(padded)
    except jax.errors.JaxRuntimeError as error:
        raise AnotherProcessFailed("another process of the run has ended") from error
    return [
        json.loads(bytes(row[:size])) for row, size in zip(np.asarray(rows), sizes, strict=True)
    ]


def together(work: Callable[[], T]) -> T:
    """Does `work` on every process; where one of them fails, it fails on all.

    Raises:
      Exception: what `work` raises.
      AnotherProcessFailed: what it raised in another process.
    """
    failed: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as error:  # whichever: the others must not wait for this process
        failed = error
    said = gather(str(failed) if failed else "")
    if failed:
        raise failed
    for number, text in enumerate(said):
        if text:
            raise AnotherProcessFailed(f"process {number} of {len(said)} says: {text}")
    return result


def by_first(work: Callable[[], None]) -> None:
    """Does `work`, which writes files, on the first process; the others wait, and fail with it."""
    together(work if first() else lambda: None)


def check_equal(facts: Mapping[str, Any]) -> None:
    """Raises ValueError where the processes hold different facts, naming the first that differs.

    Args:
      facts: by name; compared as JSON.
    """
    ours = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
    all_of_them = gather(ours)
    for number, theirs in enumerate(all_of_them[1:], 1):
        for name, value in all_of_them[0].items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"the processes differ in {name}: it is {value} in process 0 and "
                    f"{theirs.get(name)} in process {number}. Start all of them with the same "
                    f"command, on the same data."
                )


def check_common_folder(folder: pathlib.Path) -> None:
    """Makes a folder by the first process; raises ValueError where another one does not see it.

    A folder of the same name on a disk of its own is not seen as well, so a file is looked for.
    """
    mark = folder / f".{gather(uuid.uuid4().hex)[0]}"

    def leave() -> None:
        make_folder(folder)
        mark.touch()

    by_first(leave)
    unseen = [number for number, seen in enumerate(gather(mark.exists())) if not seen]
    by_first(mark.unlink)
    if unseen:
        raise ValueError(
            f"--workdir={folder} is not seen by process {unseen[0]}: name a folder on a disk that "
            f"all processes share."
        )
