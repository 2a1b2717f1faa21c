"""Constants are computed on the host, and the library says so where it may not use it."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
from backtrace_jax import SettingError
from backtrace_jax.runtime.machine import host_devices

try:
    host_devices()
except SettingError as error:
    print(error)
"""


def test_a_hidden_host_is_named():
    """What JAX may use is settled when a process starts; here, something that is nowhere."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "JAX_PLATFORMS": "none-but-this"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "JAX_PLATFORMS=cuda,cpu" in run.stdout
