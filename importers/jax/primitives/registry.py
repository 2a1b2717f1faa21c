"""The table of JAX's primitives, filled by one file per family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from backtrace_jax.passes.build import Value

from ..lowering import Lowering

Results: TypeAlias = "Value | Sequence[Value]"
Lower: TypeAlias = Callable[..., Results]
"""Takes the lowering, the operands, and the primitive's params as keywords; gives its results."""

PRIMITIVES: dict[str, Lower] = {}
"""How each primitive is lowered, by its name."""


def primitive(*names: str) -> Callable[[Lower], Lower]:
    """Enter a function into the table, under the names of the primitives that it lowers."""

    def enter(function: Lower) -> Lower:
        PRIMITIVES.update(dict.fromkeys(names, function))
        return function

    return enter


def plain(names: Mapping[str, str]) -> None:
    """Enter primitives that are operations of ours, of the same operands and without params that matter."""

    def entered(op: str) -> Lower:
        def lower(lowering: Lowering, *operands: Value, **_: Any) -> Value:
            return lowering.emit(op, *operands)

        return lower

    PRIMITIVES.update({name: entered(op) for name, op in names.items()})
