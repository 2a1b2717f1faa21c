"""Everything in a model that cannot be lowered, not the first thing only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backtrace_jax.errors import UnsupportedError

from .keys import Held, is_key
from .lowering import Lowering


class Listing(Lowering):
    """Goes on behind what cannot be lowered, as if that were an input.

    Attributes:
        missing: Node, operator and reason of each equation that cannot be lowered.
    """

    def __init__(self, primitives: Any) -> None:
        """Nothing is missing yet."""
        super().__init__(primitives)
        self.missing: list[tuple[str, str, str]] = []

    def _lowered(self, eqn: Any, operands: Sequence[Held]) -> Sequence[Held]:
        try:
            return super()._lowered(eqn, operands)
        except UnsupportedError as error:
            if any(is_key(var.aval) for var in eqn.outvars):
                raise
            with self._at(eqn):
                self.missing.append((self.source.node, self.source.operator, str(error)))
            return [self.input("missing", tuple(var.aval.shape), var.aval.dtype) for var in eqn.outvars]
