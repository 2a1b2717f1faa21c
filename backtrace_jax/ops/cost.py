"""What an operation costs to compute at once, operation by operation, without computing it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from .registry import OPS, Typed

Type = tuple[tuple[int, ...], np.dtype]

_PER_ENTRY = 16  # work of one entry of an intermediate result: it is bound by memory, a product by arithmetic
_INTEGER = 16  # how much slower contractions of integers are
_RUNNING = 8  # how much slower running sums,
_SORTED = 128  # ... and sorting is than going over the entries once


@dataclass(frozen=True)
class Cost:
    """What computing an operation takes.

    Attributes:
        values: Type of every value that is made on the way, the results included.
        work: Multiplications of contractions, and what all else takes in the same unit.
    """

    values: tuple[Type, ...]
    work: int


def evaluation_cost(op: str, operands: Sequence[Typed], params: Mapping[str, Any]) -> Cost:
    """What `evaluate` would take."""
    types = tuple((tuple(operand.shape), np.dtype(operand.dtype)) for operand in operands)
    return _cost(op, types, tuple(params.items()))


@lru_cache(maxsize=4096)
def _cost(op: str, types: tuple[Type, ...], settings: tuple) -> Cost:
    params = dict(settings)
    with jax.enable_x64(True):
        arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
        traced = jax.make_jaxpr(lambda *arrays: OPS[op](*arrays, **params))(*arguments)
    values = dict.fromkeys(_type(var) for eqn in _equations(traced.jaxpr) for var in eqn.outvars)
    return Cost(tuple(values), _work(traced.jaxpr))


def _type(var: Any) -> Type:
    return tuple(var.aval.shape), np.dtype(var.aval.dtype)


def _bodies(eqn: Any) -> list[Any]:
    """The jaxprs among an equation's settings."""
    found = [item for value in eqn.params.values() for item in (value if isinstance(value, tuple | list) else [value])]
    return [getattr(item, "jaxpr", item) for item in found if hasattr(getattr(item, "jaxpr", item), "eqns")]


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for body in _bodies(eqn):
            yield from _equations(body)


def _work(jaxpr: Any) -> int:
    return sum(_equation_work(eqn) for eqn in jaxpr.eqns)


def _equation_work(eqn: Any) -> int:
    bodies = _bodies(eqn)
    if bodies:
        return eqn.params.get("length", 1) * sum(map(_work, bodies))
    sizes = [math.prod(var.aval.shape) for var in (*eqn.invars, *eqn.outvars)]
    factor = _REPEATS.get(eqn.primitive.name, lambda eqn: _PER_ENTRY)(eqn)
    return factor * max(sizes[len(eqn.invars) :] if eqn.primitive.name in _REPEATS else sizes, default=0)


def _contracted(eqn: Any) -> int:
    (axes, _), _ = eqn.params["dimension_numbers"]
    return _slowness(eqn) * math.prod(eqn.invars[0].aval.shape[axis] for axis in axes) + _PER_ENTRY


def _convolved(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return _slowness(eqn) * math.prod(kernel) // max(1, outputs) + _PER_ENTRY


def _slowness(eqn: Any) -> int:
    return 1 if eqn.invars[0].aval.dtype in (np.float32, np.float64) else _INTEGER


def _factorised(eqn: Any) -> int:
    return _INTEGER * max(eqn.invars[0].aval.shape[-1:], default=1) + _PER_ENTRY


def _windowed(eqn: Any) -> int:
    return math.prod(eqn.params.get("window_dimensions", ())) + _PER_ENTRY


_REPEATS = {  # work per entry of the result, of what does not go over the entries once
    "dot_general": _contracted,
    "conv_general_dilated": _convolved,
    "reduce_window": _windowed,
    "reduce_window_sum": _windowed,
    "reduce_window_max": _windowed,
    "reduce_window_min": _windowed,
    "lu": _factorised,
    "triangular_solve": _factorised,
    "sort": lambda eqn: _SORTED * _PER_ENTRY,
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), lambda eqn: _RUNNING * _PER_ENTRY),
    "fft": lambda eqn: _SORTED * _PER_ENTRY,
}
