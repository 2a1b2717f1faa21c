"""Layers that bring several values together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .registry import layer, mask
from .tensor import Operand, Tensor
from .writer import Writer

_LETTERS = "bcdefghijklmnopqrstuvwxyz"
_MERGES = {"Add": "Add", "Average": "Add", "Maximum": "Max", "Minimum": "Min", "Multiply": "Mul", "Subtract": "Sub"}


def aligned(writer: Writer, inputs: Sequence[Tensor]) -> list[Operand]:
    """Values of one rank: Keras lets a smaller one have the batch and its own axes, the others in between."""
    rank = max(value.rank for value in inputs)
    return [_raised(writer, value, rank) for value in inputs]


def _raised(writer: Writer, value: Tensor, rank: int) -> Operand:
    missing = rank - value.rank
    return value if not missing else writer.emit("Unsqueeze", value, writer.integers(*range(1, 1 + missing)))


def _folded(writer: Writer, op_type: str, values: Sequence[Operand]) -> Operand:
    total = values[0]
    for value in values[1:]:
        total = writer.emit(op_type, total, value)
    return total


@layer("Add", "Subtract")
def merge(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> Operand:
    """One operation from the first to the last."""
    return _folded(writer, _MERGES[type(layer).__name__], aligned(writer, inputs))


@layer("Average")
def average(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> str:
    """The mean of all."""
    return writer.emit("Div", merge_sum(writer, inputs), writer.number(len(inputs), inputs[0]))


def merge_sum(writer: Writer, inputs: Sequence[Tensor]) -> Operand:
    """The sum of all."""
    return _folded(writer, "Add", aligned(writer, inputs))


@layer("Multiply")
def multiply(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> Any:
    """The product; what is masked counts as one, and is zero where all are masked."""
    masks = [_wide(writer, value) for value in inputs]
    values = aligned(writer, inputs)
    one = writer.number(1, inputs[0])
    kept = [writer.emit("Where", m, v, one) if m else v for m, v in zip(masks, values, strict=True)]
    result = _folded(writer, "Mul", kept)
    if not all(masks):
        return result
    some = _folded(writer, "Or", [each for each in masks if each])
    zeroed = writer.emit("Where", some, result, writer.number(0, inputs[0]))
    return [Tensor(zeroed, inputs[0].shape, inputs[0].dtype, _narrow(writer, some, inputs[0]))]


@layer("Maximum", "Minimum")
def extreme(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> Any:
    """The largest or smallest of those that are not masked."""
    values = aligned(writer, inputs)
    result, known = values[0], _wide(writer, inputs[0])
    for value, tensor in zip(values[1:], inputs[1:], strict=True):
        own = _wide(writer, tensor)
        value = writer.emit("Where", own, value, result) if own else value
        result = writer.emit("Where", known, result, value) if known else result
        known = writer.emit("Or", known, own) if own and known else None
        result = writer.emit(_MERGES[type(layer).__name__], result, value)
    if known is None:
        return result
    return [Tensor(str(result), inputs[0].shape, inputs[0].dtype, _narrow(writer, known, inputs[0]))]


def _wide(writer: Writer, value: Tensor) -> str | None:
    """The mask of a value with an axis for its features."""
    return writer.emit("Unsqueeze", value.mask, writer.integers(-1)) if value.mask else None


def _narrow(writer: Writer, wide: Operand, like: Tensor) -> Tensor:
    return Tensor(writer.emit("Squeeze", wide, writer.integers(-1)), like.shape[:-1], "bool")


@mask("Add", "Average", "Subtract", "Multiply", "Maximum", "Minimum")
def merged_mask(writer: Writer, layer: Any, inputs: Any, previous: Any) -> Tensor | None:
    """A step counts where it counts in any of them; masked if all of them are."""
    if not isinstance(previous, list | tuple) or any(each is None for each in previous):
        return None
    return Tensor(str(_named(_folded(writer, "Or", list(previous)))), previous[0].shape, "bool")


def _named(value: Operand) -> str:
    return value if isinstance(value, str) else value.name


@layer("Concatenate")
def concatenate(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> str:
    """One after the other along an axis."""
    return writer.emit("Concat", *inputs, axis=layer.axis)


@mask("Concatenate")
def concatenated_mask(writer: Writer, layer: Any, inputs: Sequence[Tensor], previous: Any) -> Tensor | None:
    """A step counts where all features of the result come from steps that count."""
    if not isinstance(previous, list | tuple) or all(each is None for each in previous):
        return None
    shapes = [writer.size(value, 0) for value in inputs]
    masks = [_as_wide_as(writer, *each) for each in zip(inputs, previous, shapes, strict=True)]
    joined = writer.emit("Concat", *masks, axis=layer.axis)
    every = writer.emit("ReduceMin", writer.recast(joined, "int32"), writer.integers(-1), keepdims=0)
    return Tensor(writer.recast(every, "bool"), (None,) * (inputs[0].rank - 1), "bool")


def _as_wide_as(writer: Writer, value: Tensor, known: Tensor | None, shape: str) -> str:
    """A mask for every entry of a value."""
    if known is None:
        return writer.emit("Expand", writer.constant(np.array(True)), shape)
    if known.rank < value.rank:
        return writer.emit("Expand", writer.emit("Unsqueeze", known, writer.integers(-1)), shape)
    return known.name


@layer("Dot")
def dot(writer: Writer, layer: Any, inputs: Sequence[Tensor]) -> str:
    """Sum over one axis of each."""
    given = layer.axes if isinstance(layer.axes, list | tuple) else (layer.axes,) * 2
    summed = [axis % value.rank for axis, value in zip(given, inputs, strict=True)]
    values: list[Operand] = list(inputs)
    if layer.normalize:
        values = [normalised(writer, value, axis) for value, axis in zip(inputs, summed, strict=True)]
    letters = iter(_LETTERS)
    terms = ["a" + "".join("z" if axis == at else next(letters) for axis in range(1, value.rank))
             for value, at in zip(inputs, summed, strict=True)]  # fmt: skip
    result = terms[0].replace("z", "") + terms[1][1:].replace("z", "")
    product = writer.emit("Einsum", *values, equation=f"{terms[0]},{terms[1]}->{result}")
    return writer.emit("Unsqueeze", product, writer.integers(1)) if result == "a" else product


@mask("Dot")
def no_mask(writer: Writer, layer: Any, inputs: Any, previous: Any) -> None:
    """Time is gone."""


def normalised(writer: Writer, value: Tensor, axis: Any, epsilon: float = 1e-7) -> str:
    """The value divided by its Euclidean norm along an axis."""
    places = writer.integers(*([axis] if isinstance(axis, int) else axis))
    total = writer.emit("ReduceSum", writer.emit("Mul", value, value), places, keepdims=1)
    norm = writer.emit("Sqrt", writer.emit("Max", total, writer.number(epsilon**2, value)))
    return writer.emit("Div", value, norm)
