"""Modes: named, ordered lists of (selector, rule); the first selector that matches an equation gives its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jax import Array

from ..errors import SettingError
from ..ir import Eqn
from ..ops import LINEAR, MOVE, NORM, POINTWISE, PRODUCT, QUOTIENT, SELECT, SOFTMAX, SUM
from . import default, shared
from .site import EMBEDDING, Kept, Shares, Site


def every(bears: tuple[bool, ...]) -> tuple[bool, ...]:
    """All operands that bear relevance take a share."""
    return bears


def first(bears: tuple[bool, ...]) -> tuple[bool, ...]:
    """Only the first operand that bears relevance takes a share."""
    return tuple(i == bears.index(True) for i in range(len(bears)))


@dataclass(frozen=True)
class Rule:
    """A relevance rule.

    Attributes:
        name: Name for reports.
        apply: Pure function (site, relevance of the result) -> (shares, kept).
        keeps_sign: Whether relevance that is not negative anywhere gives shares that are not negative anywhere.
        takers: Which of the operands that bear relevance get a share.
    """

    name: str
    apply: Callable[[Site, Array], tuple[Shares, Kept]]
    keeps_sign: bool
    takers: Callable[[tuple[bool, ...]], tuple[bool, ...]] = every


@dataclass(frozen=True)
class Selector:
    """Chooses equations by kind, by operation, or both; None matches anything."""

    kind: str | None = None
    op: str | None = None

    def matches(self, eqn: Eqn, kind: str) -> bool:
        """Whether an equation, being of this kind where it stands, is chosen."""
        return self.kind in (None, kind) and self.op in (None, eqn.op)


@dataclass(frozen=True)
class Mode:
    """A named composite.

    Attributes:
        name: What the user asks for.
        summary: One line.
        reference: Where it is published.
        rules: (selector, rule) pairs, first match wins.
    """

    name: str
    summary: str
    reference: str
    rules: tuple[tuple[Selector, Rule], ...]

    def rule(self, eqn: Eqn, kind: str) -> Rule | None:
        """The rule of an equation; None where the mode has none."""
        return next((rule for selector, rule in self.rules if selector.matches(eqn, kind)), None)


def _by_kind(rules: dict[str, Rule]) -> tuple[tuple[Selector, Rule], ...]:
    return tuple((Selector(kind=kind), rule) for kind, rule in rules.items())


_TAKE_ALL = Rule("identity", shared.identity, keeps_sign=True, takers=first)

_SHARED = {
    MOVE: Rule("move", shared.move, keeps_sign=True),
    SELECT: Rule("winner", shared.select, keeps_sign=True),
    POINTWISE: _TAKE_ALL,
    NORM: _TAKE_ALL,
    SOFTMAX: _TAKE_ALL,
    QUOTIENT: Rule("numerator", shared.identity, keeps_sign=True, takers=first),
    EMBEDDING: Rule("token", shared.embedding, keeps_sign=True),
}

MODES = {
    mode.name: mode
    for mode in (
        Mode(
            "default",
            "relevance in proportion to the magnitude of each contribution",
            "DLBacktrace, arXiv 2411.12643",
            _by_kind(
                {
                    LINEAR: Rule("proportional", default.linear, keeps_sign=True),
                    SUM: Rule("proportional", default.total, keeps_sign=True),
                    PRODUCT: Rule("halves", default.product, keeps_sign=True),
                    **_SHARED,
                }
            ),
        ),
    )
}


def find_mode(name: str) -> Mode:
    """The mode of this name.

    Raises:
        SettingError: Listing the modes there are.
    """
    if name not in MODES:
        raise SettingError(f"mode {name!r} does not exist; there are: {', '.join(MODES)}")
    return MODES[name]
