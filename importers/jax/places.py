"""Where lowering is: in which module, in which of its calls, and at which line of the user's code."""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from jax.extend import core, source_info_util

from backtrace_jax.ir import Source

from .scopes import Scope, joined

_OURS = os.path.dirname(__file__)
LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), _OURS)
_TRACING = os.path.join(_OURS, "tracing.py")  # what is around it calls this library
_TRANSFORM = re.compile(r"\w+\(([^()]*)\)")


class Places:
    """Where lowering is, the bodies of loops included.

    Attributes:
        nodes: How many equations have had each name.
    """

    def __init__(self) -> None:
        self._lines: list[Any] = []
        self.nodes: Counter[str] = Counter()
        self._within = Scope()
        self._calls: dict[str, dict[int, int]] = {}
        self._turns: list[tuple[str, int]] = []

    @property
    def scope(self) -> str:
        """Path of the module, and of the user's own scopes inside it."""
        return self._turned(self._within.path)

    @property
    def line(self) -> str:
        """The line of the user's code: the innermost that is known, of what a library computes that which calls it."""
        found = [*map(_users_line, reversed(self._lines)), *map(source_info_util.summarize, reversed(self._lines))]
        return next(filter(None, found), "unknown")

    @contextmanager
    def at(self, eqn: Any) -> Iterator[Source]:
        """Be at an equation; gives what its results are said to come from."""
        before = self._within
        self._within = before.inside(scopes_of(eqn))
        self._lines.append(eqn.source_info)
        try:
            yield Source(self._node(eqn.primitive.name), f"jax.{eqn.primitive.name}", self.scope, self._numbered())
        finally:
            self._within = before
            self._lines.pop()

    @contextmanager
    def turn(self, jaxpr: Any, number: int) -> Iterator[None]:
        """Be in one turn of a loop over modules: its number goes behind the path that all in its jaxpr share."""
        paths = [here.path.split(".") for here in _scopes(jaxpr, self._within) if here != self._within]
        shared = takewhile(lambda names: len(names) == 1, map(set, zip(*paths, strict=False)))
        self._turns.append((joined(*(names.pop() for names in shared)), number))
        try:
            yield
        finally:
            self._turns.pop()

    def _turned(self, path: str) -> str:
        for front, number in reversed(self._turns):
            if not front or f"{path}.".startswith(f"{front}."):
                path = joined(front, number, path[len(front) :].removeprefix("."))
        return path

    def _node(self, primitive: str) -> str:
        name = f"{self.scope.replace('.', '/')}/{primitive}".lstrip("/")
        self.nodes[name] += 1
        return name if self.nodes[name] == 1 else f"{name}.{self.nodes[name] - 1}"

    def _numbered(self) -> tuple[str, ...]:
        """The calls around, numbered as they come: calls that nothing is computed from do not count.

        Where paths are written with slashes, as Keras does, the number of a call is part of what is inside: `a:1/b`.
        """
        names: list[str] = []
        around = ""
        for path, call in self._within.calls:
            path = self._turned(path)
            around, path = path, names[-1] + path[len(around) :] if names and path.startswith(f"{around}/") else path
            known = self._calls.setdefault(path, {})
            number = known.setdefault(call, len(known))
            names.append(f"{path}:{number}" if number else path)
        own = self._within.own if names else ()
        inner = (joined(self._within.calls[-1][0], *own[: end + 1]) for end in range(len(own)))
        return (*names, *map(self._turned, inner))


def _scopes(jaxpr: Any, within: Scope) -> Iterator[Scope]:
    """Where the equations of a jaxpr are, those inside others included."""
    for eqn in jaxpr.eqns:
        here, bodies = within.inside(scopes_of(eqn)), [*core.jaxprs_in_params(eqn.params)]
        for body in bodies:
            yield from _scopes(body, here)
        if not bodies:
            yield here


def _users_line(info: Any) -> str:
    """The innermost line outside installed libraries, of those that tracing has come through."""
    for frame in info.traceback.frames if info.traceback is not None else ():
        if frame.file_name == _TRACING:
            return ""
        if not frame.file_name.startswith(LIBRARIES):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return ""


def scopes_of(eqn: Any) -> list[str]:
    """Names of the scopes around an equation, inside the function that holds it, from the outside in.

    What JAX's transformations put around a name goes: `vmap(mlp)` is `mlp`.
    """
    text = str(eqn.source_info.name_stack)
    while (plainer := _TRANSFORM.sub(r"\1", text)) != text:
        text = plainer
    return [*filter(None, text.split("/"))]
