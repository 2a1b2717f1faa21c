"""Sequences and optionals: bookkeeping of values while lowering; nothing of it reaches the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import ABSENT, Absent, Held, TensorSequence
from .axes import from_front
from .registry import operator


@operator("SequenceConstruct")
def sequence_construct(lowering: Lowering, *inputs: Held) -> TensorSequence:
    """A sequence of these values."""
    return TensorSequence(inputs)


@operator("SequenceEmpty")
def sequence_empty(lowering: Lowering, *, dtype: int = onnx.TensorProto.FLOAT) -> TensorSequence:
    """A sequence without entries."""
    return TensorSequence()


@operator("SequenceInsert")
def sequence_insert(
    lowering: Lowering, input_sequence: TensorSequence, tensor: Held, position: Value | None = None
) -> TensorSequence:
    """The sequence with one value more, at the end unless a position is given."""
    items = list(_items(input_sequence))
    at = len(items) if position is None else _position(lowering, position, len(items), last=len(items))
    items.insert(at, tensor)
    return TensorSequence(tuple(items))


@operator("SequenceErase")
def sequence_erase(lowering: Lowering, input_sequence: TensorSequence, position: Value | None = None) -> TensorSequence:
    """The sequence without one of its entries, the last unless a position is given."""
    items = list(_items(input_sequence))
    del items[_position(lowering, np.asarray(-1) if position is None else position, len(items))]
    return TensorSequence(tuple(items))


@operator("SequenceAt")
def sequence_at(lowering: Lowering, input_sequence: TensorSequence, position: Value) -> Held:
    """One entry of a sequence."""
    items = _items(input_sequence)
    return items[_position(lowering, position, len(items))]


@operator("SequenceLength")
def sequence_length(lowering: Lowering, input_sequence: TensorSequence) -> Value:
    """Number of entries."""
    return np.asarray(len(_items(input_sequence)), np.int64)


@operator("SplitToSequence")
def split_to_sequence(
    lowering: Lowering, input: Value, split: Value | None = None, *, axis: int = 0, keepdims: int = 1
) -> TensorSequence:
    """A tensor cut along an axis: into pieces of these sizes, of one size, or into single entries."""
    axis = from_front(axis, len(input.shape))
    pieces = tuple(_piece(lowering, input, axis, *ends) for ends in _cuts(lowering, split, input.shape[axis]))
    if split is None and not keepdims:
        pieces = tuple(lowering.reshape(x, x.shape[:axis] + x.shape[axis + 1 :]) for x in pieces)
    return TensorSequence(pieces)


def _cuts(lowering: Lowering, split: Value | None, size: int) -> list[tuple[int, int]]:
    """Where each piece begins and ends."""
    sizes = (1,) if split is None else lowering.integers(split, "the sizes of the pieces")
    if split is None or not split.shape:
        (step,) = sizes
        if step < 1:
            raise ModelError(f"pieces of size {step}")
        return [(start, min(start + step, size)) for start in range(0, size, step)]
    ends = np.cumsum(sizes).tolist()
    if min(sizes, default=0) < 0 or (ends and ends[-1] != size):
        raise ModelError(f"pieces of sizes {sizes} do not make up {size} entries")
    return list(zip([0, *ends], ends, strict=False))


def _piece(lowering: Lowering, x: Value, axis: int, start: int, limit: int) -> Value:
    lowering.limits.count(4)
    starts, limits = [0] * len(x.shape), list(x.shape)
    starts[axis], limits[axis] = start, limit
    return lowering.emit("slice", x, start=tuple(starts), limit=tuple(limits), stride=(1,) * len(limits))


@operator("ConcatFromSequence")
def concat_from_sequence(lowering: Lowering, input_sequence: TensorSequence, *, axis: int, new_axis: int = 0) -> Value:
    """The entries one after the other along an axis of theirs, or stacked along a new one."""
    items: list[Any] = list(_items(input_sequence))
    if not items:
        raise ModelError("an empty sequence has nothing to concatenate")
    rank = len(items[0].shape) + bool(new_axis)
    axis = from_front(axis, rank)
    if new_axis:
        items = [lowering.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in items]
    return lowering.concat(items, axis)


@operator("SequenceMap")
def sequence_map(
    lowering: Lowering, input_sequence: TensorSequence, *additional_inputs: Held, body: onnx.GraphProto
) -> tuple[TensorSequence, ...]:
    """A sub-graph applied to every entry of sequences; tensors are given to each call as they are."""
    count = len(_items(input_sequence))
    given = (input_sequence, *additional_inputs)
    operands = [x.items if isinstance(x, TensorSequence) else (x,) * count for x in given]
    if any(len(each) != count for each in operands):
        raise ModelError(f"sequences of different lengths: {[len(each) for each in operands]}")
    calls = [lowering.inline(body, entries) for entries in zip(*operands, strict=True)]
    return tuple(TensorSequence(tuple(call[i] for call in calls)) for i in range(len(body.output)))


@operator("Optional")
def optional(lowering: Lowering, input: Held | None = None, *, type: onnx.TypeProto | None = None) -> Held:
    """A value that may be absent."""
    return ABSENT if input is None else input


@operator("OptionalHasElement")
def optional_has_element(lowering: Lowering, input: Held | None = None) -> Value:
    """Whether there is a value."""
    return np.asarray(not (input is None or isinstance(input, Absent)))


@operator("OptionalGetElement")
def optional_get_element(lowering: Lowering, input: Held) -> Held:
    """The value, which must be there."""
    if isinstance(input, Absent):
        raise ModelError("the optional is absent; ask OptionalHasElement first")
    return input


def _items(sequence: Held) -> tuple[Held, ...]:
    if not isinstance(sequence, TensorSequence):
        raise ModelError("a sequence is expected, found a tensor")
    return sequence.items


def _position(lowering: Lowering, position: Value, count: int, last: int | None = None) -> int:
    """A position counted from the start; negative ones are given from the end."""
    (number,) = lowering.integers(position, "a position in a sequence")
    if not -count <= number <= (count - 1 if last is None else last):
        raise ModelError(f"position {number} is outside a sequence of {count} entries")
    return number + count if number < 0 else number
