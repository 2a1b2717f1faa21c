"""Which process computes: one that was forked from a process in which JAX has run would hang at its first call.

JAX is multithreaded, and a fork copies its locks without the threads that would open them. That is said here, before
JAX is touched, wherever it can be seen.
"""

from __future__ import annotations

import os

from backtrace_jax.errors import SettingError

_computing: int | None = None  # the process in which JAX was first used through this package


def enter() -> None:
    """Note that this process is about to compute.

    Raises:
        SettingError: When it was forked from one that has computed before.
    """
    global _computing
    if _computing is not None and _computing != os.getpid():
        raise SettingError(
            "this process was forked from one in which JAX has run, and JAX would hang here; start processes with "
            "multiprocessing.get_context('spawn'), or fork before anything is explained"
        )
    _computing = os.getpid()
