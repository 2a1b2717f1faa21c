"""What enters a recurrent cell is mapped for all steps at once, in front of the loop, as ONNX's own layers have it.

A map of an entry alone, which a sum with the state reads, gives the same relevance in front of the loop, where it is
one large product. One that anything else reads stays: an activation behind it may close it (RULES section 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backtrace_jax.ir import Eqn, Graph, Program, Var

from .rewriting import Replacement, Rewriting, rewritten

_MOVES = ("slice", "reshape", "transpose")


def map_in_front(program: Program) -> Program:
    """The program with such maps in front of its loops."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op != "scan":
        return None
    body, states = eqn.params["body"], eqn.params["states"]
    end = states + eqn.params["sequences"]
    outer = {inner.name: var for inner, var in zip(body.inputs, eqn.invars, strict=True)}
    entries = {inner.name for inner in body.inputs[states:end] if outer[inner.name].name not in rewriting.weights}
    known = {inner.name for inner in body.inputs[end:] if outer[inner.name].name in rewriting.weights}
    maps = [each for each in body.eqns if _is_map(each, entries, known) and _is_summed(body, each.outvars[0])]
    if not maps:
        return None
    fronts = [
        rewriting.equation(each, "matmul", *(outer[var.name] for var in each.invars), name=each.outvars[0].name)
        for each in maps
    ]
    mapped = [each.outvars[0] for each in maps]
    outer |= {inner.name: front.outvars[0] for inner, front in zip(mapped, fronts, strict=True)}
    eqns = tuple(each for each in body.eqns if each not in maps)
    read = {var.name for each in eqns for var in each.invars} | {var.name for var in body.outputs}
    sequences = [var for var in (*body.inputs[states:end], *mapped) if var.name in read]
    constants = [var for var in body.inputs[end:] if var.name in read]
    inputs = (*body.inputs[:states], *sequences, *constants)
    params = {**eqn.params, "body": replace(body, inputs=inputs, eqns=eqns), "sequences": len(sequences)}
    return [*fronts, replace(eqn, invars=tuple(outer[var.name] for var in inputs), params=params)]


def _is_map(eqn: Eqn, entries: set[str], known: set[str]) -> bool:
    """Whether an equation is a map of an entry with known weights, row by row."""
    ranks = [len(var.shape) for var in eqn.invars[:2]]
    others = {var.name for var in eqn.invars[1:]}
    return eqn.op == "matmul" and ranks[0] > 1 and ranks[1] == 2 and eqn.invars[0].name in entries and others <= known


def _is_summed(body: Graph, var: Var) -> bool:
    """Whether nothing but sums reads a value, or what it is moved to."""
    readers: Sequence[Eqn] = [eqn for eqn in body.eqns if any(each.name == var.name for each in eqn.invars)]
    if any(each.name == var.name for each in body.outputs):
        return False
    return all(eqn.op == "add" or (eqn.op in _MOVES and _is_summed(body, eqn.outvars[0])) for eqn in readers)
