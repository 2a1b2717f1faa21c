"""Several processes that make one store: each is given the same call, and does its share of the blocks.

Nothing is exchanged but the folder: one process lays the store out, the others wait for it; blocks are dealt out by
their numbers, and a block's files are written by one process only. So the store has the bytes that one process would
have given it. Where a process dies, the others finish theirs, and the same call, of any number of processes, goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import is_whole
from backtrace_jax.errors.texts import shown
from backtrace_jax.sources import Source

from .store import Store


@dataclass(frozen=True)
class Share:
    """Which of how many processes this is, counted from 0."""

    number: int
    count: int

    def check(self, source: Source) -> None:
        """Refuse a source that only one process can read.

        Raises:
            SettingError: When it is a stream.
        """
        if self.count > 1 and source.count is None:
            raise SettingError(
                "a stream is read by one process; several need a source that is read at any place, or process=(0, 1)"
            )

    def of(self, explain: Callable[..., int]) -> Callable[..., int]:
        """What explains the blocks of this process, of what explains all that are wanted."""

        def run(store: Store, wanted: Callable[[int], bool], progress: Callable[[int], object]) -> int:
            return explain(store, lambda block: block % self.count == self.number and wanted(block), progress)

        return run


def share_of(process: Any) -> Share:
    """This process among those that were given the same call: as it is told, or else as JAX knows it.

    Args:
        process: (number, count); None: those of `jax.distributed`, which without it are one.

    Raises:
        SettingError: When it is neither.
    """
    if process is None:
        return Share(jax.process_index(), jax.process_count())
    fine = isinstance(process, tuple) and len(process) == 2 and all(is_whole(each) for each in process)
    if not fine or not 0 <= process[0] < process[1]:
        raise SettingError(f"process must be (number, count), numbered from 0, found {shown(process)}")
    return Share(int(process[0]), int(process[1]))
