"""What benchmarks read of the processes that they watch."""

import subprocess
import sys

import pytest

from benchmarks.processes import resident, spent

CHILD = """
import sys, time
held = b"a" * {size}
while time.process_time() < {seconds}:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


def watched(size: int, seconds: float) -> tuple[float, float, float]:
    """Processor time and memory that are read of a process, and the time that it says it has taken."""
    command = [sys.executable, "-c", CHILD.format(size=size, seconds=seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = float(process.stdout.readline())
        found = spent(process.pid), resident(process.pid), told
        process.communicate()
    return found


def test_a_process_is_watched_by_what_it_takes():
    time, small, told = watched(size=1, seconds=0.5)
    assert time == pytest.approx(told, abs=0.05)
    assert watched(size=2**27, seconds=0.1)[1] - small == pytest.approx(128, abs=4)


def test_what_has_ended_takes_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert spent(process.pid) == resident(process.pid) == 0
