"""Attention: scores of queries and keys, a softmax over what is not masked, a mean of the values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import layer, mask
from .tensor import Operand, Tensor
from .writer import Writer

_FUSED = float(-0.7 * np.finfo(np.float32).max)  # what masked scores are where Keras calls its fused attention


def _scores_kept(writer: Writer, known: Sequence[Operand]) -> Operand | None:
    """All masks together."""
    kept: Operand | None = None
    for each in known:
        kept = each if kept is None else writer.emit("And", kept, each)
    return kept


def causal(writer: Writer, query: Operand, value: Operand) -> str:
    """Which values a query may look at, [queries, values]: those at its place and before."""
    rows, columns = _places(writer, query, value)
    return writer.emit("GreaterOrEqual", rows, columns)


def _places(writer: Writer, query: Operand, value: Operand) -> tuple[str, str]:
    zero, one = (writer.constant(np.array(each, np.int64)) for each in (0, 1))
    rows, columns = (
        writer.emit("Range", zero, writer.emit("Squeeze", writer.size(each, 1, 2)), one) for each in (query, value)
    )
    return writer.emit("Unsqueeze", rows, writer.integers(1)), writer.emit("Unsqueeze", columns, writer.integers(0))


def window(writer: Writer, query: Operand, value: Operand, width: int) -> str:
    """Which values lie within a window around a query, [queries, values]."""
    distance = writer.emit("Abs", writer.emit("Sub", *_places(writer, query, value)))
    return writer.emit("Less", distance, writer.constant(np.array(width, np.int64)))


@layer("Attention", "AdditiveAttention")
def attention(
    writer: Writer,
    layer: Any,
    inputs: Sequence[Tensor],
    mask: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """Luong's and Bahdanau's attention: the operands are the queries, keys and values themselves."""
    query, value = inputs[:2]
    scores = _scores(writer, layer, query, inputs[2] if len(inputs) > 2 else value)
    query_mask, value_mask = mask[:2] if mask else (None, None)
    known: list[Operand] = [] if value_mask is None else [writer.emit("Unsqueeze", value_mask, writer.integers(-2))]
    if use_causal_mask:
        known.append(writer.emit("Unsqueeze", causal(writer, query, value), writer.integers(0)))
    kept = _scores_kept(writer, known)
    if kept is not None:
        lowered = writer.emit("Sub", scores, writer.number(1e9, query))
        scores = writer.emit("Where", kept, scores, lowered)
    shares = writer.emit("Softmax", scores, axis=-1)
    result = writer.emit("MatMul", shares, value)
    if query_mask is not None:
        result = writer.emit("Where", writer.emit("Unsqueeze", query_mask, writer.integers(-1)), result,
                             writer.number(0, query))  # fmt: skip
    return (result, shares) if return_attention_scores else result


def _scores(writer: Writer, layer: Any, query: Tensor, key: Tensor) -> str:
    additive = type(layer).__name__ == "AdditiveAttention"
    scale = None if layer.scale is None else writer.weight(layer, "scale")
    if not additive and layer.score_mode == "dot":
        product = writer.emit("MatMul", query, writer.transpose(key, (0, 2, 1)))
        return product if scale is None else writer.emit("Mul", product, scale)
    wide = [writer.emit("Unsqueeze", each, writer.integers(axis)) for each, axis in ((query, -2), (key, -3))]
    total = writer.emit("Add", *wide)
    if scale is not None and not additive:
        total = writer.emit("Mul", total, scale)
    bent = writer.emit("Tanh", total)
    if scale is not None and additive:
        bent = writer.emit("Mul", bent, scale)
    summed = writer.emit("ReduceSum", bent, writer.integers(-1), keepdims=0)
    return summed if additive else writer.emit("Mul", summed, writer.weight(layer, "concat_score_weight"))


@mask("Attention", "AdditiveAttention")
def attention_mask(writer: Writer, layer: Any, inputs: Any, previous: Any) -> Any:
    """The mask of the queries."""
    return previous[0] if isinstance(previous, list | tuple) else None


@layer("MultiHeadAttention", "GroupedQueryAttention")
def multi_head_attention(
    writer: Writer,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    query_mask: Tensor | None = None,
    value_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """Heads of attention between projections of queries, keys and values, each head with scores of its own."""
    key = value if key is None else key
    grouped = type(layer).__name__ == "GroupedQueryAttention"
    if not grouped:
        query_mask = query.mask
        query.mask = value.mask = key.mask = None  # the layer takes them off, for the layers after it as well
    if query.rank != 3 or (not grouped and len(layer._attention_axes) != 1):
        raise UnsupportedError("attends over several axes; flatten them to one sequence first")
    known = _known(writer, layer, (query, value), (query_mask, value_mask, key_mask, attention_mask), use_causal_mask)
    fused = not (layer.dropout > 0 or return_attention_scores)
    heads = _heads(writer, layer, (query, key, value), grouped)
    result, shares = _attended(writer, layer, heads, _scores_kept(writer, known), fused)
    if getattr(layer, "_use_gate", getattr(layer, "use_gate", False)):
        result = writer.emit("Mul", result, _projected(writer, layer, "_gate_dense", query))
    shape = (*query.shape[:2], *_heads_of(layer))
    output = _called(writer, layer._output_dense, Tensor(result, shape, layer.compute_dtype))
    if not grouped and query_mask is not None:
        output.mask = query_mask
    return (output, shares) if return_attention_scores else output


def _heads_of(layer: Any) -> tuple[int, int]:
    if hasattr(layer, "head_dim"):
        return layer.num_query_heads, layer.head_dim
    return layer.num_heads, layer.value_dim


def _called(writer: Writer, inner: Any, value: Tensor) -> Tensor:
    from .graph import call

    return call(writer, inner, (value,), {})


def _projected(writer: Writer, layer: Any, name: str, value: Tensor) -> str:
    """[batch, length, heads, size]."""
    return _called(writer, getattr(layer, name), value).name


def _known(
    writer: Writer,
    layer: Any,
    ends: tuple[Tensor, Tensor],
    masks: Sequence[Tensor | None],
    use_causal_mask: bool,
) -> list[Operand]:
    """Every mask as [batch or 1, 1, queries, keys]."""
    query_mask, value_mask, key_mask, given = masks
    sides = ((query_mask, (1, 3)), (value_mask, (1, 2)), (key_mask, (1, 2)))
    found: list[Operand] = [
        writer.emit("Unsqueeze", writer.cast(each, "bool"), writer.integers(*axes)) for each, axes in sides if each
    ]
    if use_causal_mask:
        found.append(writer.emit("Unsqueeze", causal(writer, *ends), writer.integers(0, 1)))
    width = getattr(layer, "_sliding_window", getattr(layer, "sliding_window", None))
    if width:
        found.append(writer.emit("Unsqueeze", window(writer, *ends, width), writer.integers(0, 1)))
    if given is not None:
        own = writer.cast(given, "bool")
        found.append(own if given.rank == 4 else writer.emit("Unsqueeze", own, writer.integers(1)))
    return found


def _heads(writer: Writer, layer: Any, operands: Sequence[Tensor], grouped: bool) -> list[str]:
    """Queries, keys and values, [batch, heads, length, size]."""
    names = ("_query_dense", "_key_dense", "_value_dense")
    found = [_projected(writer, layer, name, value) for name, value in zip(names, operands, strict=True)]
    if grouped and layer.num_repeats > 1:
        found[1:] = [_repeated(writer, layer, each) for each in found[1:]]
    return [str(writer.transpose(each, (0, 2, 1, 3))) for each in found]


def _repeated(writer: Writer, layer: Any, value: str) -> str:
    """Every head of keys or values for each of the queries that share it."""
    wide = writer.emit("Unsqueeze", value, writer.integers(3))
    tiled = writer.emit("Tile", wide, writer.integers(1, 1, 1, layer.num_repeats, 1))
    return writer.reshape(tiled, 0, 0, layer.num_query_heads, layer.head_dim)


def _attended(writer: Writer, layer: Any, heads: Sequence[str], kept: Operand | None, fused: bool) -> tuple[str, str]:
    """The mean of the values [batch, queries, heads, size], and the shares of each.

    Where nothing is left to look at, Keras' fused attention looks at everything alike, its plain one at nothing.
    """
    query, key, value = heads
    scale = layer._inverse_sqrt_head_dim if hasattr(layer, "head_dim") else layer._inverse_sqrt_key_dim
    scaled = writer.emit("Mul", query, writer.constant(np.array(scale, layer.compute_dtype)))
    scores = writer.emit("MatMul", scaled, writer.transpose(key, (0, 1, 3, 2)))
    if kept is not None:
        low = writer.constant(np.array(_FUSED if fused else -1e9, layer.compute_dtype))
        scores = writer.emit("Where", kept, scores, low)
    shares = writer.emit("Softmax", scores, axis=-1)
    if kept is not None and not fused:
        shares = writer.emit("Where", kept, shares, writer.constant(np.array(0, layer.compute_dtype)))
    result = writer.transpose(writer.emit("MatMul", shares, value), (0, 2, 1, 3))
    return str(result), shares
