"""A sum of sums is one sum: its terms share alike, in whatever order they were added up (RULES section 3)."""

from __future__ import annotations

import functools

import numpy as np

from ..ir import Eqn, Program, Var
from .rewriting import Replacement, Rewriting, rewritten


def flatten_sums(program: Program) -> Program:
    """Sums that only another sum reads join it, and constants become one term."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op != "add" or not eqn.outvars[0].is_float:
        return None
    terms = [term for var in eqn.invars for term in _terms(rewriting, eqn, var)]
    known = [var for var in terms if var.name in rewriting.weights]
    if len(terms) == len(eqn.invars) and len(known) < 2:
        return None
    computed = [var for var in terms if var.name not in rewriting.weights]
    if len(known) > 1:
        total = functools.reduce(np.add, (rewriting.weights[var.name].astype(np.float64) for var in known))
        known = [rewriting.param(known[0].name, np.asarray(total, eqn.outvars[0].dtype))]
    return (rewriting.equation(eqn, "add", *computed, *known),)


def _terms(rewriting: Rewriting, eqn: Eqn, var: Var) -> tuple[Var, ...]:
    before = rewriting.before(eqn, var)
    inner = before is not None and before.op == "add" and rewriting.reads(var) == 1
    return before.invars if before is not None and inner else (var,)
