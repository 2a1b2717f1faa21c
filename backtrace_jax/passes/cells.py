"""One spelling for the cells of recurrent networks, so that each shares as ONNX's own does (RULES section 8)."""

from __future__ import annotations

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .affine import fold_affine
from .rewriting import Replacement, Rewriting, rewritten_outside
from .tidy import tidy


def spell_cell(body: Program, states: int) -> Program:
    """The body of a loop, whose first inputs are its states, in that spelling; those inside it stay as they are."""
    cut = fold_affine(tidy(rewritten_outside(body, _cut_first)))
    stateful = depending(cut, states)

    def step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
        return _apart(rewriting, eqn, stateful) or _interpolated(rewriting, eqn, stateful)

    return rewritten_outside(cut, step)


def depending(body: Program, states: int) -> set[str]:
    """Names of what in a body depends on a state."""
    found = {var.name for var in body.graph.inputs[:states]}
    for eqn in body.graph.eqns:
        if any(var.name in found for var in eqn.invars):
            found.update(var.name for var in eqn.outvars)
    return found


def _cut_first(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A part of a transposed map is a transposed part: `jax.vmap` of W x cuts gates so."""
    before = rewriting.producers.get(eqn.invars[0].name)
    if eqn.op != "slice" or before is None or before.op != "transpose":
        return None
    perm = before.params["perm"]
    bounds = {key: tuple(eqn.params[key][perm.index(axis)] for axis in range(len(perm))) for key in eqn.params}
    part = rewriting.equation(eqn, "slice", before.invars[0], name=f"{eqn.outvars[0].name}.part", **bounds)
    return part, rewriting.equation(eqn, "transpose", part.outvars[0], perm=perm)


def _apart(rewriting: Rewriting, eqn: Eqn, stateful: set[str]) -> Replacement:
    """One map of values side by side, of which some depend on a state, as one of each kind; the bias is the others'."""
    before = rewriting.producers.get(eqn.invars[0].name)
    K = rewriting.weights.get(eqn.invars[1].name) if eqn.op == "matmul" else None
    if before is None or before.op != "concat" or K is None or K.ndim != 2:
        return None
    if before.params["axis"] != len(before.outvars[0].shape) - 1 or rewriting.reads(before.outvars[0]) != 1:
        return None
    rows = np.split(K, np.cumsum([var.shape[-1] for var in before.invars])[:-1])
    kinds = [[i for i, var in enumerate(before.invars) if (var.name in stateful) == of] for of in (False, True)]
    if not all(kinds):
        return None
    eqns: list[Eqn] = []
    for kind, bias in zip(kinds, (eqn.invars[2:], ()), strict=True):
        values, name = [before.invars[i] for i in kind], f"{eqn.outvars[0].name}.apart"
        if len(values) > 1:
            eqns.append(rewriting.equation(before, "concat", *values, name=name, axis=before.params["axis"]))
            values = eqns[-1].outvars
        weights = rewriting.param(eqn.invars[1].name, np.concatenate([rows[i] for i in kind]))
        eqns.append(rewriting.equation(eqn, "matmul", values[0], weights, *bias, name=name))
    one, other = (each.outvars[0] for each in eqns if each.op == "matmul")
    return [*eqns, rewriting.equation(eqn, "add", one, other)]


def _interpolated(rewriting: Rewriting, eqn: Eqn, stateful: set[str]) -> Replacement:
    """n + z (h - n) as (1 - z) n + z h: a gate decides between two signals."""
    for n, product in (eqn.invars, eqn.invars[::-1]) if eqn.op == "add" and len(eqn.invars) == 2 else ():
        found = _alone(rewriting, product, "mul")
        for z, difference in (found.invars, found.invars[::-1]) if found is not None else ():
            inner = _alone(rewriting, difference, "sub")
            if inner is None or inner.invars[1] != n or z.name in rewriting.weights:
                continue
            if stateful.isdisjoint(var.name for var in inner.invars):
                continue
            name = f"{eqn.outvars[0].name}.gated"
            one = rewriting.param(f"{name}.one", np.ones((), z.dtype))
            rest = rewriting.equation(eqn, "sub", one, z, name=name)
            new = rewriting.equation(eqn, "mul", rest.outvars[0], n, name=name)
            kept = rewriting.equation(eqn, "mul", z, inner.invars[0], name=name)
            return [rest, new, kept, rewriting.equation(eqn, "add", new.outvars[0], kept.outvars[0])]
    return None


def _alone(rewriting: Rewriting, var: Var, op: str) -> Eqn | None:
    """The operation that a value comes from, where nothing else reads it."""
    before = rewriting.producers.get(var.name)
    return before if before is not None and before.op == op and rewriting.reads(var) == 1 else None
