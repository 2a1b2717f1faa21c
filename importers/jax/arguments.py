"""The parameters of a model, and the call that a user means by what he passes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .scopes import joined

_KIND = inspect.Parameter
_BY_PLACE = (_KIND.POSITIONAL_ONLY, _KIND.POSITIONAL_OR_KEYWORD)
_BY_NAME = (_KIND.POSITIONAL_OR_KEYWORD, _KIND.KEYWORD_ONLY)


class Arguments(NamedTuple):
    """Arguments, positional and by keyword."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model.

    Attributes:
        placed: Names of those that can be passed by position, in order.
        named: Names of those that can be passed by name.
        any_name: Whether any other name is taken as well.
        needed: How many have to be passed.
    """

    placed: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()
    any_name: bool = False
    needed: int = 1

    @classmethod
    def of(cls, signature: inspect.Signature | None) -> Parameters:
        """The parameters of a signature, if there is one."""
        if signature is None:
            return cls()
        each = signature.parameters.values()
        own = [one for one in each if one.kind not in (_KIND.VAR_POSITIONAL, _KIND.VAR_KEYWORD)]
        return cls(
            tuple(one.name for one in own if one.kind in _BY_PLACE),
            frozenset(one.name for one in own if one.kind in _BY_NAME),
            any(one.kind == _KIND.VAR_KEYWORD for one in each) and not any(one.kind in _BY_PLACE for one in own),
            sum(one.default is _KIND.empty for one in own),
        )

    def arguments(self, inputs: Any) -> Arguments:
        """The call that a user means by these inputs.

        A mapping whose keys are all parameters holds keyword arguments, and a tuple positional ones; any other tree is
        the first argument.
        """
        if isinstance(inputs, Arguments):
            return inputs
        if isinstance(inputs, Mapping) and inputs and self._are_keywords(inputs):
            return Arguments((), dict(inputs))
        return Arguments(inputs if type(inputs) is tuple else (inputs,), {})

    def _are_keywords(self, inputs: Mapping[Any, Any]) -> bool:
        return all(isinstance(name, str) and (name in self.named or self.any_name) for name in inputs)

    def name(self, place: int) -> str:
        """What the argument at a place is called."""
        return self.placed[place] if place < len(self.placed) else joined("input", place)
