"""Recognises look-ups written as products: one-hot rows times a table are rows of the table (RULES section 9)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting, rewritten

_REACH = 6  # equations from the product back to the comparison


def recognise_lookups(program: Program) -> Program:
    """(index == keys) as numbers, times a table known beforehand, becomes the row of the equal key, or one of zeros."""
    return rewritten(program, _step)


class _OneHot(NamedTuple):
    """Rows with a 1 at the place of each id among the keys; `ids` may still have to be reshaped to `shape`."""

    ids: Var
    keys: np.ndarray
    shape: tuple[int, ...]


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if not _is_product(eqn):
        return None
    table = rewriting.weights.get(eqn.invars[1].name)
    if table is None or table.ndim != 2 or not np.isfinite(table).all():
        return None  # zero times an infinite entry of another row is NaN, which no look-up gives
    found = _one_hot(rewriting, eqn.invars[0], _REACH)
    if found is None:
        return None
    order, name = np.argsort(found.keys), eqn.invars[1].name
    rows = np.concatenate([table[order], np.zeros((1, table.shape[1]), table.dtype)])
    params = (rewriting.param(f"{name}.rows", rows), rewriting.param(f"{name}.keys", found.keys[order]))
    before: tuple[Eqn, ...] = ()
    index = found.ids
    if index.shape != found.shape:
        before = (rewriting.equation(eqn, "reshape", index, name=f"{index.name}.index", shape=found.shape),)
        index = before[0].outvars[0]
    return *before, rewriting.equation(eqn, "gather_by_key", params[0], index, params[1], axis=0)


def _is_product(eqn: Eqn) -> bool:
    """Whether the last axis of the first operand is contracted with the first one of the second."""
    if eqn.op != "einsum":
        return eqn.op == "matmul" and len(eqn.invars) == 2
    operands, result = eqn.params["equation"].replace(" ", "").split("->")
    rows, _, table = operands.partition(",")
    return len(table) == 2 and rows[-1:] == table[0] and result == rows[:-1] + table[1]


def _one_hot(rewriting: Rewriting, rows: Var, reach: int, axis: int = -1) -> _OneHot | None:
    """What one-hot rows along an axis, in numbers, are made of."""
    eqn = rewriting.producers.get(rows.name)
    if eqn is None or not reach:
        return None
    if eqn.op == "transpose" and axis == -1:
        *others, last = eqn.params["perm"]
        moved = last - len(others) - 1  # counted from the end, as the shapes of index and keys are aligned
        return _one_hot(rewriting, eqn.invars[0], reach - 1, moved) if others == sorted(others) else None
    if eqn.op == "reshape" and axis == -1 and eqn.invars[0].shape[-1:] == rows.shape[-1:]:
        found = _one_hot(rewriting, eqn.invars[0], reach - 1)
        return found and found._replace(shape=rows.shape[:-1])
    if eqn.op == "cast" and eqn.invars[0].dtype != np.bool_:
        return _one_hot(rewriting, eqn.invars[0], reach - 1, axis)
    if eqn.op == "cast" or (eqn.op == "where" and [rewriting.number(var) for var in eqn.invars[1:]] == [1, 0]):
        return _compared(rewriting, eqn.invars[0], axis)
    return None


def _compared(rewriting: Rewriting, truths: Var, axis: int) -> _OneHot | None:
    """The index and the keys of a comparison along an axis, counted from the end; each key once."""
    eqn = rewriting.producers.get(truths.name)
    if eqn is None or eqn.op != "equal" or not truths.shape:
        return None
    for index, keys in (eqn.invars, eqn.invars[::-1]):
        array = rewriting.weights.get(keys.name)
        if array is None or index.name in rewriting.weights or array.size != truths.shape[axis]:
            continue
        fits = len(keys.shape) >= -axis and keys.shape[axis] == array.size
        fits = fits and np.prod(index.shape) * array.size == np.prod(truths.shape)
        if fits and len(np.unique(array)) == array.size and not np.isnan(array).any():  # NaN equals nothing
            at = len(truths.shape) + axis
            return _OneHot(index, array.reshape(-1), truths.shape[:at] + truths.shape[at + 1 :])
    return None
