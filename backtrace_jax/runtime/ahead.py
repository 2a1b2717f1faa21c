"""Reading by a thread of its own, ahead of the work on what was read before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

AHEAD = 2
"""Blocks of examples that are read while one is explained."""

Read = TypeVar("Read")


def read_ahead(reads: Iterable[Callable[[], Read | None]], ahead: int = AHEAD) -> Iterator[Read]:
    """What is read by one thread while what was read before is worked on; ends where None is read.

    Nobody waits for the thread: a stream may never give its next example.

    Args:
        reads: Each reads something, a block of examples say; they are called one after the other.
        ahead: How many are read before they are asked for.
    """
    found, room, left = SimpleQueue[tuple[Read | None, BaseException | None]](), Semaphore(ahead), Event()

    def work() -> None:
        try:
            for read in reads:
                room.acquire()
                if left.is_set():
                    return
                found.put((read(), None))
            found.put((None, None))
        except BaseException as error:  # raised again where it is waited for
            found.put((None, error))

    Thread(target=work, name="reading", daemon=True).start()
    try:
        while (each := found.get())[0] is not None:
            yield each[0]
            room.release()
        if each[1] is not None:
            raise each[1]
    finally:
        left.set()
        room.release()
