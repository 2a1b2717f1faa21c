"""Which axis of a value holds its channels, or its classes: read from what makes the value, followed through moves.

A convolution makes channels, a dense layer units along the last axis, a softmax classes. Importers and passes put
transpositions and reshapes around them, so that neither the rank nor the framework tells; the graph does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from operator import mul

from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.ops import CONTROL, MOVE, NONE, OPS, POINTWISE, PRODUCT, SOFTMAX

_CONVOLUTIONS = ("conv", "conv_transpose")
_JOINING = ("concat", "slice", "pad")
"""Operations behind which channels are still channels, more of them or fewer."""
_MONOTONE = ("log", "exp", "cast", "quantize", "dequantize", "clip")
"""Pointwise functions that leave the order of classes as it is."""

Axes = Mapping[str, int]
"""Axis by the name of a value; values without one, or of which it cannot be told, are left out."""


def channel_axes(graph: Graph) -> Axes:
    """The axis of the channels, units or features of every computed value that has one."""
    found: dict[str, int] = {}
    params = {var.name for var in graph.params}
    for eqn in graph.eqns:
        for result in eqn.outvars:
            axis = _made(eqn, result, params, found)
            axis = _handed_on(eqn, result, found, resized=_JOINING) if axis is None else axis
            if axis is not None or len(result.shape) == 2:  # one example of a row of features
                found[result.name] = 1 if axis is None else axis
    return found


def input_channel_axes(graph: Graph) -> Axes:
    """The axis of the channels of every input that has one: a convolution or dense layer sums along it.

    From there it is followed back to the inputs, through moves and pointwise functions.
    """
    params, found = {var.name for var in graph.params}, dict[str, int]()
    for eqn in reversed(graph.eqns):
        if eqn.op in _CONVOLUTIONS:
            found[eqn.invars[0].name] = len(eqn.invars[0].shape) - 1 if eqn.params.get("channels_last") else 1
        elif eqn.op == "matmul" and eqn.invars[1].name in params:
            found[eqn.invars[0].name] = len(eqn.invars[0].shape) - 1
        elif _moves(eqn) and eqn.outvars[0].name in found:
            axis = found[eqn.outvars[0].name]
            for var in eqn.invars:
                places = [i for i in range(len(var.shape)) if moved(eqn, var, eqn.outvars[0], i) == axis]
                if places:
                    found.setdefault(var.name, places[0])
    return {var.name: found[var.name] for var in graph.inputs if found.get(var.name, 0) and len(var.shape) > 2}


def _moves(eqn: Eqn) -> bool:
    """Whether axes of the operands are axes of the result."""
    return len(eqn.outvars) == 1 and (OPS[eqn.op].kind in (MOVE, POINTWISE) or eqn.op in _BROADCASTING)


def class_axes(graph: Graph) -> Axes:
    """The axis over which a softmax, or its logarithm, was taken, of every value that holds its results."""
    found: dict[str, int] = {}
    for eqn in graph.eqns:
        result, kind = eqn.outvars[0], OPS[eqn.op].kind
        if kind == SOFTMAX:
            found[result.name] = eqn.params["axis"] % len(result.shape)
        elif kind == MOVE or eqn.op in _MONOTONE:
            axis = _handed_on(eqn, result, found)
            found |= {} if axis is None else {result.name: axis}
    return found


def _made(eqn: Eqn, result: Var, params: set[str], found: Axes) -> int | None:
    """The axis of the channels that an equation itself makes."""
    rank = len(result.shape)
    if eqn.op in _CONVOLUTIONS:
        return rank - 1 if eqn.params.get("channels_last") else 1
    if eqn.op == "matmul":
        weight = [var.name in params for var in eqn.invars[:2]]
        return rank - 1 if weight[1] else rank - 2 if weight[0] and rank > 1 else None
    if eqn.op == "einsum":
        return _of_einsum(eqn, params, found)
    if eqn.op == "gather" and eqn.invars[0].name in params and eqn.invars[1].name not in params:
        return rank - 1 if eqn.params["axis"] == 0 and len(eqn.invars[0].shape) == 2 else None
    return rank - 1 if OPS[eqn.op].kind == CONTROL and rank > 1 else None  # units of a recurrent layer


def _of_einsum(eqn: Eqn, params: set[str], found: Axes) -> int | None:
    """Channels that pass (a map along other axes, as resizing is), else the axis that the weights bring."""
    terms, result = eqn.params["equation"].split("->")
    names = terms.split(",")
    weights = [i for i, var in enumerate(eqn.invars[:2]) if var.name in params]
    if len(weights) != 1:
        return None
    values, given = eqn.invars[1 - weights[0]], names[1 - weights[0]]
    axis = found.get(values.name)
    if axis is not None and given[axis] in result and given[axis] not in names[weights[0]]:
        return result.index(given[axis])
    brought = [letter for letter in result if letter in names[weights[0]] and letter not in given]
    return result.index(brought[0]) if len(brought) == 1 else None


def _handed_on(eqn: Eqn, result: Var, found: Axes, resized: Collection[str] = ()) -> int | None:
    """Where the axis of the operands is in the result, when all that have one agree.

    Args:
        eqn: The equation.
        result: One of its results.
        found: Axes of its operands.
        resized: Operations that leave the axis where it is, though its size may change.
    """
    if OPS[eqn.op].kind == NONE or (OPS[eqn.op].kind == PRODUCT and eqn.op != "mul"):
        return None
    carried = [var for i, var in enumerate(eqn.invars) if OPS[eqn.op].carries(i) and var.name in found]
    axes = {found[v.name] if eqn.op in resized else moved(eqn, v, result, found[v.name]) for v in carried}
    return axes.pop() if len(axes) == 1 else None


def moved(eqn: Eqn, operand: Var, result: Var, axis: int) -> int | None:
    """Where an axis of an operand is in the result; None where it is lost or changes its size."""
    if eqn.op in ("transpose", "turn"):
        return tuple(eqn.params["perm"]).index(axis)
    if eqn.op == "reshape":
        return _reshaped(operand.shape, result.shape, axis)
    if eqn.op.startswith("reduce_") and not eqn.params["keepdims"]:
        return _without(axis, {each % len(operand.shape) for each in eqn.params["axes"]})
    place = axis + len(result.shape) - len(operand.shape) if eqn.op in _BROADCASTING else axis
    same = len(result.shape) > place >= 0 and result.shape[place] == operand.shape[axis]
    return place if same and (eqn.op in _BROADCASTING or len(result.shape) == len(operand.shape)) else None


_BROADCASTING = {name for name, op in OPS.items() if op.kind == POINTWISE}
_BROADCASTING |= {"add", "sub", "mul", "div", "where", "expand", "maximum", "minimum"}


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis of the same size in front of which as many entries lie; an axis of size 1 is nowhere in particular."""
    if before[axis] == 1:
        return axis if after[: axis + 1] == before[: axis + 1] else None
    ahead = [1, *accumulate(before, mul)][axis]
    places = [1, *accumulate(after, mul)]
    return next((i for i, size in enumerate(after) if places[i] == ahead and size == before[axis]), None)


def _without(axis: int, gone: set[int]) -> int | None:
    return None if axis in gone else axis - sum(each < axis for each in gone)
