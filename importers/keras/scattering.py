"""Operations of keras.ops that write entries to places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import operation
from .tensor import Operand, Tensor, as_array
from .terms import Term, common, term
from .writer import Writer

_WRITTEN = {"SegmentSum": ("add", 0.0), "SegmentProd": ("mul", 1.0), "SegmentMax": ("max", -np.inf),
            "SegmentMin": ("min", np.inf)}  # fmt: skip


@operation(*_WRITTEN)
def segments(writer: Writer, layer: Any, data: Any, segment_ids: Any) -> Operand:
    """Entries along the first axis, reduced by the segment that each is in."""
    if layer.num_segments is None:
        raise UnsupportedError("counts segments by the values of its ids; give num_segments")
    how, nothing = _WRITTEN[type(layer).__name__]
    value = term(writer, data)
    places = term(writer, segment_ids, "int64").unsqueezed(-1)
    rest = [writer.size(data, 1)] if len(data.shape) > 1 else []
    shape = writer.emit("Concat", writer.integers(int(layer.num_segments)), *rest, axis=0)
    blank = value.number(nothing).node("Expand", shape)
    return blank.node("ScatterND", places, value, reduction=how).name


@operation("Scatter")
def scatter(writer: Writer, layer: Any, indices: Any, values: Any) -> Operand:
    """Zeros with values added at places."""
    value = term(writer, values)
    blank = value.number(0).node("Expand", writer.integers(*map(int, layer.shape)))
    return blank.node("ScatterND", term(writer, indices, "int64"), value, reduction="add").name


@operation("ScatterUpdate")
def scatter_update(writer: Writer, layer: Any, inputs: Any, indices: Any, updates: Any) -> Operand:
    """A value with others written to places, or added, multiplied, compared there."""
    value, written = common(writer, inputs, updates)
    how = layer.reduction or "none"
    return value.node("ScatterND", term(writer, indices, "int64"), written, reduction=how).name


@operation("SliceUpdate")
def slice_update(writer: Writer, layer: Any, inputs: Tensor, start_indices: Any, updates: Any) -> Operand:
    """A value with another one in place of a part."""
    if isinstance(start_indices, Tensor):
        raise UnsupportedError("writes to a place that the model computes; give it as numbers")
    value, written = common(writer, inputs, updates)
    cuts = []
    for axis, (size, part, start) in enumerate(zip(inputs.shape, updates.shape, as_array(start_indices), strict=True)):
        if part == size:
            continue
        if part is None or size is None:
            raise UnsupportedError(f"writes along axis {axis}, which has no fixed size; fix it")
        first = min(max(int(start), 0), size - part)
        cuts.append((axis, first, first + part, size))
    return _replaced(value, written, cuts).name


def _replaced(value: Term, written: Term, cuts: Sequence[tuple[int, int, int, int]]) -> Term:
    """What is written in place of a part of a value, cut out axis by axis: (axis, start, end, size)."""
    if not cuts:
        return written
    (axis, start, end, size), *others = cuts
    inner = _replaced(value.sliced(axis, start, end), written, others)
    pieces = [value.sliced(axis, 0, start)] * (start > 0) + [inner] + [value.sliced(axis, end, None)] * (end < size)
    return pieces[0].node("Concat", *pieces[1:], axis=axis)
