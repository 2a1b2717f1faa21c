"""Facts about values that follow from the graph alone: saturation ranges, signs, gates, and what may not be finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.ops import MOVE, OPS, PRODUCT, SELECT
from backtrace_jax.rules import ACTIVATIONS, SHARES

Range: TypeAlias = tuple[Any, Any]
"""Bounds (l, u): numbers, or arrays of them that broadcast against a value."""

SATURATION: dict[str, Range] = {
    "tanh": (-2.0, 2.0),
    "sigmoid": (-4.0, 4.0),
    "softmax": (-1.0, 2.0),
    "silu": (-6.0, math.inf),
}
"""Outside (l, u) the activation no longer answers to evidence on that side (RULES 1.1)."""

_NOWHERE = [[-math.inf], [math.inf]]  # bounds, one above the other, that close nothing
_NEVER_NEGATIVE = {"abs", "exp", "relu", "sigmoid", "softmax", "softplus", "sqrt"}
_SIGN_KEEPING = {"avg_pool", "reduce_sum", "reduce_mean", "interpolate", "sample", "add", "cast"}


def saturation(graph: Graph) -> dict[str, Range]:
    """Saturation range of every value that one saturating activation alone consumes, by the value's name.

    Where a value is read in parts, each by another activation, the bounds are arrays that broadcast against it.
    """
    readers, outputs = graph.consumers(), {var.name for var in graph.outputs}
    found: dict[str, Range] = {}
    for var in reversed([var for eqn in graph.eqns for var in eqn.outvars if var.is_float]):
        reading = readers[var.name] if var.name not in outputs else []
        if len(reading) == 1:
            limits = _limits(reading[0], var, found)
        else:
            limits = _in_parts(reading, var, found) if reading and all(e.op == "slice" for e in reading) else None
        if limits:
            found[var.name] = limits
    return found


def _limits(reader: Eqn, var: Var, found: dict[str, Range]) -> Range | None:
    if reader.op == "slice":
        return _in_parts([reader], var, found)
    given = found.get(reader.outvars[0].name) if reader.op in _REARRANGING else SATURATION.get(reader.op)
    if given is None or all(np.ndim(bound) == 0 for bound in given):
        return given
    low, high = (_REARRANGING[reader.op](reader, var, np.asarray(bound)) for bound in given)
    return None if low is None or high is None else (low, high)


def _in_parts(slices: Sequence[Eqn], var: Var, found: dict[str, Range]) -> Range | None:
    """Bounds along the one axis that a value is cut along; a part that two read, or none, has none."""
    cut = {axis for eqn in slices for axis, size in enumerate(eqn.outvars[0].shape) if size != var.shape[axis]}
    if len(cut) != 1:
        return None
    axis = cut.pop()
    bounds, count = np.full((2, var.shape[axis]), _NOWHERE, var.dtype), np.zeros(var.shape[axis])
    for eqn in slices:
        part = slice(*(eqn.params[name][axis] for name in ("start", "limit", "stride")))
        count[part] += 1
        for bound, given in zip(bounds, found.get(eqn.outvars[0].name, (-math.inf, math.inf)), strict=True):
            if np.ndim(given):
                return None
            bound[part] = given
    bounds[:, count > 1] = _NOWHERE
    low, high = bounds.reshape(2, *(-1 if each == axis else 1 for each in range(len(var.shape))))
    return (low, high) if np.isfinite(bounds).any() else None


def _before_transpose(eqn: Eqn, var: Var, bound: np.ndarray) -> np.ndarray:
    return bound.transpose(np.argsort(eqn.params["perm"]))


def _before_reshape(eqn: Eqn, var: Var, bound: np.ndarray) -> np.ndarray | None:
    """Only where nothing but axes of size 1 has come or gone: a bound never takes the size of the value."""
    sizes = eqn.outvars[0].shape
    if [size for size in sizes if size != 1] != [size for size in var.shape if size != 1]:
        return None
    lengths = iter([length for size, length in zip(sizes, bound.shape, strict=True) if size != 1])
    return bound.reshape([1 if size == 1 else next(lengths) for size in var.shape])


_REARRANGING: dict[str, Callable[[Eqn, Var, np.ndarray], np.ndarray | None]] = {
    "reshape": _before_reshape,
    "transpose": _before_transpose,
    "turn": _before_transpose,
    "cast": lambda eqn, var, bound: bound.astype(var.dtype),
    "concat": lambda eqn, var, bound: None,
}
"""Moves after which every entry is there once and unchanged, so that the activation behind still consumes z alone; and
what bounds that are arrays are before them, None where that is not followed."""


def nonnegative_values(graph: Graph) -> frozenset[str]:
    """Names of the values that can be seen never to be negative."""
    found: set[str] = set()
    for eqn in graph.eqns:
        if eqn.op in _NEVER_NEGATIVE or _clipped_at_zero(eqn) or (_keeps_sign(eqn) and _all_found(eqn, found)):
            found.update(var.name for var in eqn.outvars)
    return frozenset(found)


def _clipped_at_zero(eqn: Eqn) -> bool:
    if eqn.op != "clip" or eqn.params["low"] is None:
        return False
    return min(eqn.params["low"], math.inf if eqn.params["high"] is None else eqn.params["high"]) >= 0


def _keeps_sign(eqn: Eqn) -> bool:
    if eqn.params.get("signed"):
        return False
    return eqn.op in _SIGN_KEEPING or OPS[eqn.op].kind in (MOVE, SELECT)


def _all_found(eqn: Eqn, found: set[str]) -> bool:
    return all(var.name in found for i, var in enumerate(eqn.invars) if OPS[eqn.op].carries(i))


def gates(graph: Graph, carrying: Collection[str]) -> dict[str, str]:
    """Values that may gate another one, however moved, scaled or shifted; with the function that made them.

    Shares of a signal, such as the weights of a softmax or one minus a sigmoid, stay gates when they are added up,
    averaged, renormalised by their sum, or when the largest of them is chosen. What else takes part (the 0 that
    replaces NaN, the 1 of one-minus, the choice of experts) bears no relevance: a signal let through by a gate is not a
    gate.

    Args:
        graph: The graph.
        carrying: Names of the values that bear relevance.
    """
    found: dict[str, str] = {}
    for eqn in graph.eqns:
        carried = [var.name for i, var in enumerate(eqn.invars) if OPS[eqn.op].carries(i) and var.name in carrying]
        if eqn.op in (*SHARES, *ACTIVATIONS):
            found[eqn.outvars[0].name] = eqn.op
        elif carried and all(name in found for name in carried) and _hands_on(eqn, carried, found):
            found[eqn.outvars[0].name] = found[carried[0]]
    return found


def _hands_on(eqn: Eqn, carried: list[str], found: dict[str, str]) -> bool:
    kind, alone = OPS[eqn.op].kind, len(set(carried)) == 1
    if (kind == SELECT or eqn.op in _RENORMALISING) and all(found[name] in SHARES for name in carried):
        return True
    return (kind == MOVE and _alike(carried, found)) or (alone and eqn.op in _SCALING)


def _alike(carried: list[str], found: dict[str, str]) -> bool:
    """Whether all are shares, or all activations."""
    return len({found[name] in SHARES for name in carried}) == 1


_SCALING = ("cast", "quantize", "dequantize", "sub", "mul", "div")
_RENORMALISING = ("reduce_sum", "reduce_mean", "add", "clip", "div")


def gate_position(eqn: Eqn, found: dict[str, str]) -> int | None:
    """Which factor of a product gates the other one; None where neither or both do.

    Shares gate entries or, as attention weights, mix them; an activation gates entries, unless the other factor is a
    share, whose signal it then is.
    """
    if OPS[eqn.op].kind != PRODUCT:
        return None
    for functions, ops in ((SHARES, None), (ACTIVATIONS, ("mul",))):
        positions = [i for i, var in enumerate(eqn.invars[:2]) if found.get(var.name) in functions]
        if positions and ops in (None, (eqn.op,)):
            return positions[0] if len(positions) == 1 else None
    return None


_BREAKING = {"acos", "acosh", "asin", "atanh", "cosh", "div", "exp", "log", "pow", "probit", "reciprocal", "rsqrt"}
_BREAKING |= {"digamma", "erf_inv", "lgamma", "sinh", "sqrt", "tan"}
"""Operations that make NaN or Inf of ordinary numbers."""
_PICKING = {"gather", "gather_elements", "gather_nd", "pad", "slice", "where"}
_BOUNDED = {"clip", "div", "exp", "hard_sigmoid", "reciprocal", "relu", "rsqrt", "sigmoid", "softmax", "tanh"}
"""Operations that may be finite where an operand is not."""


def hidden_breaks(graph: Graph) -> frozenset[str]:
    """Names of the values that may hold NaN or Inf in entries that the answer does not depend on.

    Such are a logarithm that a condition discards where there is none, or the rows of a quotient that are not read:
    made by an operation that breaks, and followed by one that picks or bounds.
    """
    unsound = _unsound(graph)
    hidden: set[str] = set()
    for eqn in reversed(graph.eqns):
        picks = eqn.op in _PICKING or eqn.op in _BOUNDED or OPS[eqn.op].kind == SELECT
        if picks or any(var.name in hidden for var in eqn.outvars):
            hidden.update(var.name for var in eqn.invars if var.name in unsound)
    return frozenset(hidden)


def _unsound(graph: Graph) -> set[str]:
    """Floats that may not be finite; a condition that looks for NaN mends its operand."""
    readers, params = graph.consumers(), {var.name for var in graph.params}
    tests = {eqn.outvars[0].name: eqn.invars[0].name for eqn in graph.eqns if eqn.op == "is_nan"}
    found: set[str] = set()
    for eqn in graph.eqns:
        mended = tests.get(eqn.invars[0].name) if eqn.op == "where" else None
        masked = eqn.op == "softmax" and any(each.op == "is_nan" for each in readers[eqn.outvars[0].name])
        breaks = eqn.op in _BREAKING and not (eqn.op == "div" and eqn.invars[1].name in params)
        if masked or breaks or any(var.name in found and var.name != mended for var in eqn.invars):
            found.update(var.name for var in eqn.outvars if var.is_float)
    return found
