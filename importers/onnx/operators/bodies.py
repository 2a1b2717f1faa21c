"""The body of a loop, with what never changes in it taken for what it is.

A state that the body returns as it came is a constant of the loop. Exporters hand weights to a body so, and a weight
that is known in the body makes a linear map there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import onnx

from backtrace_jax.ir import Graph, Program, Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering

T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """A lowered body.

    Attributes:
        graph: Takes what leads, states that change, entries of sequences, and constants; gives what leads, all states,
            and one entry of each result.
        weights: Arrays of the graph's params, by name.
        states: The states before the first step, those that never change among them.
        moving: Positions of the states that change.
        constants: The values from outside that the graph's last inputs are.
    """

    graph: Graph
    weights: dict[str, np.ndarray]
    states: Sequence[Value]
    moving: Sequence[int]
    constants: Sequence[Value]

    def run(
        self, lowering: Lowering, graph: Graph, sequences: Sequence[Value], length: int
    ) -> tuple[list[Value], list[Value]]:
        """The last states, and the stacked results, of a graph that is this one without what leads."""
        kept = [*self.moving, *range(len(self.states), len(graph.outputs))]
        if not kept:
            return list(self.states), []
        outputs, names = _at(graph.outputs, kept), _at(graph.output_names, kept)
        read = {var.name for eqn in graph.eqns for var in eqn.invars} | {var.name for var in outputs}
        params = tuple(var for var in graph.params if var.name in read)
        body = replace(graph, params=params, outputs=outputs, output_names=names)
        program = Program(body, {var.name: self.weights[var.name] for var in params})
        first = _at(self.states, self.moving)
        changed, stacked = lowering.scan(program, first, sequences, length, constants=self.constants)
        last = dict(zip(self.moving, changed, strict=True))
        return [last.get(i, state) for i, state in enumerate(self.states)], stacked


def typed(value: Value) -> Var:
    """The type of a value alone, for what changes from step to step."""
    return Var("", value.shape, np.dtype(value.dtype))


def lower_body(
    lowering: Lowering,
    body: onnx.GraphProto,
    lead: Sequence[Value],
    states: Sequence[Value],
    entries: Sequence[Var] = (),
    skip: int = 0,
) -> Body:
    """Lower the body of a loop.

    It is lowered anew where a known array turns out to be a constant of it: that may settle conditions in it, and with
    them that further states never change.

    Args:
        lowering: The lowering of the graph around.
        body: The body.
        lead: What comes before the states among its inputs: known arrays, or types.
        states: The states before the first step.
        entries: Types of the sequences' entries.
        skip: How many results come before the states.
    """
    draws = lowering.draws.copy()
    known: frozenset[int] = frozenset()
    while True:
        given = [state if i in known else typed(state) for i, state in enumerate(states)]
        program, around = lowering.body(body, [*lead, *given, *entries])
        inputs = iter(program.graph.inputs)
        before = [next(inputs) if isinstance(each, Var) else None for each in (*lead, *given)]
        leading, inner = before[: len(lead)], before[len(lead) :]
        after = program.graph.outputs[skip:]
        same = [i for i, var in enumerate(inner) if var is not None and var == after[i]]
        settled = frozenset(i for i in same if isinstance(states[i], np.ndarray))
        if not settled:
            break
        known |= settled
        lowering.draws.clear()
        lowering.draws.update(draws)
    moving = [i for i in range(len(states)) if i not in known and i not in same]
    own = [var for var in leading if var is not None] + [inner[i] for i in moving]
    graph = replace(program.graph, inputs=(*own, *inputs, *(inner[i] for i in same)))
    return Body(graph, dict(program.weights), states, moving, [*around, *(states[i] for i in same)])


def _at(items: Sequence[T], positions: Iterable[int]) -> tuple[T, ...]:
    return tuple(items[i] for i in positions)
