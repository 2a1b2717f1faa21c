"""Proves that a graph for one example computes what the model computes for each example of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from backtrace_jax.errors import MixedExamplesError
from backtrace_jax.ir import Eqn, Graph, Program, Var

from .places import Place, Shape, alone, inner
from .rules import ENTRYWISE
from .standing import standing
from .terms import Terms
from .walk import WAYS_OUT, Followed, Over, follow, named


@dataclass(frozen=True)
class Leaving:
    """What an output is for one example.

    Attributes:
        shape: Its shape.
        axis: The axis of size 1 that is the batch; None where the example has the whole output.
        name: The model's own name of the output.
        is_float: Whether it holds floats.
        refused: Why it cannot be told for one example; it is left out then.
    """

    shape: Shape
    axis: int | None
    name: str = ""
    is_float: bool = True
    refused: str = ""


def proven(one: Program, batch: Program, axes: Mapping[str, int | None], count: int) -> tuple[Leaving, ...]:
    """What the outputs are for one example, once it is proven that `one` computes it.

    Args:
        one: The graph for one example.
        batch: The same model's graph for `count` examples.
        axes: Where each input holds the examples; None where all share it.
        count: Number of examples, at least 2.

    Raises:
        MixedExamplesError: When no output can be told: naming the node that mixes the examples, or that depends on how
            many there are.
    """
    terms = Terms(ENTRYWISE)
    together = follow(batch, _places(axes), Over(count, terms))
    apart = follow(one, dict.fromkeys(axes), Over(1, terms))
    roots = {each.term.root for each in apart.values()}
    graph, pairs = batch.graph, zip(one.graph.outputs, batch.graph.outputs, strict=True)
    refused = [
        together[var.name].mixed
        or _numbered(graph, var, together)
        or ("" if apart[own.name].term.root == together[var.name].term.root else _other(graph, var, together, roots))
        for own, var in pairs
    ]
    return _checked(_leaving(graph, i, together, count, why) for i, why in enumerate(refused))


def leaving_of(
    program: Program, axes: Mapping[str, int | None], count: int, *, mixing: bool = False
) -> tuple[Leaving, ...]:
    """What the outputs of a graph for `count` examples are for one of them.

    Args:
        program: The graph.
        axes: Where each input holds the examples; None where all share it.
        count: Number of examples, at least 2.
        mixing: Whether examples may interact, as long as the batch stays an axis of the output.

    Raises:
        MixedExamplesError: When no output can be told, naming the node that mixes the examples.
    """
    graph, places = program.graph, _places(axes)
    found = follow(program, places, Over(count, Terms(ENTRYWISE)))
    if mixing:
        stands = standing(graph, places, count)
        found = {n: replace(v, place=stands[n], mixed="") if v.mixed and stands[n] else v for n, v in found.items()}
    refused = [found[var.name].mixed or _without_batch(found[var.name], name, count) for var, name in _outputs(graph)]
    return _checked(_leaving(graph, i, found, count, why) for i, why in enumerate(refused))


def _places(axes: Mapping[str, int | None]) -> dict[str, Place | None]:
    return {name: None if axis is None else Place(axis) for name, axis in axes.items()}


def _outputs(graph: Graph) -> list[tuple[Var, str]]:
    return list(zip(graph.outputs, graph.output_names, strict=True))


def _checked(found: Iterable[Leaving]) -> tuple[Leaving, ...]:
    """What is told of outputs, if it is of any."""
    told = tuple(found)
    if all(each.refused for each in told):
        raise MixedExamplesError(told[0].refused, WAYS_OUT)
    return told


def _numbered(graph: Graph, var: Var, values: Mapping[str, Followed]) -> str:
    """Whether an output is positions in the whole batch."""
    if values[var.name].free:
        return ""
    return f"node {named(_before(graph, var)[-1:])} numbers entries of the whole batch, and is an output"


def _without_batch(output: Followed, name: str, count: int) -> str:
    """Whether an output of a run of so many examples has no axis of them."""
    if _axis(output, count) is not None:
        return ""
    return no_batch(name, output.var.shape, count)


def no_batch(name: str, shape: Sequence[int], count: int) -> str:
    """That an output does not hold as many examples as the file fixes."""
    return (
        f"output {name!r} {list(shape)} has no batch of {count}, the size that the file fixes for the batch of the "
        "inputs; if their batch is another axis, or none (None), pass that as batch_axis="
    )


def _axis(output: Followed, count: int) -> int | None:
    place = output.place
    only = place is not None and place.outer == 1 and inner(output.var.shape, place, count) == 1
    return place.axis if place is not None and only else None


def _leaving(graph: Graph, number: int, values: Mapping[str, Followed], count: int, refused: str) -> Leaving:
    var, name = _outputs(graph)[number]
    output = values[var.name]
    return Leaving(alone(var.shape, output.place, count), _axis(output, count), name, var.is_float, refused)


def _other(graph: Graph, var: Var, values: Mapping[str, Followed], roots: set[int]) -> str:
    """Which node makes an output another term than that for one example: the first that is one itself."""
    needed = _before(graph, var)
    own = (i for i, eqn in enumerate(needed) if values[eqn.outvars[0].name].term.root not in roots)
    first = next(own, None)
    where = f"output {var.name!r}" if first is None else f"node {named(needed, first)}"
    return f"{where} computes something else for a batch than for each example alone"


def _before(graph: Graph, output: Var) -> list[Eqn]:
    """The equations that an output is computed by, in the order of computation."""
    needed, found = {output.name}, []
    for eqn in reversed(graph.eqns):
        if any(var.name in needed for var in eqn.outvars):
            needed.update(var.name for var in eqn.invars)
            found.append(eqn)
    return found[::-1]
