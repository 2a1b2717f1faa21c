"""Splits a function of weights and examples in two: what follows from the weights alone, and the rest.

Rules apply weights in many forms (|K|, K⁺, turned kernels, largest entries). Written where they are used they would
be made anew in every call; here they are found in the traced function and made once per model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
from jax import Array
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var, jaxpr_as_fun


@dataclass(frozen=True)
class Split:
    """A traced function (weights, *rest) -> result in two parts; both take flat lists and are for `jit`.

    Attributes:
        derive: From the weights to what the rest reads of what follows from them.
        call: From the weights, what was derived and the rest of the arguments to the result.
    """

    derive: Callable[[Any], list[Array]]
    call: Callable[..., Any]


def split(function: Callable[..., Any], weights: Any, *rest: Any, hoist: bool = True) -> Split:
    """Trace a function at these types and split it.

    Args:
        function: Takes the weights first.
        weights: Its weights, or their types.
        rest: Its other arguments, or their types.
        hoist: Whether to take anything out; otherwise nothing is derived.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(weights, *rest)
    known = set(closed.jaxpr.invars[: len(jax.tree.leaves(weights))])
    early = _hoisted(closed, known) if hoist else []
    made = {var for eqn in early for var in eqn.outvars}
    late = [eqn for eqn in closed.jaxpr.eqns if not made.intersection(eqn.outvars)]
    read = [*(v for eqn in late for v in eqn.invars), *closed.jaxpr.outvars]
    derived = list(dict.fromkeys(var for var in read if isinstance(var, Var) and var in made))
    invars, outvars, tree = closed.jaxpr.invars, closed.jaxpr.outvars, jax.tree.structure(shape)
    deriving = _part(closed, invars[: len(invars) - len(jax.tree.leaves(rest))], early, derived)
    calling = _part(closed, [*invars, *derived], late, outvars)

    def call(weights: Any, prepared: Sequence[Array], *rest: Any) -> Any:
        return jax.tree.unflatten(tree, calling(*jax.tree.leaves((weights, *rest)), *prepared))

    return Split(lambda weights: deriving(*jax.tree.leaves(weights)), call)


def _part(
    closed: ClosedJaxpr, invars: list[Var], eqns: list[JaxprEqn], outvars: list[Any]
) -> Callable[..., list[Array]]:
    """Some of a traced function's equations as a function of flat arguments."""
    jaxpr = closed.jaxpr.replace(invars=invars, eqns=eqns, outvars=outvars)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, closed.consts))


def _hoisted(closed: ClosedJaxpr, known: set[Var]) -> list[JaxprEqn]:
    """Equations that follow from the known values, and whose results are no larger than what they are made of.

    What grows, such as a bias spread over positions, is cheaper to make than to read.
    """
    neutral, found = set(closed.jaxpr.constvars), []
    for eqn in closed.jaxpr.eqns:
        variables = [var for var in eqn.invars if isinstance(var, Var)]
        follows = any(var in known for var in variables) and all(var in known or var in neutral for var in variables)
        if follows and not eqn.effects and _bytes(eqn.outvars) <= _bytes(variables):
            found.append(eqn)
            known |= set(eqn.outvars)
    return found


def _bytes(variables: Iterable[Var]) -> int:
    types = [cast(ShapedArray, var.aval) for var in variables]
    return sum(each.size * each.dtype.itemsize for each in types)
