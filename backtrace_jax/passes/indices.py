"""Recognises indices worked out in floats: ids cast to floats, counted on entry by entry, and cut back to integers.

Seen as one function of the ids they hand on what they get, as arithmetic in integers does (RULES section 9).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backtrace_jax.ir import Eqn, Graph, Program, Var

from .rewriting import Replacement, Rewriting, rewritten

_ENTRYWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "mod", "neg", "abs", "sign", "floor", "ceil", "round", "clip", "relu", "cast"),
        *("maximum", "minimum", "integer_pow", "where", "equal", "less", "less_equal", "greater", "greater_equal"),
        *("remainder", "logical_and", "logical_or", "logical_not"),
    )
)
_LOOK_UPS = ("gather", "gather_by_key", "equal")  # a comparison may make one-hot rows


def recognise_indices(program: Program) -> Program:
    """Ids that become floats and integers again, on the way to a look-up, become integers in one step."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    result = eqn.outvars[0]
    if eqn.op != "cast" or not result.is_integer or not eqn.invars[0].is_float or not _looks_up(rewriting, result):
        return None
    found = _worked_out(rewriting, eqn)
    if found is None:
        return None
    ids, eqns = found
    made = {var.name for each in eqns for var in each.outvars}
    constants = {var.name: var for each in eqns for var in each.invars if var.name not in made | {ids.name}}
    function = Graph((ids, *constants.values()), (), tuple(eqns), (result,), (result.name,))
    return (rewriting.equation(eqn, "entrywise", ids, *constants.values(), function=function),)


def _looks_up(rewriting: Rewriting, index: Var) -> bool:
    """Whether integers lead to a look-up, through integers and truths alone."""
    waiting, seen = [index], {index.name}
    while waiting:
        for eqn in rewriting.readers[waiting.pop().name]:
            if eqn.op in _LOOK_UPS:
                return True
            more = [var for var in eqn.outvars if not var.is_float and var.name not in seen]
            waiting += more
            seen.update(var.name for var in more)
    return False


def _worked_out(rewriting: Rewriting, last: Eqn) -> tuple[Var, Sequence[Eqn]] | None:
    """The integers that an index is worked out from, entry by entry and with constants only, and by what equations."""
    waiting, eqns, ids = [last], {}, {}
    while waiting:
        eqn = waiting.pop()
        if eqn.op not in _ENTRYWISE or eqn.outvars[0].shape != last.outvars[0].shape:
            return None
        eqns[eqn.outvars[0].name] = eqn
        for var in eqn.invars:
            if eqn.op == "cast" and var.is_integer:
                ids[var.name] = var
            elif var.name not in rewriting.weights and var.name not in eqns:
                if var.name not in rewriting.producers:
                    return None
                waiting.append(rewriting.producers[var.name])
    source = next(iter(ids.values())) if len(ids) == 1 else None
    if source is None or source.shape != last.outvars[0].shape or source.dtype == np.bool_:
        return None
    return source, [eqn for eqn in rewriting.producers.values() if eqn.outvars[0].name in eqns] + [last]
