"""Lets Ctrl-C be heard while XLA compiles or computes.

Python handles signals in its main thread only, and only between two of its own instructions; a call of XLA returns when
it is done. So the main thread hands such calls to another one and waits. After an interrupt XLA finishes its call in
the background, since nothing can stop it, and the other thread stops where it next asks whether it is waited for.

The other thread is kept for the next call: to start one takes longer than many a call. One that nobody waits for any
more ends with what it does, and the next call gets a new one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


def interruptible(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """What a function returns, or its error; in the main thread Ctrl-C is heard meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **settings)
    helper = _kept.pop() if _kept and _kept[-1].process == os.getpid() else _Helper()
    try:
        found = helper.found(lambda: function(*args, **settings))
    except BaseException:
        helper.leave()
        raise
    _kept[:] = [helper]
    return found.result()


class _Helper:
    """A thread that does one call after the other, and waits in between.

    Attributes:
        process: The one it lives in: a fork takes no threads along.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._unawaited = threading.Event()
        self._given: SimpleQueue[tuple[Callable[[], Any], Future[Any], Any] | None] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def found(self, function: Callable[[], Any]) -> Future[Any]:
        """What a call gave, or its error, once it has ended."""
        found, ended = Future[Any](), threading.Lock()  # the lock is faster to wait for
        ended.acquire()
        self._given.put((function, found, ended))
        ended.acquire()
        return found

    def leave(self) -> None:
        """Let it end: nobody waits for it any more."""
        self._unawaited.set()
        self._given.put(None)

    def _run(self) -> None:
        _this.unawaited = self._unawaited
        while (work := self._given.get()) is not None:
            function, found, ended = work
            try:
                found.set_result(function())
            except BaseException as error:  # raised again where it is waited for
                found.set_exception(error)
            ended.release()
            del work, function, found  # or what they hold would live until the next call


def stop_if_interrupted() -> None:
    """Between two steps of what `interruptible` calls: end it where nobody waits for it any more.

    Raises:
        KeyboardInterrupt: In the thread that nobody waits for.
    """
    unawaited = getattr(_this, "unawaited", None)
    if unawaited is not None and unawaited.is_set():
        raise KeyboardInterrupt


_this = threading.local()
_kept: list[_Helper] = []
