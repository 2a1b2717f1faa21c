"""Operations of keras.ops that compare, count and choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import operation
from .tensor import Operand, Tensor
from .terms import common, term
from .writer import Writer


@operation("Isclose", "AllClose")
def close(writer: Writer, layer: Any, x1: Any, x2: Any, rtol: Any = None, atol: Any = None) -> Operand:
    """Whether values are equal up to tolerances; or whether all are."""
    if layer.equal_nan:
        raise UnsupportedError("counts NaN as equal (equal_nan); compare without it")
    rtol = layer.rtol if rtol is None else rtol
    atol = layer.atol if atol is None else atol
    x, y = common(writer, x1, x2, real=True)
    found = abs(x - y) <= abs(y) * float(rtol) + float(atol)
    if type(layer).__name__ == "Isclose":
        return found.name
    flat = found.cast("int32").reshaped(-1)
    return flat.reduced("ReduceMin", [0]).cast("bool").name


@operation("IsIn")
def is_in(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """Whether each entry is among others."""
    x, y = common(writer, x1, x2)
    found = x.unsqueezed(-1).equals(y.reshaped(-1)).cast("int32").reduced("ReduceMax", [-1]).cast("bool")
    return (~found if layer.invert else found).name


@operation("Digitize")
def digitize(writer: Writer, layer: Any, x: Any, bins: Any) -> Operand:
    """How many bounds each entry reaches."""
    value, bounds = common(writer, x, np.asarray(bins))
    return (value.unsqueezed(-1) >= bounds).cast("int32").reduced("ReduceSum", [-1]).name


@operation("SearchSorted")
def search_sorted(writer: Writer, layer: Any, sorted_sequence: Any, values: Any) -> Operand:
    """How many entries of an ascending sequence come before each value."""
    sequence, value = common(writer, sorted_sequence, values)
    wide = value.unsqueezed(-1)
    found = sequence < wide if layer.side == "left" else sequence <= wide
    return found.cast("int32").reduced("ReduceSum", [-1]).name


@operation("Select")
def select(writer: Writer, layer: Any, condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Operand:
    """The choice of the first condition that holds."""
    *choices, result = common(writer, *choicelist, default)
    for condition, choice in reversed(list(zip(condlist, choices, strict=True))):
        result = choice.where(term(writer, condition, "bool"), result)
    return result.name


@operation("Threshold")
def threshold(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """What is above a threshold, a number elsewhere."""
    value = term(writer, x)
    return value.where(value > float(layer.threshold), float(layer.default_value)).name


@operation("UnravelIndex")
def unravel_index(writer: Writer, layer: Any, indices: Tensor) -> list[Operand]:
    """Positions along every axis from positions in a row."""
    value, results = term(writer, indices), []
    for size in reversed(layer.shape):
        results.append(value.node("Mod", int(size)).name)
        value = (value - value.node("Mod", int(size))) / int(size)
    return results[::-1]


@operation("InTopK")
def in_top_k(writer: Writer, layer: Any, targets: Any, predictions: Any) -> Operand:
    """Whether fewer than k classes score above the target."""
    scores = term(writer, predictions)
    places = term(writer, targets, "int64").unsqueezed(-1)
    own = scores.node("GatherElements", places, axis=1)
    above = (scores > own).cast("int32").reduced("ReduceSum", [-1])
    return (above < int(layer.k)).name
