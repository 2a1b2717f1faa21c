"""Forms: keys of what is computed, whatever names it bears."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .keeping import type_of

_DERIVED = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")
"""Parameters that say how a function would be differentiated: nobody does, and every call has another one."""


class Forms:
    """What traced functions compute whatever their variables are called: equal forms are the same function."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Any, Any]] = {}  # bodies occur over and over; kept, so that no id is used again

    def of(self, jaxpr: Jaxpr) -> Any:
        """The form of a traced function."""
        numbers: dict[Any, int] = {}
        for var in (*jaxpr.constvars, *jaxpr.invars, *(var for eqn in jaxpr.eqns for var in eqn.outvars)):
            numbers[var] = len(numbers)

        def told(atom: Any) -> Any:
            return self.setting(atom.val) if isinstance(atom, Literal) else numbers[atom]

        return (
            tuple(type_of(var) for var in (*jaxpr.constvars, *jaxpr.invars)),
            tuple(
                (
                    eqn.primitive,
                    tuple(map(told, eqn.invars)),
                    tuple(type_of(var) for var in eqn.outvars),
                    tuple((n, self.setting(value)) for n, value in sorted(eqn.params.items()) if n not in _DERIVED),
                )
                for eqn in jaxpr.eqns
            ),
            tuple(map(told, jaxpr.outvars)),
        )

    def setting(self, value: Any) -> Any:
        """A parameter as a key: equal keys mean the same, and 0.0, -0.0, 0 and False differ."""
        if isinstance(value, ClosedJaxpr):
            return self._body(value.jaxpr), tuple(map(self.setting, value.consts))
        if isinstance(value, Jaxpr):
            return self._body(value)
        if isinstance(value, tuple | list):
            return type(value), tuple(map(self.setting, value))
        if isinstance(value, np.ndarray | np.generic):
            return value.shape, value.dtype.str, value.tobytes()
        if isinstance(value, float):
            return value.hex()
        try:
            hash(value)
        except TypeError:
            self._kept[id(value)] = value, None
            return id(value)
        return type(value), value

    def _body(self, jaxpr: Jaxpr) -> Any:
        if id(jaxpr) not in self._kept:
            self._kept[id(jaxpr)] = jaxpr, self.of(jaxpr)
        return self._kept[id(jaxpr)][1]
