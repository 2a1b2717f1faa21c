"""Lets Ctrl-C be heard while XLA compiles or computes.

Python handles signals in its main thread only, and only between two of its own instructions; a call of XLA returns when
it is done. So the main thread hands such calls to another one and waits. After an interrupt XLA finishes its call in
the background, since nothing can stop it, and the other thread stops where it next asks whether it is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def interruptible(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """What a function returns, or its error; in the main thread Ctrl-C is heard meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **settings)
    found: Future[Any] = Future()
    interrupted = threading.Event()

    def run() -> None:
        _this.interrupted = interrupted
        try:
            found.set_result(function(*args, **settings))
        except BaseException as error:  # raised again where it is waited for
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return found.result()
    finally:
        interrupted.set()  # nobody waits any more


def stop_if_interrupted() -> None:
    """Between two steps of what `interruptible` calls: end it where nobody waits for it any more.

    Raises:
        KeyboardInterrupt: In the thread that nobody waits for.
    """
    interrupted = getattr(_this, "interrupted", None)
    if interrupted is not None and interrupted.is_set():
        raise KeyboardInterrupt


_this = threading.local()
