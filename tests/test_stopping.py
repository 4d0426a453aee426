"""A signal while the process is in one long call, which no handler interrupts."""

import os
import signal
import subprocess
import sys

import pytest

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
