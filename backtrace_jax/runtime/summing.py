"""Adds up long sums in an order of its own: XLA's CPU backend splits them by the number of threads.

YNNPACK adds up 2^15 numbers, counted from the first axis that is added up to the last axis, alike on any number of
threads; more it takes in parts, by how many threads there are. A longer sum is therefore written as sums of short sums,
with barriers in between: XLA would make one sum of them again. Where the axes behind are so long that two numbers are
too many already, it is a product with ones, whose order does not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, primitives

LONGEST = 2**15
"""Numbers that are added up at once."""


def with_short_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of trees of arrays, to be compiled with its sums of floats in a fixed order."""

    def run(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        found = jaxpr_as_fun(shorten_sums(closed))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return run


def shorten_sums(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same traced function with its sums of floats in a fixed order."""
    found = _shortened(closed.jaxpr)
    return closed if found is closed.jaxpr else ClosedJaxpr(found, closed.consts)


def _shortened(jaxpr: Jaxpr) -> Jaxpr:
    """The same jaxpr, itself where no sum in it is long."""
    eqns = [each for eqn in jaxpr.eqns for each in _rewritten(eqn)]
    same = len(eqns) == len(jaxpr.eqns) and all(one is other for one, other in zip(eqns, jaxpr.eqns, strict=True))
    return jaxpr if same else jaxpr.replace(eqns=eqns)


def _rewritten(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    if eqn.primitive is primitives.reduce_sum_p and _is_long(eqn):
        yield from _in_place_of(eqn, partial(total, axes=[*map(int, eqn.params["axes"])]))
        return
    params = {name: _inside(value) for name, value in eqn.params.items()}
    same = all(params[name] is value for name, value in eqn.params.items())
    yield eqn if same else eqn.replace(params=params)


def _inside(value: Any) -> Any:
    """A setting of an equation, with the sums in its jaxprs shortened."""
    if isinstance(value, ClosedJaxpr):
        return shorten_sums(value)
    if isinstance(value, Jaxpr):
        return _shortened(value)
    if isinstance(value, tuple) and any(isinstance(each, ClosedJaxpr | Jaxpr) for each in value):
        found = tuple(map(_inside, value))
        return value if all(one is other for one, other in zip(found, value, strict=True)) else found
    return value


def _type(atom: Any) -> ShapedArray:
    return cast(ShapedArray, atom.aval)


def _is_long(eqn: JaxprEqn) -> bool:
    (operand,), axes = map(_type, eqn.invars), eqn.params["axes"]
    narrow = jnp.issubdtype(operand.dtype, jnp.floating) and operand.dtype.itemsize <= 4
    return narrow and bool(axes) and math.prod(operand.shape[min(axes) :]) > LONGEST


def _in_place_of(eqn: JaxprEqn, function: Any) -> Iterator[JaxprEqn]:
    """What a function does, as equations that give the results of this one."""
    traced = jax.make_jaxpr(function)(*map(_type, eqn.invars)).jaxpr
    names: dict[Any, Any] = dict(zip(traced.invars, eqn.invars, strict=True))
    names.update(zip(traced.outvars, eqn.outvars, strict=True))
    for each in traced.eqns:
        for var in each.outvars:
            names.setdefault(var, Var(_type(var)))
        invars = [names[atom] if isinstance(atom, Var) else atom for atom in each.invars]
        yield each.replace(invars=invars, outvars=[names[var] for var in each.outvars])


def total(x: Array, axes: Sequence[int]) -> Array:
    """Sum over axes, the last of them first, at most `LONGEST` numbers at once."""
    for axis in sorted(axes, reverse=True):
        while x.shape[axis] > 1 and math.prod(x.shape[axis:]) > LONGEST:
            behind = math.prod(x.shape[axis + 1 :])
            x = _by_product(x, axis) if 2 * behind > LONGEST else _in_parts(x, axis, LONGEST // behind)
        x = lax.optimization_barrier(lax.reduce_sum(x, (axis,)))
    return x


def _in_parts(x: Array, axis: int, size: int) -> Array:
    """Sums of parts of an axis, of about equal length and at most this."""
    count = -(-x.shape[axis] // size)
    length = -(-x.shape[axis] // count)
    border = [(0, length * count - x.shape[axis] if k == axis else 0, 0) for k in range(x.ndim)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), border)
    parted = padded.reshape(*x.shape[:axis], count, length, *x.shape[axis + 1 :])
    return lax.optimization_barrier(lax.reduce_sum(parted, (axis + 1,)))


def _by_product(x: Array, axis: int) -> Array:
    """Sum over an axis, which keeps a size of 1."""
    ones = lax.optimization_barrier(jnp.ones(x.shape[axis], x.dtype))
    summed = lax.dot_general(x, ones, (((axis,), (0,)), ((), ())), preferred_element_type=x.dtype)
    return jnp.expand_dims(summed, axis)
