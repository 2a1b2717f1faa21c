"""What a forward pass costs, as XLA counts it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax

from backtrace_jax.ir import Graph, Program
from backtrace_jax.ops import OPS
from backtrace_jax.runtime.numerics import exact_types
from backtrace_jax.runtime.recipes import made_once

from .forward import outputs_of


def cost(program: Program) -> float:
    """Floating-point operations of one forward pass, as XLA counts them before optimising; of a loop, of one step."""
    return _counted(program.graph, ("flops",))


def work(program: Program, once: float) -> float:
    """Floating-point operations of one forward pass, those of loops as often as they run.

    Args:
        program: The graph.
        once: Its `cost`.
    """
    return once + _repeated(program.graph)


def _repeated(graph: Graph) -> float:
    loops = [(eqn.params["length"], body) for eqn in graph.eqns if "length" in eqn.params for body in eqn.bodies]
    return float(sum(length * (_counted(body) + _repeated(body)) for length, body in loops))


def _counted(graph: Graph, kinds: Sequence[str] = ("flops", "transcendentals")) -> float:
    types = ({v.name: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in group} for group in (graph.params, graph.inputs))

    def count() -> float:
        analysis = jax.jit(partial(outputs_of, graph)).lower(*types).cost_analysis()
        return float(sum(analysis.get(kind, 0.0) for kind in kinds)) if analysis else 0.0

    with exact_types():
        return made_once(("cost", graph, kinds, OPS), jax.local_devices()[0], count)
