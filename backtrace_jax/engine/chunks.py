"""Runs a compiled function over a batch in padded chunks of one size.

One executable serves every example and explains each in a chunk of that size, so an example's relevance has the same
bytes alone, in any batch and at any position in it. The size follows from the model and the device, never from the
batch at hand. The batch decides only how many chunks a call takes, one after the other by the same code, and how many
calls run side by side, on one device or on several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Lock
from typing import Any

import jax
import numpy as np

from backtrace_jax.runtime.interrupting import side_by_side
from backtrace_jax.runtime.numerics import within_memory

from .sizes import Sizes


def run_chunks(
    call: Callable[[Any, int], Any],
    arrays: Any,
    count: int,
    sizes: Sizes,
    progress: Callable[[int, int], None] | None,
    settle: Callable[[Any], Any] | None = None,
) -> Any:
    """Call a function on a batch part by part and join the results.

    Args:
        call: Takes and returns pytrees of arrays whose first axis is the chunk, or of several chunks, [chunks, chunk];
            and takes how many of these hold examples.
        arrays: Pytree of arrays whose first axis is the batch.
        count: Size of the batch.
        sizes: How it is cut up.
        progress: Called with (examples done, examples in all) after every call.
        settle: What is kept of what a call gave, arrays on the host with its examples in front.

    Raises:
        SettingError: When a call, or all results together, do not fit into memory.
    """
    joined, done = _Joined(count, sizes, settle), 0

    def explain(examples: slice) -> int:
        size = examples.stop - examples.start
        used = -(-size // sizes.chunk)
        part = jax.tree.map(lambda array: _whole_chunks(array[examples], used, sizes), arrays)
        with within_memory(sizes.chunk):  # some of what fails is only told when the result is waited for
            joined.write(examples, jax.block_until_ready(call(part, used)))
        return size

    def after(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, count)

    calls = sizes.calls(count)
    if count <= sizes.brief or (len(calls) == 1 and count <= sizes.prompt):
        for examples in calls:
            after(explain(examples))
    else:
        side_by_side(explain, calls, sizes.lanes, after)
    return joined.whole()


def taking_turns(calls: Sequence[Callable[[Any, int], Any]], lanes: int) -> Callable[[Any, int], Any]:
    """A function of any thread that is called by the first of these that is free; each may be called in some lanes."""
    free = SimpleQueue[Callable[[Any, int], Any]]()
    for call in (*calls,) * lanes:
        free.put(call)

    def run(part: Any, used: int) -> Any:
        call = free.get()
        try:
            return jax.block_until_ready(call(part, used))
        finally:
            free.put(call)

    return run


def padded(arrays: Any, count: int, chunk: int) -> Iterator[tuple[Any, int]]:
    """Slices of `chunk` examples; the last one repeats its last example, which is sure to be a valid one."""
    for first in range(0, count, chunk):
        chosen = np.minimum(np.arange(first, first + chunk), count - 1)
        yield jax.tree.map(lambda array, chosen=chosen: array[chosen], arrays), min(chunk, count - first)


def _whole_chunks(part: np.ndarray, used: int, sizes: Sizes) -> np.ndarray:
    """Examples as whole chunks; the last chunk repeats the last example, which is sure to be a valid one.

    Chunks beyond those used are left as they are: nothing reads them.
    """
    size, chunks = len(part), sizes.chunks
    if size < chunks * sizes.chunk:
        full = np.empty((chunks * sizes.chunk, *part.shape[1:]), part.dtype)
        full[:size], full[size : used * sizes.chunk] = part, part[-1:]
        part = full
    return part if chunks == 1 else part.reshape(chunks, sizes.chunk, *part.shape[1:])


class _Joined:
    """The results of a batch, written into their places as they come."""

    def __init__(self, count: int, sizes: Sizes, settle: Callable[[Any], Any] | None) -> None:
        self._count, self._flat, self._settle, self._lock = count, sizes.chunks > 1, settle, Lock()
        self._wholes: list[np.ndarray] = []
        self._tree: Any = None

    def write(self, examples: slice, found: Any) -> None:
        """Write what a call gave for these examples."""
        size = examples.stop - examples.start
        leaves, tree = jax.tree.flatten(found)
        arrays = [np.asarray(leaf) for leaf in leaves]
        if self._flat:
            arrays = [array.reshape(array.shape[0] * array.shape[1], *array.shape[2:]) for array in arrays]
        arrays = [array[:size] for array in arrays]
        if self._settle is not None:
            arrays, tree = jax.tree.flatten(self._settle(jax.tree.unflatten(tree, arrays)))
        with self._lock:
            if not self._wholes:
                self._wholes = [np.empty((self._count, *array.shape[1:]), array.dtype) for array in arrays]
                self._tree = tree
        for whole, array in zip(self._wholes, arrays, strict=True):
            whole[examples] = array

    def whole(self) -> Any:
        """All of them, batch first."""
        return jax.tree.unflatten(self._tree, self._wholes)
