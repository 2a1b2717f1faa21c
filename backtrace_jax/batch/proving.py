"""Proves that a graph for one example computes what the model computes for each example of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UnsupportedError
from ..ir import Eqn, Graph, Program, Var
from .places import Place, Shape, alone, inner
from .rules import ENTRYWISE
from .terms import Terms
from .walk import WAYS_OUT, Followed, Over, follow, named


@dataclass(frozen=True)
class Leaving:
    """What an output is for one example.

    Attributes:
        shape: Its shape.
        axis: The axis of size 1 that is the batch; None where the example has the whole output.
    """

    shape: Shape
    axis: int | None


def proven(one: Program, batch: Program, axes: Mapping[str, int | None], count: int) -> tuple[Leaving, ...]:
    """What the outputs are for one example, once it is proven that `one` computes it.

    Args:
        one: The graph for one example.
        batch: The same model's graph for `count` examples.
        axes: Where each input holds the examples; None where all share it.
        count: Number of examples, at least 2.

    Raises:
        UnsupportedError: Naming the node that mixes the examples, or that depends on how many there are.
    """
    terms = Terms(ENTRYWISE)
    places = {name: None if axis is None else Place(axis) for name, axis in axes.items()}
    together = follow(batch, places, Over(count, terms))
    _check_free(batch.graph, together)
    apart = follow(one, dict.fromkeys(axes), Over(1, terms))
    _check_same(one.graph, batch.graph, apart, together)
    return tuple(_leaving(together[var.name], count) for var in batch.graph.outputs)


def leaving_of(program: Program, axes: Mapping[str, int | None], count: int) -> tuple[Leaving, ...]:
    """What the outputs of a graph for `count` examples are for one of them.

    Raises:
        UnsupportedError: Naming the node that mixes the examples.
    """
    places = {name: None if axis is None else Place(axis) for name, axis in axes.items()}
    together = follow(program, places, Over(count, Terms(ENTRYWISE)))
    return tuple(_leaving(together[var.name], count) for var in program.graph.outputs)


def _check_free(graph: Graph, values: Mapping[str, Followed]) -> None:
    """Outputs are no positions in the whole batch."""
    for var in graph.outputs:
        if not values[var.name].free:
            node = named(_before(graph, [var])[-1:])
            raise UnsupportedError(f"node {node} numbers entries of the whole batch, and is an output. {WAYS_OUT}")


def _leaving(output: Followed, count: int) -> Leaving:
    place, shape = output.place, output.var.shape
    own = alone(shape, place, count)
    only = place is not None and place.outer == 1 and inner(shape, place, count) == 1
    return Leaving(own, place.axis if place is not None and only else None)


def _check_same(one: Graph, batch: Graph, apart: Mapping[str, Followed], together: Mapping[str, Followed]) -> None:
    """Outputs are the same terms; a difference is told by the first node that is another one."""
    pairs = zip(one.outputs, batch.outputs, strict=True)
    other = [var for own, var in pairs if apart[own.name].term.root != together[var.name].term.root]
    if not other:
        return
    roots = {each.term.root for each in apart.values()}
    needed = _before(batch, other)
    own = (i for i, eqn in enumerate(needed) if together[eqn.outvars[0].name].term.root not in roots)
    first = next(own, None)
    where = f"output {other[0].name!r}" if first is None else f"node {named(needed[first:])}"
    raise UnsupportedError(f"{where} computes something else for a batch than for each example alone. {WAYS_OUT}")


def _before(graph: Graph, outputs: list[Var]) -> list[Eqn]:
    """The equations that outputs are computed by, in the order of computation."""
    needed, found = {var.name for var in outputs}, []
    for eqn in reversed(graph.eqns):
        if any(var.name in needed for var in eqn.outvars):
            needed.update(var.name for var in eqn.invars)
            found.append(eqn)
    return found[::-1]
