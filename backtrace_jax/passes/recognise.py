"""Recognises activations that exporters write out in several nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..ir import Eqn, Program


def recognise_silu(program: Program) -> Program:
    """x · sigmoid(x) becomes silu(x): one activation, so its saturation range belongs to the map before it.

    The sigmoid itself is left to dead-code removal, which keeps it where something else reads it.
    """
    producers = program.graph.producers()
    eqns = tuple(_as_silu(eqn, producers) for eqn in program.graph.eqns)
    return replace(program, graph=replace(program.graph, eqns=eqns))


def _as_silu(eqn: Eqn, producers: Mapping[str, Eqn]) -> Eqn:
    if eqn.op != "mul" or len(eqn.invars) != 2:
        return eqn
    for x, gate in (eqn.invars, eqn.invars[::-1]):
        source = producers.get(gate.name)
        if source and source.op == "sigmoid" and source.invars == (x,):
            return replace(eqn, op="silu", invars=(x,), params={})
    return eqn
