"""A sum of sums is one sum: its terms share alike, in whatever order they were added up (RULES section 3)."""

from __future__ import annotations

import functools

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting, rewritten


def flatten_sums(program: Program) -> Program:
    """Sums that only another sum reads join it, and constants become one term."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op != "add" or not eqn.outvars[0].is_float or _is_term(rewriting, eqn):
        return None
    terms = _terms(rewriting, eqn)
    known = [var for var in terms if var.name in rewriting.weights]
    if len(terms) == len(eqn.invars) and len(known) < 2:
        return None
    computed = [var for var in terms if var.name not in rewriting.weights]
    if len(known) > 1:
        total = functools.reduce(np.add, (rewriting.weights[var.name].astype(np.float64) for var in known))
        known = [rewriting.param(known[0].name, np.asarray(total, eqn.outvars[0].dtype))]
    return (rewriting.equation(eqn, "add", *computed, *known),)


def _is_term(rewriting: Rewriting, eqn: Eqn) -> bool:
    """Whether a sum will join the one that reads it; the last one collects all, so that a long chain is read once."""
    readers = rewriting.readers[eqn.outvars[0].name]
    if len(readers) != 1 or readers[0].op != "add":
        return False
    rewriting.producers[eqn.outvars[0].name] = eqn
    return _joins(rewriting, readers[0], eqn.outvars[0]) is not None


def _joins(rewriting: Rewriting, eqn: Eqn, var: Var) -> Eqn | None:
    """The sum that an operand is, where nothing else reads it."""
    before = rewriting.before(eqn, var)
    return before if before is not None and before.op == "add" and rewriting.reads(var) == 1 else None


def _terms(rewriting: Rewriting, eqn: Eqn) -> list[Var]:
    """Operands of a sum and of the sums that join it, in their order."""
    found, open_ = [], [(eqn, var) for var in reversed(eqn.invars)]
    while open_:
        reader, var = open_.pop()
        inner = _joins(rewriting, reader, var)
        if inner is None:
            found.append(var)
        else:
            open_ += [(inner, each) for each in reversed(inner.invars)]
    return found
