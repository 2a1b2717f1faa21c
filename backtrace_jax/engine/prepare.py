"""Splits a function of weights and examples in two: what follows from the weights alone, and the rest.

Rules apply weights in many forms (|K|, K⁺, turned kernels, largest entries). Written where they are used they would
be made anew in every call; here they are found in the traced function and made once per model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var

from .keeping import keep_wide, type_of


@dataclass(frozen=True)
class Split:
    """A traced function (weights, *rest) -> result in two parts; both take and give flat lists.

    Attributes:
        deriving: From the weights to what the rest reads of what follows from them.
        calling: From the weights, the rest of the arguments and what was derived to the result.
        tree: Structure of the result.
    """

    deriving: ClosedJaxpr
    calling: ClosedJaxpr
    tree: Any

    @staticmethod
    def arguments(weights: Any, derived: Sequence[Any], *rest: Any) -> list[Any]:
        """Arguments of `calling`."""
        return [*jax.tree.leaves((weights, *rest)), *derived]


def split(function: Callable[..., Any], weights: Any, *rest: Any, hoist: bool = True) -> Split:
    """Trace a function at these types and split it.

    Args:
        function: Takes the weights first.
        weights: Its weights, or their types.
        rest: Its other arguments, or their types.
        hoist: Whether to take anything out; otherwise nothing is derived.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(weights, *rest)
    closed = keep_wide(traced)
    known = set(closed.jaxpr.invars[: len(jax.tree.leaves(weights))])
    early = _hoisted(closed, known) if hoist else []
    made = {var for eqn in early for var in eqn.outvars}
    late = [eqn for eqn in closed.jaxpr.eqns if not made.intersection(eqn.outvars)]
    read = [*(v for eqn in late for v in eqn.invars), *closed.jaxpr.outvars]
    derived = list(dict.fromkeys(var for var in read if isinstance(var, Var) and var in made))
    invars, outvars, tree = closed.jaxpr.invars, closed.jaxpr.outvars, jax.tree.structure(shape)
    deriving = part(closed, invars[: len(invars) - len(jax.tree.leaves(rest))], early, derived)
    return Split(deriving, part(closed, [*invars, *derived], late, outvars), tree)


def part(closed: ClosedJaxpr, invars: list[Var], eqns: list[JaxprEqn], outvars: list[Any]) -> ClosedJaxpr:
    """Some of a traced function's equations as a function of flat arguments."""
    return ClosedJaxpr(closed.jaxpr.replace(invars=invars, eqns=eqns, outvars=outvars), closed.consts)


def _hoisted(closed: ClosedJaxpr, known: set[Var]) -> list[JaxprEqn]:
    """Equations that follow from the known values, and whose results are no larger than what they are made of.

    What grows, such as a bias spread over positions, is cheaper to make than to read.
    """
    neutral, found = set(closed.jaxpr.constvars), []
    for eqn in closed.jaxpr.eqns:
        variables = [var for var in eqn.invars if isinstance(var, Var)]
        follows = any(var in known for var in variables) and all(var in known or var in neutral for var in variables)
        if follows and not eqn.effects and size_of(eqn.outvars) <= size_of(variables):
            found.append(eqn)
            known |= set(eqn.outvars)
    return found


def types_of(tree: Any) -> Any:
    """Shapes and types in place of arrays, or of what stands for them."""
    return jax.tree.map(
        lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, weak_type=getattr(each, "weak_type", False)), tree
    )


def size_of(variables: Iterable[Any]) -> int:
    """Bytes of all these values."""
    types = [type_of(var) for var in variables]
    return sum(each.size * each.dtype.itemsize for each in types)
