"""Rotary position embedding: pairs of entries turned by an angle that grows with the position.

Tables of cosines and sines bear no relevance, so that every result is a sum of two linear maps of the value turned.
"""

from __future__ import annotations

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .registry import operator


@operator("RotaryEmbedding", since=23)
def rotary_embedding(
    lowering: Lowering,
    X: Value,
    cos_cache: Value,
    sin_cache: Value,
    position_ids: Value | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Value:
    """Entries turned by their positions; of each head all, or the first `rotary_embedding_dim`."""
    if len(X.shape) == 3 and not num_heads:
        raise ModelError("an operand of rank 3 needs num_heads")
    tables = cos_cache, sin_cache
    if position_ids is not None:
        tables = at_positions(lowering, cos_cache, position_ids), at_positions(lowering, sin_cache, position_ids)
    angles, width = tables[0].shape[-1], X.shape[-1] // (num_heads if len(X.shape) == 3 else 1)
    if angles * 2 != (rotary_embedding_dim or width):
        raise ModelError(f"tables of {angles} angles do not fit {rotary_embedding_dim or width} entries")
    return turned(lowering, X, tables, bool(interleaved), num_heads)


@operator("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding_microsoft(
    lowering: Lowering,
    input: Value,
    position_ids: Value,
    cos_cache: Value,
    sin_cache: Value,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Value:
    """The same with tables by position; one position alone is that of the first entry."""
    if scale != 1:
        raise UnsupportedError(f"a scale of {scale}; scale the value or the tables instead")
    length = input.shape[1] if len(input.shape) == 3 else input.shape[2]
    if len(position_ids.shape) == 1:
        first = lowering.reshape(position_ids, (1, 1))
        position_ids = lowering.emit("add", first, np.arange(length, dtype=first.dtype).reshape(1, length))
    tables = at_positions(lowering, cos_cache, position_ids), at_positions(lowering, sin_cache, position_ids)
    heads = num_heads or input.shape[-1] // (2 * cos_cache.shape[-1])
    return turned(lowering, input, tables, bool(interleaved), heads)


def at_positions(lowering: Lowering, table: Value, positions: Value) -> Value:
    """Rows of a table [position, angle] at positions [batch, length].

    They are not looked up by `gather`: a position is no token, and its integers shall bear no relevance.
    """
    return lowering.emit("gather_nd", table, lowering.reshape(positions, (*positions.shape, 1)), batch_dims=0)


def turned(lowering: Lowering, X: Value, tables: tuple[Value, Value], interleaved: bool, heads: int = 0) -> Value:
    """X turned by angles, whose cosines and sines are [batch, length, angle].

    Args:
        lowering: The graph under construction.
        X: [batch, heads, length, size] or [batch, length, heads x size].
        tables: The cosines and the sines.
        interleaved: Whether neighbours are turned together, rather than entries half a size apart.
        heads: Number of heads, where X has them merged.
    """
    batch, length, angles = tables[0].shape
    if len(X.shape) == 4:
        by_head = [lowering.reshape(table, (batch, 1, length, angles)) for table in tables]
        return _turned(lowering, X, *by_head, interleaved=interleaved)
    by_head = [lowering.reshape(table, (batch, length, 1, angles)) for table in tables]
    apart = lowering.reshape(X, (*X.shape[:2], heads, X.shape[2] // heads))
    return lowering.reshape(_turned(lowering, apart, *by_head, interleaved=interleaved), X.shape)


def _turned(lowering: Lowering, X: Value, cosines: Value, sines: Value, *, interleaved: bool) -> Value:
    """The first entries of the last axis turned, the others as they are."""
    angles, size = cosines.shape[-1], X.shape[-1]
    if interleaved:
        first, second = (_part(lowering, X, start, 2 * angles, 2) for start in (0, 1))
    else:
        first, second = (_part(lowering, X, start, start + angles) for start in (0, angles))
    parts = _rotated(lowering, first, second, cosines, sines)
    if interleaved:
        pairs = [lowering.reshape(part, (*part.shape, 1)) for part in parts]
        joined = lowering.emit("concat", *pairs, axis=len(X.shape))
        parts = [lowering.reshape(joined, (*X.shape[:-1], 2 * angles))]
    rest = [_part(lowering, X, 2 * angles, size)] if size > 2 * angles else []
    every = [*parts, *rest]
    return every[0] if len(every) == 1 else lowering.emit("concat", *every, axis=len(X.shape) - 1)


def _rotated(lowering: Lowering, first: Value, second: Value, cosines: Value, sines: Value) -> list[Value]:
    """Pairs of entries, rotated in the plane."""
    products = {
        (i, j): lowering.emit("mul", entries, table)
        for i, entries in enumerate((first, second))
        for j, table in enumerate((cosines, sines))
    }
    real = lowering.emit("sub", products[0, 0], products[1, 1])
    return [real, lowering.emit("add", products[0, 1], products[1, 0])]


def _part(lowering: Lowering, X: Value, start: int, limit: int, stride: int = 1) -> Value:
    """Entries of the last axis."""
    before = (0,) * (len(X.shape) - 1)
    settings = {"start": (*before, start), "limit": (*X.shape[:-1], limit)}
    return lowering.emit("slice", X, **settings, stride=(*(1 for _ in before), stride))
