"""Keeps what is wide in a traced function: XLA would compute it anew inside each of its readers.

A sum of n operands hands its rate to n shares; fused into each of them, with all that it is computed from, it costs n²
to compile and to run. A concatenation of n operands is fused with all of them, and again into each of its readers; a
split into n results with all that reads them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var

MANY = 16
"""Equations that may read a value, and values that an equation may read or give, before they are kept."""


def keep_wide(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The same function, with optimisation barriers behind arrays that more than `MANY` equations read, and around
    equations that read or give more than `MANY` arrays."""
    readers = Counter(var for eqn in closed.jaxpr.eqns for var in set(_arrays(eqn.invars)))
    wide = {var for var, count in readers.items() if count > MANY}
    kept: dict[Any, Any] = {}
    eqns: list[JaxprEqn] = []
    for eqn in closed.jaxpr.eqns:
        many = max(len(eqn.invars), len(eqn.outvars)) > MANY and eqn.primitive is not _template().primitive
        eqns += _barrier(_arrays(eqn.invars), kept) if many else []
        now = [kept.get(var, var) if isinstance(var, Var) else var for var in eqn.invars] if kept else eqn.invars
        eqns.append(eqn.replace(invars=now) if now != eqn.invars else eqn)
        eqns += _barrier(_arrays(eqn.outvars) if many else [var for var in eqn.outvars if var in wide], kept)
    return closed if not kept else ClosedJaxpr(closed.jaxpr.replace(eqns=eqns), closed.consts)


def type_of(atom: Any) -> ShapedArray:
    """Type of a variable or literal of a traced function."""
    return cast(ShapedArray, atom.aval)


def _arrays(atoms: Sequence[Any]) -> list[Var]:
    return [atom for atom in atoms if isinstance(atom, Var) and type_of(atom).size > 1]


def _barrier(variables: Sequence[Var], kept: dict[Any, Any]) -> Iterator[JaxprEqn]:
    """A barrier around those of these variables that are not kept yet."""
    new: list[Any] = [var for var in dict.fromkeys(variables) if var not in kept]
    if new:
        eqn = _template().replace(invars=new, outvars=[Var(type_of(var)) for var in new])
        kept.update(zip(new, eqn.outvars, strict=True))
        yield eqn


@functools.cache
def _template() -> JaxprEqn:
    """A barrier around something."""
    (eqn,) = jax.make_jaxpr(lambda *arrays: lax.optimization_barrier(arrays))(np.zeros(2, np.float32)).jaxpr.eqns
    return eqn
