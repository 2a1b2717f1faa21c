"""Ctrl-C is heard while XLA computes or compiles, and errors come through as they are."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import jax
import numpy as np
import pytest

from backtrace_jax.runtime import interrupting, numerics
from backtrace_jax.runtime.interrupting import interruptible, stop_if_interrupted

LONG = """
import signal
import jax, jax.numpy as jnp
from backtrace_jax.engine.chunks import run_chunks
from backtrace_jax.engine.sizes import Sizes
from backtrace_jax.runtime.numerics import compiled
import numpy as np

signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts a process in the background has it ignored

def forever(x):
    return jax.lax.fori_loop(0, 2**33, lambda i, a: jnp.sin(a) + i, x)

run = compiled(forever, np.ones((1, 4), np.float32), device=jax.devices()[0])
print("ready", flush=True)
try:
    run_chunks(lambda part, used: run(part), np.ones((1, 4), np.float32), 1, Sizes(1), None)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def heard():
    """SIGINT raises KeyboardInterrupt, even where whoever started the tests has it ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_a_long_run_is_interrupted():
    """A run of minutes, in a process of its own: KeyboardInterrupt reaches it within seconds."""
    with subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        process.kill()


@pytest.mark.usefixtures("heard")
def test_the_main_thread_hears_an_interrupt_while_another_waits():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(time.sleep, 30)


@pytest.mark.usefixtures("heard")
def test_what_nobody_waits_for_stops_at_its_next_step():
    """The other thread goes on to its next step, and ends there."""
    going, steps, ended = threading.Event(), [], threading.Event()

    def work():
        try:
            while len(steps) < 1000:
                stop_if_interrupted()
                steps.append(len(steps))
                going.wait(30)
        finally:
            ended.set()

    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    going.set()
    assert ended.wait(30)
    assert steps == [0]


def test_the_main_thread_does_not_compile(monkeypatch):
    """XLA takes up to a minute for one function, and Ctrl-C is heard meanwhile."""
    threads = []

    def recorded(function, *args, **settings):
        def told():
            threads.append(threading.current_thread())
            return function(*args, **settings)

        return interruptible(told)

    monkeypatch.setattr(numerics, "interruptible", recorded)
    found = numerics.compiled(lambda x: x + 1, np.ones(3, np.float32), device=jax.devices()[0])
    assert np.asarray(found(np.ones(3, np.float32))).tolist() == [2, 2, 2]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_results_and_errors_come_through():
    assert interruptible(max, 1, 5, key=lambda x: -x) == 1
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)


def test_a_call_that_nobody_interrupts_goes_on():
    stop_if_interrupted()
    interruptible(stop_if_interrupted)
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
    stop_if_interrupted()
    interruptible(stop_if_interrupted)


def test_other_threads_call_directly():
    found = []
    thread = threading.Thread(target=lambda: found.append(interruptible(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]


def test_one_thread_does_one_call_after_the_other():
    threads = {interruptible(threading.current_thread) for _ in range(3)}
    assert len(threads) == 1
    assert threads != {threading.main_thread()}


@pytest.mark.usefixtures("heard")
def test_a_thread_that_nobody_waits_for_gets_no_more_calls():
    """It ends with what it does; the next call gets another one, and does not wait for it."""
    before, done = interruptible(threading.current_thread), threading.Event()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(done.wait, 30)
    assert interruptible(threading.current_thread) is not before
    done.set()
    before.join(30)
    assert not before.is_alive()


def test_what_a_call_returned_is_let_go():
    """The thread that waits for the next call holds on to nothing."""
    returned = weakref.ref(interruptible(set))
    gc.collect()
    assert returned() is None


def test_a_child_process_has_a_thread_of_its_own(monkeypatch):
    """A fork takes no threads along: a call handed to one of the parent's would never end."""
    of_the_parent = interruptible(threading.current_thread)
    monkeypatch.setattr(interrupting.os, "getpid", lambda: -1)
    assert interruptible(threading.current_thread) is not of_the_parent
