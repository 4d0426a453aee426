"""Runs of `cifp_jax.main` as one process or as several on the loopback address."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Processes:
    """Processes of one run, with two CPU devices each or four of one; `logs` are their output."""

    def __init__(
        self,
        folder: pathlib.Path,
        count: int,
        flags: Sequence[Sequence[str]],
        module: str = "cifp_jax.main",
    ) -> None:
        """Starts `count` processes, number i with `flags[i]`; compiled code lies in `folder`."""
        self.logs = [folder / f"log_{count}_{i}.txt" for i in range(count)]
        environment = os.environ | {
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # they mostly compile
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(4 // count),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "PYTHONUNBUFFERED": "1",
        }
        address = f"127.0.0.1:{free_port()}"
        self.children: list[subprocess.Popen[Any]] = []
        for i, log in enumerate(self.logs):
            several = (f"--coordinator={address}", f"--processes={count}", f"--process={i}")
            with log.open("w") as file:
                self.children.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", module, *flags[i]),
                            *(several if count > 1 else ()),
                        ],
                        cwd=ROOT,
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def until(self, text: str, seconds: float = 120) -> None:
        """Waits until the first process has printed `text`."""
        limit = time.monotonic() + seconds
        while text not in self.logs[0].read_text():
            assert time.monotonic() < limit, self.logs[0].read_text()
            assert self.children[0].poll() is None, self.logs[0].read_text()
            time.sleep(0.02)

    def send(self, number: int, sent: signal.Signals) -> None:
        """Sends a signal to process `number`."""
        self.children[number].send_signal(sent)

    def ended(self, seconds: float = 240) -> list[int]:
        """Waits for the end of all, at most so long; returns their exit codes."""
        limit = time.monotonic() + seconds
        try:
            return [c.wait(max(limit - time.monotonic(), 0.1)) for c in self.children]
        finally:
            for child in self.children:
                child.kill()
