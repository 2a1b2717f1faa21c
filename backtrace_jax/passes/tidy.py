"""Takes out what only a file's spelling puts in: moves that cancel, products with one, copies that broadcasting makes.

What is computed twice is computed once, so that relevance meets again where it parted (RULES section 13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var
from backtrace_jax.ops import CONTROL, NONE, OPS, QUOTIENT, SUM

from .rewriting import Replacement, Rewriting, rewritten

_BROADCASTING = {name for name, op in OPS.items() if op.kind in (SUM, QUOTIENT)} | {"mul", "maximum", "minimum"}
_SETTLED = {name for name, op in OPS.items() if op.kind not in (CONTROL, NONE) and not op.many}
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1, "maximum": -np.inf, "minimum": np.inf}
_MANY = 16  # operands of a concatenation before it is looked at whether they repeat
_SHORT = 1 << 16  # bytes of arrays that are compared by their numbers


def tidy(program: Program) -> Program:
    """The program without what only its spelling puts in."""
    return merge_alike(rewritten(program, _step))


def merge_alike(program: Program) -> Program:
    """Equations that compute the same are one; of the names the first stays.

    What two modules, or two calls of one, compute stays apart, since users ask for each of them by its name.
    """
    known: dict[Any, Var] = {}

    def step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
        if eqn.op not in _SETTLED or rewriting.program is not program:
            return None
        operands = tuple(_identity(rewriting, var) for var in eqn.invars)
        key = (eqn.op, operands, tuple(sorted(eqn.params.items())), eqn.source.module, eqn.source.calls)
        found = known.setdefault(key, eqn.outvars[0])
        return None if found == eqn.outvars[0] else found

    return rewritten(program, step)


def _identity(rewriting: Rewriting, var: Var) -> Any:
    """What two values have in common that are the same: their name, or the numbers of short arrays."""
    array = rewriting.weights.get(var.name)
    short = array is not None and array.nbytes <= _SHORT
    return (var.shape, var.dtype.name, array.tobytes()) if array is not None and short else var.name


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op in _BROADCASTING:
        return _neutral(rewriting, eqn) or _without_copies(rewriting, eqn)
    rule = _RULES.get(eqn.op)
    return rule(rewriting, eqn) if rule else None


def _reshaped(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A reshape of a reshape is one."""
    before = rewriting.before(eqn, eqn.invars[0])
    value = before.invars[0] if before is not None and before.op == "reshape" else eqn.invars[0]
    if value.shape == eqn.outvars[0].shape:
        return value
    return (rewriting.equation(eqn, "reshape", value, shape=tuple(eqn.outvars[0].shape)),)


def _transposed(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A transposition of a transposition is one; one that moves axes of size 1 only is a reshape."""
    before, perm = rewriting.before(eqn, eqn.invars[0]), tuple(eqn.params["perm"])
    value = eqn.invars[0]
    if before is not None and before.op == "transpose":
        value, perm = before.invars[0], tuple(before.params["perm"][axis] for axis in perm)
    if perm == tuple(range(len(perm))):
        return value
    moved = [axis for axis in perm if value.shape[axis] != 1]
    if moved == sorted(moved):
        return _reshaped(rewriting, rewriting.equation(eqn, "reshape", value, shape=tuple(eqn.outvars[0].shape)))
    return (rewriting.equation(eqn, "transpose", value, perm=perm),)


def _cast(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A cast to a value's own type, or back to it from a wider one; one that rounds on the way stays."""
    value, result = eqn.invars[0], eqn.outvars[0]
    before = rewriting.before(eqn, value)
    if any(each is not None and each.params.get("rounded") for each in (eqn, before)):
        return None
    if value.dtype == result.dtype:
        return value
    if before is None or before.op != "cast" or before.invars[0].dtype != result.dtype:
        return None
    widened = value.is_float and result.is_float and np.promote_types(value.dtype, result.dtype) == value.dtype
    return before.invars[0] if widened else None


def _selected(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """The value that a known condition always chooses."""
    condition = rewriting.uniform(eqn.invars[0])
    value = eqn.invars[1 if condition else 2]
    same = (value.shape, value.dtype) == (eqn.outvars[0].shape, eqn.outvars[0].dtype)
    return value if condition is not None and same else None


def _expanded(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    return eqn.invars[0] if eqn.invars[0].shape == eqn.outvars[0].shape else None


def _sliced(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    return eqn.invars[0] if eqn.invars[0].shape == eqn.outvars[0].shape and set(eqn.params["stride"]) == {1} else None


def _joined(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A few values joined many times over are joined once, and their entries gathered."""
    axis, distinct = eqn.params["axis"], tuple(dict.fromkeys(eqn.invars))
    if len(eqn.invars) <= _MANY or 2 * len(distinct) > len(eqn.invars):
        return None
    ends = np.cumsum([0, *(var.shape[axis] for var in distinct)])
    places = {var: np.arange(start, end) for var, start, end in zip(distinct, ends[:-1], ends[1:], strict=True)}
    order = rewriting.param(f"{eqn.outvars[0].name}.order", np.concatenate([places[var] for var in eqn.invars]))
    name = f"{eqn.outvars[0].name}.joined"
    once = [rewriting.equation(eqn, "concat", *distinct, name=name, axis=axis)] if distinct[1:] else []
    value = once[0].outvars[0] if once else distinct[0]
    return (*once, rewriting.equation(eqn, "gather", value, order, axis=axis))


def _neutral(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """x + 0, x - 0, x · 1, x / 1, the larger of x and -∞, the smaller of x and ∞."""
    neutral = _NEUTRAL.get(eqn.op)
    if neutral is None or len(eqn.invars) != 2:
        return None
    for value, known in (eqn.invars, eqn.invars[::-1]) if eqn.op not in ("sub", "div") else (eqn.invars,):
        array = rewriting.weights.get(known.name)
        same = value.shape == eqn.outvars[0].shape and value.dtype == eqn.outvars[0].dtype
        if array is not None and same and value.name not in rewriting.weights and (array == neutral).all():
            return value
    return None


def _without_copies(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """Operands as they were before they were copied along axes, where broadcasting copies them anyway."""
    shape = eqn.outvars[0].shape
    operands = [_uncopied(rewriting, eqn, var) for var in eqn.invars]
    if operands == list(eqn.invars) or np.broadcast_shapes(*(var.shape for var in operands)) != shape:
        return None
    return (rewriting.equation(eqn, eqn.op, *operands, **eqn.params),)


def _uncopied(rewriting: Rewriting, eqn: Eqn, var: Var) -> Var:
    before, array = rewriting.before(eqn, var), rewriting.weights.get(var.name)
    if before is not None and before.op == "expand":
        return before.invars[0]
    if array is None or set(array.shape[:-1]) <= {1} or not var.is_float:
        return var
    narrow = narrowed(array)
    return var if narrow.shape == array.shape else rewriting.param(var.name, narrow)


def narrowed(array: np.ndarray) -> np.ndarray:
    """A known array with the axes along which it does not vary of size 1."""
    for axis, size in enumerate(array.shape):
        first = array.take([0], axis) if size > 1 else array
        array = first if (array == first).all() else array
    return np.ascontiguousarray(array)


_RULES: dict[str, Callable[[Rewriting, Eqn], Replacement]] = {
    "reshape": _reshaped,
    "transpose": _transposed,
    "cast": _cast,
    "expand": _expanded,
    "slice": _sliced,
    "concat": _joined,
    "where": _selected,
}
