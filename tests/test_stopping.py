"""A signal while the process is in one long call, which no handler interrupts."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.processes import free_port

# A minute or more inside of one call, which lets other threads run as a compiler does.
SCRIPT = """
import hashlib
from cifp_jax.training.stopping import Signals
with Signals(may_exit={may_exit}) as signals:
    with signals.exits("before it"):
        pass
    with signals.exits("in a compilation"):
        print("begins", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
    print("stops after it", signals.stop(1), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("may_exit", "rounds", "answer", "status"),
    [
        (True, 10**9, "in a compilation\n", os.EX_TEMPFAIL),
        (False, 3 * 10**6, "stops after it True\n", 0),
    ],
)
def test_a_signal_ends_a_process_that_is_the_runs_alone(number, may_exit, rounds, answer, status):
    script = SCRIPT.format(may_exit=may_exit, rounds=rounds)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        process.send_signal(number)
        try:
            assert process.communicate(timeout=30) == (answer, None)
        finally:
            process.kill()
    assert process.returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_end_together_whichever_is_told(number):
    join = f"from cifp_jax import processes; processes.join('127.0.0.1:{free_port()}', 2, {{}})"
    script = SCRIPT.format(may_exit=True, rounds=10**9)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", f"{join.format(index)}\n{script}"],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
        both[1].send_signal(number)
        said = [process.communicate(timeout=30)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [os.EX_TEMPFAIL] * 2
    assert ["in a compilation" in text for text in said] == [True, False]
