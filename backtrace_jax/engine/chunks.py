"""Runs a compiled function over a batch in padded chunks of one size.

One executable serves every example, so an example's relevance has the same bytes alone, in any batch and at any
position in it. The size follows from the model and the device, never from the batch at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from backtrace_jax.question.settings import ROWS
from backtrace_jax.runtime.interrupting import interruptible
from backtrace_jax.runtime.numerics import within_memory

_LIGHT, _HEAVY = 1e7, 1e9  # floating-point operations of one forward pass
_GPU_FACTOR = 100.0  # a GPU needs that much more work before one example fills it
_GROUP = 2  # divides every chunk above 1


def default_chunk(flops: float, platform: str) -> int:
    """Examples per call: 1 where a single example fills the machine, more where padding costs nothing one notices."""
    effort = flops if platform == "cpu" else flops / _GPU_FACTOR
    if effort >= _HEAVY:
        return 1
    return ROWS if effort >= _LIGHT else 4 * ROWS


def default_group(flops: float, platform: str) -> int | None:
    """Examples that are explained at a time within a call; None: all.

    Where a few fill the machine, more only take memory, and touching new memory costs time of its own.
    """
    return _GROUP if platform == "cpu" and flops >= _HEAVY else None


def run_chunks(
    call: Callable[[Any], Any],
    arrays: Any,
    count: int,
    chunk: int,
    progress: Callable[[int, int], None] | None,
) -> Any:
    """Call a function chunk by chunk and join the results.

    Args:
        call: Takes and returns pytrees of arrays whose first axis is the chunk.
        arrays: Pytree of arrays whose first axis is the batch.
        count: Size of the batch.
        chunk: Size of a chunk.
        progress: Called with (examples done, examples in all) after every chunk.

    Raises:
        SettingError: When a chunk, or all results together, do not fit into memory.
    """
    parts = []
    for part, size in padded(arrays, count, chunk):
        with within_memory(chunk):  # some of what fails is only told when the result is waited for
            found = interruptible(lambda part=part: jax.tree.map(np.asarray, jax.block_until_ready(call(part))))
        parts.append(jax.tree.map(lambda array, size=size: array[:size], found))
        if progress:
            progress(min(len(parts) * chunk, count), count)
    with within_memory(chunk):
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)


def padded(arrays: Any, count: int, chunk: int) -> Iterator[tuple[Any, int]]:
    """Slices of `chunk` examples; the last one repeats its last example, which is sure to be a valid one."""
    for first in range(0, count, chunk):
        chosen = np.minimum(np.arange(first, first + chunk), count - 1)
        yield jax.tree.map(lambda array, chosen=chosen: array[chosen], arrays), min(chunk, count - first)
