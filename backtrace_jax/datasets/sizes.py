"""How many examples make a block, and how many of them are compressed together.

A block is what is explained, written and resumed as one, and one file (shard) of every array. Its size follows from the
model and the source alone, never from the machine, so that every machine makes the same files:

    stored bytes of an example    examples of a block          why
    up to 256 KiB                 16 MiB of them, 65,536       light models: few files; memory stays flat
                                  at most
    more                          64 MiB of them, 64 at most   pictures at full size: a million examples are
                                                               some 100,000 files
    and of work                   2e12 flops of forward        a minute or so on a laptop; at least 16, or a million
                                  passes                       examples would be nearly a million files

and then the next lower power of two.
"""

from __future__ import annotations

_LIGHT, _MOST = 2**24, 2**16  # bytes and examples of a block of light models
_HEAVY, _FEW = 2**26, 64  # of those whose examples are large
_WORK, _LEAST = 2e12, 16  # floating-point operations of the forward passes of a block, and examples at least

_TOGETHER = 2**18  # bytes that are compressed together: what reading one example costs


def block_size(size: int, flops: float) -> int:
    """Examples of a block.

    Args:
        size: Bytes that are stored of an example.
        flops: Floating-point operations of the forward passes that explaining it takes.
    """
    by_size = min(_MOST, _LIGHT // size) if size * _FEW <= _LIGHT else max(1, min(_FEW, _HEAVY // size))
    by_work = max(_LEAST, int(_WORK / max(flops, 1.0)))
    return _power(min(by_size, by_work))


def chunk_size(size: int, block: int) -> int:
    """Examples of an array that are compressed together.

    Args:
        size: Bytes of the array's entry of one example.
        block: Examples of a block.
    """
    return min(block, _power(max(1, _TOGETHER // max(size, 1))))


def _power(number: int) -> int:
    return 2 ** (number.bit_length() - 1)
