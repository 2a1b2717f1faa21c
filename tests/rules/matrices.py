"""Matrices [out, in] of convolutions and poolings, written out entry by entry.

Layouts and settings are those of `backtrace_jax.ops.linear`: x [N, C, *spatial].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np

Sizes: TypeAlias = Sequence[int]
Padding: TypeAlias = Sequence[tuple[int, int]]
Index: TypeAlias = tuple[int, ...]


def windows(
    sizes: Sizes, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes
) -> Iterator[tuple[Index, list[tuple[Index, Index]]]]:
    """Every output position, with the (offset in the window, input position) pairs it reads, borders included."""
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, window, strict=True)]
    padded = [size + low + high for size, (low, high) in zip(sizes, padding, strict=True)]
    counts = [(size - span) // stride + 1 for size, span, stride in zip(padded, spans, strides, strict=True)]
    lows = np.array([low for low, _ in padding], int)
    for at in np.ndindex(*counts):
        corner = np.multiply(at, strides) - lows
        yield at, [(k, tuple((corner + np.multiply(k, dilation)).tolist())) for k in np.ndindex(*window)]


def inside(position: Sequence[int], sizes: Sizes) -> bool:
    """Whether a position lies in an array of these sizes."""
    return all(0 <= at < size for at, size in zip(position, sizes, strict=True))


def _filled(entries: Iterator[tuple[Index, Index, float]], result: Sizes, operand: Sizes) -> np.ndarray:
    """A matrix from its (output index, input index, weight) entries."""
    K = np.zeros((*result, *operand))
    for at, source, weight in entries:
        K[*at, *source] += weight
    return K.reshape(int(np.prod(result)), int(np.prod(operand)))


def conv(x: Sizes, K: np.ndarray, strides: Sizes, padding: Padding, dilation: Sizes, groups: int) -> np.ndarray:
    """z[n, o, at] = sum over c, k of K[o, c, k] x[n, c of o's group, at * stride + k * dilation - low]."""
    reads = list(windows(x[2:], K.shape[2:], strides, padding, dilation))
    outs, ins = K.shape[0] // groups, K.shape[1]

    def entries() -> Iterator[tuple[Index, Index, float]]:
        for n, o, c, (at, pairs) in product(range(x[0]), range(K.shape[0]), range(ins), reads):
            for k, source in pairs:
                if inside(source, x[2:]):
                    yield (n, o, *at), (n, o // outs * ins + c, *source), K[o, c, *k]

    return _filled(entries(), (x[0], K.shape[0], *np.add(reads[-1][0], 1)), x)


def conv_transpose(
    x: Sizes, K: np.ndarray, strides: Sizes, padding: Padding, dilation: Sizes, groups: int
) -> np.ndarray:
    """z[n, o, at * stride + k * dilation - low] += x[n, c, at] K[c, o in c's group, k]."""
    ins, outs = K.shape[0] // groups, K.shape[1]
    extents = zip(x[2:], strides, dilation, K.shape[2:], padding, strict=True)
    sizes = [(n - 1) * s + d * (k - 1) + 1 - low - high for n, s, d, k, (low, high) in extents]
    lows = [low for low, _ in padding]

    def entries() -> Iterator[tuple[Index, Index, float]]:
        for n, c, o, at, k in product(
            range(x[0]), range(x[1]), range(outs), np.ndindex(*x[2:]), np.ndindex(*K.shape[2:])
        ):
            target = tuple((np.multiply(at, strides) + np.multiply(k, dilation) - lows).tolist())
            if inside(target, sizes):
                yield (n, c // ins * outs + o, *target), (n, c, *at), K[c, o, *k]

    return _filled(entries(), (x[0], outs * groups, *sizes), x)


def avg_pool(
    x: Sizes, window: Sizes, strides: Sizes, padding: Padding, dilation: Sizes, counted: Padding
) -> np.ndarray:
    """Mean of each window's entries; of the padding, only the `counted` part takes part in the count."""
    reads = list(windows(x[2:], window, strides, padding, dilation))
    wide = [size + low + high for size, (low, high) in zip(x[2:], counted, strict=True)]
    lows = [low for low, _ in counted]

    def entries() -> Iterator[tuple[Index, Index, float]]:
        for n, c, (at, pairs) in product(range(x[0]), range(x[1]), reads):
            count = sum(inside(np.add(source, lows), wide) for _, source in pairs)
            for _, source in pairs:
                if inside(source, x[2:]):
                    yield (n, c, *at), (n, c, *source), 1 / count

    return _filled(entries(), (*x[:2], *np.add(reads[-1][0], 1)), x)
