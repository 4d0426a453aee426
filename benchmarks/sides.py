"""Two programs on the same work, in turns, each in a process of its own.

Machines are noisy, so neither time means much alone. The turns are interleaved, and what is
reported is the median of each side and the ratio of the two.
"""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What a side has prepared: `run` does the work once and returns when it has ended.

    Attributes:
      run: called once to warm up (compilation), then once a turn.
      facts: called after the last turn, for figures such as `flops`, `bytes` or `peak_memory`.
    """

    run: Callable[[], object]
    facts: Callable[[], dict[str, float]]


class Result(NamedTuple):
    """Seconds of every turn, seconds of the first run, and what the side told of itself."""

    seconds: list[float]
    first: float
    facts: dict[str, float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class SideError(RuntimeError):
    """A side that could not prepare or run; the message is its error."""


def _serve(pipe: Connection, prepare: Callable[..., Work], arguments: dict[str, Any]) -> None:
    try:
        work = prepare(**arguments)
        start = time.perf_counter()
        work.run()
        pipe.send(time.perf_counter() - start)
        while pipe.recv():
            start = time.perf_counter()
            work.run()
            pipe.send(time.perf_counter() - start)
        pipe.send(work.facts())
    except Exception as error:
        with contextlib.suppress(OSError):  # the other end has gone
            pipe.send(SideError(f"{type(error).__name__}: {error}"))


def _receive(pipe: Connection) -> Any:
    answer = pipe.recv()
    if isinstance(answer, SideError):
        raise answer
    return answer


@contextlib.contextmanager
def _noted(name: str, results: dict[str, Result], errors: dict[str, SideError]) -> Iterator[None]:
    """Moves a side that fails, or whose process dies, from the results to the errors."""
    try:
        yield
    except (SideError, EOFError, BrokenPipeError) as error:
        results.pop(name, None)
        died = not isinstance(error, SideError)
        errors[name] = SideError("the process died (out of memory?)") if died else error


def interleave(
    sides: dict[str, Callable[..., Work]], arguments: dict[str, Any], repeats: int
) -> tuple[dict[str, Result], dict[str, SideError]]:
    """Times each side `repeats` times, one turn of each after the other.

    Args:
      sides: by name, a module-level function that prepares the work in a new process.
      arguments: keyword arguments of all of them.
      repeats: turns of each side.

    Returns:
      By name, the times, and the errors of sides that failed; the others go on without them.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    results: dict[str, Result] = {}
    errors: dict[str, SideError] = {}
    processes = []
    try:
        for name, prepare in sides.items():
            pipes[name], other = context.Pipe()
            # No daemon: a side may have worker processes of its own.
            process = context.Process(target=_serve, args=(other, prepare, arguments))
            process.start()
            other.close()
            processes.append(process)
            # One after the other, so that no compilation runs beside a turn.
            with _noted(name, results, errors):
                results[name] = Result([], _receive(pipes[name]), {})
        for _ in range(repeats):
            for name, result in tuple(results.items()):
                with _noted(name, results, errors):
                    pipes[name].send(True)
                    result.seconds.append(_receive(pipes[name]))
        for name, result in tuple(results.items()):
            with _noted(name, results, errors):
                pipes[name].send(False)
                results[name] = result._replace(facts=_receive(pipes[name]))
    finally:
        for pipe in pipes.values():
            pipe.close()  # a side that still waits for its turn ends
        for process in processes:
            process.join()
    return results, errors
