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
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


def interruptible(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """What a function returns, or its error; in the main thread Ctrl-C is heard meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **settings)
    found: list[Any] = []
    side_by_side(lambda _: function(*args, **settings), [None], 1, found.append)
    return found[0]


def side_by_side(
    function: Callable[[Item], Any], items: Sequence[Item], lanes: int, after: Callable[[Any], object]
) -> None:
    """Call a function of each item, in so many threads at a time; what it raises is raised here.

    Args:
        function: What to call.
        items: What to call it with.
        lanes: Threads.
        after: Called in this thread with each result, in the order in which they come.
    """
    waiting, done = iter(items), SimpleQueue[tuple[bool, Any]]()

    def lane() -> None:
        try:
            for item in waiting:  # each is taken by one thread
                stop_if_interrupted()
                done.put((True, function(item)))
        except BaseException as error:  # raised again where it is waited for
            done.put((False, error))

    helpers = [_helper() for _ in range(min(lanes, len(items)))]
    try:
        for helper in helpers:
            helper.given.put(lane)
        for _ in items:
            fine, found = done.get()
            if not fine:
                raise found
            after(found)
    except BaseException:
        for helper in helpers:
            helper.leave()
        raise
    _kept.extend(helpers)


class _Helper:
    """A thread that does one call after the other, and waits in between.

    Attributes:
        process: The one it lives in: a fork takes no threads along.
        given: Calls to do.
    """

    def __init__(self) -> None:
        self.process, self._unawaited = os.getpid(), threading.Event()
        self.given: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def leave(self) -> None:
        """Let it end: nobody waits for it any more."""
        self._unawaited.set()
        self.given.put(None)

    def _run(self) -> None:
        _this.unawaited = self._unawaited
        while (work := self.given.get()) is not None:
            work()
            del work  # or what it holds would live until the next call


def _helper() -> _Helper:
    """One that waits for a call, or a new one."""
    while _kept:
        kept = _kept.pop()
        if kept.process == os.getpid():
            return kept
    return _Helper()


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
