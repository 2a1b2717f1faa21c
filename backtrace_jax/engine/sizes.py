"""How many examples are explained at a time, and how a batch is cut up into calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from backtrace_jax.question.settings import ROWS

_LIGHT, _HEAVY = 1e7, 1e9  # floating-point operations of one forward pass
_GPU_FACTOR = 100.0  # a GPU needs that much more work before one example fills it
_GROUP = 2  # divides every chunk above 1

_CHUNK = 4e6  # floating-point operations of the forward passes of a chunk: more rows gain little, and pad more
_MOST_ROWS = 64
_USES = 8  # floating-point operations per byte of the weights, below which reading them takes longer
_CALL = 4e7  # those of a call, beside which it costs little to make it
_MOST_CHUNKS = 32
_INPUTS = 2**18  # bytes of the inputs of a call: all of them travel, however few hold examples
_BRIEF = 8e6  # those of a batch that is explained before another thread has begun
_FEW = 3  # calls that take no longer than that
_PROMPT = 2e8  # those of a call that ends before anybody has pressed a key and wondered
_MEMORY = 2**28  # bytes of all calls that run side by side


@dataclass(frozen=True)
class Sizes:
    """How a batch is cut up.

    Attributes:
        chunk: Examples that are explained at a time.
        chunks: Most chunks of a call.
        lanes: Calls that run side by side.
        brief: Examples up to which a batch is explained so soon that no other thread is worth its while.
        prompt: The same of a batch that is one call, which no other thread could share.
    """

    chunk: int
    chunks: int = 1
    lanes: int = 1
    brief: int = 0
    prompt: int = 0

    def calls(self, count: int) -> list[slice]:
        """The examples of each call; every lane gets its part."""
        chunks = -(-count // self.chunk)
        size = self.chunk * min(self.chunks, -(-chunks // (1 if count <= self.brief else self.lanes)))
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]


class Work(NamedTuple):
    """What one example takes.

    Attributes:
        flops: Floating-point operations of its forward pass, those of loops counted once.
        size: Bytes of its inputs.
        weights: Bytes of the model's weights.
        walks: How often its relevance is walked back.
        loops: Whether the graph has loops.
    """

    flops: float
    size: int
    weights: int = 0
    walks: int = 1
    loops: bool = False


def default_chunk(work: Work, platform: str) -> int:
    """Examples that are explained at a time: 1 where a single example fills the machine, more where padding is free.

    Padding is free where there is little to compute, and where each weight is used so seldom that reading it takes
    longer than computing with it, as in dense layers and in each step of a recurrence.
    """
    flops = work.flops
    if platform != "cpu":
        effort = flops / _GPU_FACTOR
        return 1 if effort >= _HEAVY else ROWS if effort >= _LIGHT else 4 * ROWS
    rows = _MOST_ROWS
    while rows > ROWS and rows * flops > _CHUNK:
        rows //= 2
    free = rows * flops <= _CHUNK or (flops < _HEAVY and flops < _USES * work.weights)
    return rows if free else 1


def sizes_of(chunk: int, work: Work, platform: str) -> Sizes:
    """How batches are cut up where the user, or the default, says how many examples may be in memory at a time.

    Where a few examples fill the machine, a chunk is explained by and by: more at a time only take memory, and touching
    new memory costs time of its own. Where calling costs more than what a chunk computes, a call takes several.
    """
    if platform != "cpu":
        return Sizes(chunk)
    if work.flops >= _HEAVY:
        group = min(chunk, _GROUP)
        return Sizes(group, chunk // group)
    flops = max(1, work.flops * work.walks)
    chunks = max(1, int(min(_CALL / flops / chunk, _INPUTS / work.size / chunk, _MOST_CHUNKS)))
    if work.loops:
        return Sizes(chunk, chunks)
    return Sizes(chunk, chunks, brief=int(min(_BRIEF / flops, _FEW * chunk * chunks)), prompt=int(_PROMPT / flops))


def lanes_of(work: Work, memory: int | None, platform: str, threads: int) -> int:
    """Calls that run side by side: as many as there are threads where one call does not keep all of them busy.

    Args:
        work: What one example takes.
        memory: Bytes that one call takes, if known.
        platform: Where it runs.
        threads: Of XLA's CPU backend.
    """
    if platform != "cpu" or work.flops >= _HEAVY or memory is None:
        return 1
    return max(1, min(threads, _MEMORY // max(memory, 1)))
