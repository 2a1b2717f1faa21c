"""What an ONNX name stands for where it is read: values by name, in scopes one inside the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

DEEPEST = 32
"""Scopes inside one another: sub-graphs of sub-graphs, functions that call functions."""


@dataclass(frozen=True)
class Absent:
    """An optional value that holds nothing."""


ABSENT = Absent()


@dataclass(frozen=True)
class TensorSequence:
    """A sequence, whose length is known while lowering."""

    items: tuple[Held, ...] = ()


@dataclass(frozen=True)
class Text:
    """Text chosen while the model runs, as a classifier's label is: positions among words known beforehand."""

    positions: Value
    words: tuple[str, ...]


Held: TypeAlias = "Value | TensorSequence | Text | Absent"
"""What a name may stand for: a tensor, a sequence, text, or an optional that holds nothing."""

Capture: TypeAlias = Callable[[str, Held], Held]


class Scope:
    """The names that a graph, a sub-graph or a function body sees.

    Attributes:
        opsets: Opset of each imported domain; the standard one is called "ai.onnx".
        attributes: Attributes that the nodes of a function body may refer to, by name.
        depth: How many scopes lie around this one.
    """

    def __init__(
        self,
        opsets: dict[str, int],
        around: Scope | None = None,
        attributes: Mapping[str, onnx.AttributeProto] | None = None,
        capture: Capture | None = None,
        depth: int = 0,
    ) -> None:
        """Begin a scope.

        Args:
            opsets: Opset of each imported domain.
            around: The scope whose names are seen as well; None: none.
            attributes: Attributes of the function around.
            capture: What a value of the scope around becomes in this one; None: itself.
            depth: Number of scopes around, where `around` does not say.
        """
        self.opsets, self.attributes = opsets, attributes or {}
        self.depth = depth if around is None else around.depth + 1
        self._around, self._capture = around, capture
        self._values: dict[str, Held | None] = {}
        if self.depth > DEEPEST:
            raise UnsupportedError(f"sub-graphs and functions are nested more than {DEEPEST} deep; refused")

    def define(self, name: str, value: Held | None) -> None:
        """Bind a name that is not bound here yet; None: an operand that a function was not given."""
        if name in self._values:
            raise ModelError(f"value {name!r} is computed twice; the file is not valid ONNX")
        self._values[name] = value

    def find(self, name: str) -> Held | None:
        """What a name stands for here.

        Raises:
            ModelError: When it stands for nothing.
        """
        if name in self._values:
            return self._values[name]
        if self._around is None:
            raise ModelError(f"value {name!r} is not computed before it is used; the graph is cyclic or cut")
        found = self._around.find(name)
        return self._capture(name, found) if self._capture and found is not None else found


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Opset of each imported domain."""
    return {entry.domain or "ai.onnx": entry.version for entry in imports}
