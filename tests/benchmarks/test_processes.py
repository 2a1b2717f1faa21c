"""What benchmarks read of the processes that they watch."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.processes import resident, spent


def test_a_process_is_watched_by_what_it_takes():
    before = spent(os.getpid()), time.process_time(), resident(os.getpid())
    held = np.ones(2**24)  # 128 MiB
    while time.process_time() < before[1] + 0.2:
        pass
    assert spent(os.getpid()) - before[0] == pytest.approx(time.process_time() - before[1], abs=0.05)
    assert resident(os.getpid()) - before[2] == pytest.approx(held.nbytes / 2**20, abs=16)


def test_what_has_ended_takes_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert spent(process.pid) == resident(process.pid) == 0
