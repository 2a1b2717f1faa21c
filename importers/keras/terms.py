"""Formulas over values, written as they are read: `x * x + 1` adds the nodes that compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .tensor import Operand, Tensor, as_array
from .writer import Writer

Number = int | float | bool


@dataclass(frozen=True, eq=False)
class Term:
    """A value in a formula.

    Attributes:
        writer: The graph.
        name: The value, or its ONNX name.
        dtype: Its type; numbers beside it are constants of that type.
    """

    writer: Writer
    name: Operand
    dtype: str

    def node(self, op_type: str, *others: Term | Number | str | None, dtype: str = "", **attributes: Any) -> Term:
        """What an operator makes of it and of others; `dtype` where its type is another one."""
        operands = [self._operand(other) for other in others]
        return Term(self.writer, self.writer.emit(op_type, self.name, *operands, **attributes), dtype or self.dtype)

    def _operand(self, other: Term | Number | str | None) -> Operand | None:
        if isinstance(other, Term):
            return other.name
        return other if other is None or isinstance(other, str) else self.writer.constant(other, self.dtype)

    def number(self, value: Any) -> Term:
        """A constant of its type."""
        return Term(self.writer, self.writer.constant(value, self.dtype), self.dtype)

    def reduced(self, op_type: str, axes: Sequence[int], keepdims: bool = False) -> Term:
        """A reduction over axes."""
        return self.node(op_type, self.writer.integers(*axes), keepdims=int(keepdims)) if axes else self

    def sliced(self, axis: int, start: int, end: int | None, step: int = 1) -> Term:
        """Part of it along an axis."""
        return replace(self, name=self.writer.slice(self.name, axis, start, end, step))

    def unsqueezed(self, *axes: int) -> Term:
        """New axes of size 1."""
        return self.node("Unsqueeze", self.writer.integers(*axes)) if axes else self

    def squeezed(self, *axes: int) -> Term:
        """Without axes of size 1."""
        return self.node("Squeeze", self.writer.integers(*axes)) if axes else self

    def transposed(self, perm: Sequence[int]) -> Term:
        """Axes in another order."""
        return replace(self, name=self.writer.transpose(self.name, perm))

    def reshaped(self, *sizes: int | str) -> Term:
        """Another shape."""
        return replace(self, name=self.writer.reshape(self.name, *sizes))

    def cast(self, dtype: str) -> Term:
        """The value in another type."""
        return self if dtype == self.dtype else replace(self, name=self.writer.recast(self.name, dtype), dtype=dtype)

    def gathered(self, places: Any, axis: int) -> Term:
        """Entries along an axis at known places."""
        return self.node("Gather", self.writer.constant(np.asarray(places, np.int64)), axis=axis)

    def where(self, holds: Term, otherwise: Term | Number) -> Term:
        """It where a condition holds, something else where not."""
        return replace(self, name=self.writer.emit("Where", holds.name, self.name, self._operand(otherwise)))

    def expanded(self, like: Term) -> Term:
        """Copies along axes, in the shape of another value."""
        return self.node("Expand", self.writer.size(like.name, 0))

    def __add__(self, other: Term | Number) -> Term:
        return self.node("Add", other)

    def __sub__(self, other: Term | Number) -> Term:
        return self.node("Sub", other)

    def __rsub__(self, other: Number) -> Term:
        return self.number(other) - self

    def __mul__(self, other: Term | Number) -> Term:
        return self.node("Mul", other)

    def __truediv__(self, other: Term | Number) -> Term:
        return self.node("Div", other)

    def __rtruediv__(self, other: Number) -> Term:
        return self.number(other) / self

    def __neg__(self) -> Term:
        return self.node("Neg")

    def __abs__(self) -> Term:
        return self.node("Abs")

    def __lt__(self, other: Term | Number) -> Term:
        return self.node("Less", other, dtype="bool")

    def __le__(self, other: Term | Number) -> Term:
        return self.node("LessOrEqual", other, dtype="bool")

    def __gt__(self, other: Term | Number) -> Term:
        return self.node("Greater", other, dtype="bool")

    def __ge__(self, other: Term | Number) -> Term:
        return self.node("GreaterOrEqual", other, dtype="bool")

    def equals(self, other: Term | Number) -> Term:
        """Whether entries are equal."""
        return self.node("Equal", other, dtype="bool")

    def __and__(self, other: Term) -> Term:
        return self.node("And", other)

    def __or__(self, other: Term) -> Term:
        return self.node("Or", other)

    def __invert__(self) -> Term:
        return self.node("Not")


def term(writer: Writer, value: Any, dtype: str | None = None) -> Term:
    """A tensor, number or array in a formula, cast to a type where one is given."""
    if isinstance(value, Term):
        return value if dtype is None else value.cast(dtype)
    if isinstance(value, Tensor):
        return Term(writer, value, value.dtype).cast(dtype or value.dtype)
    array = as_array(value)
    array = array if dtype is None else array.astype(dtype)
    return Term(writer, writer.constant(array), array.dtype.name)


def is_float(dtype: str) -> bool:
    """Whether numbers of this type are real."""
    return dtype.startswith(("float", "bfloat"))


def as_float(writer: Writer, value: Any) -> Term:
    """A value in a formula of real numbers; integers become the floats that Keras makes of them."""
    found = term(writer, value)
    return found if is_float(found.dtype) else found.cast("float64" if found.dtype == "int64" else "float32")


def common(writer: Writer, *values: Any, real: bool = False) -> list[Term]:
    """Values in the type that Keras computes with; numbers take that of the tensors."""
    types = [value.dtype for value in values if isinstance(value, Tensor | Term)]
    arrays = [as_array(value) for value in values if not isinstance(value, Tensor | Term)]
    types += [str(array.dtype) for array in arrays if array.ndim]
    kinds = [array.dtype.kind for array in arrays if not array.ndim]
    dtype = _joined(types) if types else "int32"
    if real or "f" in kinds:
        dtype = dtype if is_float(dtype) else "float32"
    return [term(writer, value, dtype) for value in values]


def _joined(types: Sequence[str]) -> str:
    import importlib

    unique = sorted(set(types))
    return unique[0] if len(unique) == 1 else importlib.import_module("keras").backend.result_type(*unique)
