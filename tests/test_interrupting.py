"""Ctrl-C is heard while XLA computes or compiles, and errors come through as they are."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from backtrace_jax.interrupting import interruptible

LONG = """
import time
import jax, jax.numpy as jnp
from backtrace_jax.engine.chunks import run_chunks
from backtrace_jax.numerics import compiled
import numpy as np

def forever(x):
    return jax.lax.fori_loop(0, 2**33, lambda i, a: jnp.sin(a) + i, x)

run = compiled(forever, np.ones((1, 4), np.float32), device=jax.devices()[0])
print("ready", flush=True)
try:
    run_chunks(run, np.ones((1, 4), np.float32), 1, 1, None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_a_long_run_is_interrupted():
    """A run of minutes, in a process of its own: KeyboardInterrupt reaches it within seconds."""
    with subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 20
        process.kill()


def test_the_main_thread_hears_an_interrupt_while_another_waits():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(time.sleep, 30)


def test_results_and_errors_come_through():
    assert interruptible(max, 1, 5, key=lambda x: -x) == 1
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_other_threads_call_directly():
    found = []
    thread = threading.Thread(target=lambda: found.append(interruptible(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]
