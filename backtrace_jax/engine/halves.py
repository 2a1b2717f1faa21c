"""Splits a traced function in two: what does not depend on some of its arguments, and the rest.

The forward pass of an example and the evidence at every node are the same whatever is asked about it. The first half
computes them once and leaves them on the device; the second one walks, for some questions at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, primitives

from .prepare import part, size_of

_PRODUCTS = (primitives.dot_general_p, primitives.conv_general_dilated_p)
_VIEWS = (primitives.reshape_p, primitives.squeeze_p, primitives.broadcast_in_dim_p)
_BARRIER = "optimization_barrier"


@dataclass(frozen=True)
class Halves:
    """A function of flat arguments in two parts.

    Attributes:
        early: From the arguments that are not asked about to the first results, then to what the rest reads.
        late: From all arguments, and what it reads of the first part, to the other results.
        first: How many results the first part gives.
    """

    early: ClosedJaxpr
    late: ClosedJaxpr
    first: int

    @property
    def held(self) -> list[Any]:
        """Types of what the second part reads of the first one."""
        return self.early.out_avals[self.first :]


def halve(closed: ClosedJaxpr, asked: Collection[int], first: int, *, anew: bool = False) -> Halves:
    """Split a traced function.

    Args:
        closed: The function.
        asked: Positions of the arguments that the second part alone depends on.
        first: How many of its results, from the first one on, do not depend on them.
        anew: Whether what a barrier holds back until relevance is there is left to the second part.
    """
    given = closed.jaxpr.invars
    eqns, results, dependent = _unmixed(closed, {given[i] for i in asked}, anew)
    late, read = _read_late(eqns, dependent, results[first:])
    made = {var for eqn in eqns for var in eqn.outvars if var not in dependent}
    held = [var for var in read if var in made]
    early = [eqn for eqn in eqns if not dependent.intersection(eqn.outvars)]
    others = [var for i, var in enumerate(given) if i not in asked]
    return Halves(
        part(closed, others, early, [*results[:first], *held]),
        part(closed, [*given, *held], late, results[first:]),
        first,
    )


def _unmixed(closed: ClosedJaxpr, asked: set[Var], anew: bool) -> tuple[list[JaxprEqn], list[Any], set[Var]]:
    """The equations, the results, and the variables that depend on what is asked.

    A barrier that holds values back until relevance is there only holds back what depends on it, unless they are to be
    computed anew.
    """
    dependent, same, eqns = set(asked), {}, []

    def settled(atoms: Sequence[Any]) -> list[Any]:
        return [same.get(atom, atom) if isinstance(atom, Var) else atom for atom in atoms]

    for eqn in closed.jaxpr.eqns:
        eqn = eqn.replace(invars=settled(eqn.invars))
        depends = [isinstance(var, Var) and var in dependent for var in eqn.invars]
        if any(depends) and eqn.primitive.name == _BARRIER and not anew:
            pairs = list(zip(eqn.invars, eqn.outvars, depends, strict=True))
            same.update((out, var) for var, out, late in pairs if not late)
            eqn = eqn.replace(invars=[v for v, _, late in pairs if late], outvars=[v for _, v, late in pairs if late])
        dependent.update(eqn.outvars if any(depends) else ())
        eqns.append(eqn)
    return eqns, settled(closed.jaxpr.outvars), dependent


def _read_late(
    eqns: Sequence[JaxprEqn], dependent: set[Var], results: Iterable[Any]
) -> tuple[list[JaxprEqn], list[Var]]:
    """The equations of the second part, and all that they read; what is cheaper to make than to read is made anew."""
    late, read = [], dict.fromkeys(var for var in results if isinstance(var, Var))
    for eqn in reversed(eqns):
        if dependent.intersection(eqn.outvars) or (_is_cheap(eqn) and any(var in read for var in eqn.outvars)):
            late.append(eqn)
            for var in eqn.outvars:
                read.pop(var, None)
            read.update(dict.fromkeys(var for var in eqn.invars if isinstance(var, Var)))
    return late[::-1], list(read)


def _is_cheap(eqn: JaxprEqn) -> bool:
    """Whether a value is a view of another one, or is spread out of something smaller without being multiplied."""
    if eqn.primitive in _VIEWS:
        return True
    grows = size_of(eqn.outvars) > size_of([var for var in eqn.invars if isinstance(var, Var)])
    return grows and eqn.primitive not in _PRODUCTS and not any(_is_function(each) for each in eqn.params.values())


def _is_function(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr | Jaxpr) or (isinstance(value, tuple) and any(map(_is_function, value)))
