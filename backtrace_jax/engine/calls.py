"""The calls of modules: which equations belong to which call, and the value each call ends with.

Most imports of ours keep count of calls. Other files name modules, but not calls; there a call ends where another
module begins, or where a weight inside is read once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from backtrace_jax.ir import Eqn, Graph

WEIGHT = ".weight"
_NUMBER = re.compile(r":\d+(?=/|$)")


def calls_of(graph: Graph) -> dict[str, dict[str, str]]:
    """The calls of each module, enclosing modules included, and the last value computed in each call.

    An exporter that folds batch normalisation into a convolution names the node after the former; the owner of the
    weights, `conv1` for `conv1.weight`, stands for it as well.
    """
    found: dict[str, dict[str, str]] = {}
    counting = _Counting(graph)
    for place, eqn in enumerate(graph.eqns):
        for name in counting.names(place, eqn):
            if eqn.outvars[0].is_float:
                found.setdefault(_NUMBER.sub("", name), {})[name] = eqn.outvars[0].name
    return found


class _Counting:
    """Numbers the calls of modules in the order of the graph."""

    def __init__(self, graph: Graph) -> None:
        self.params = {var.name for var in graph.params}
        sources = [eqn.source for eqn in graph.eqns]
        self.named = {_NUMBER.sub("", name) for source in sources for name in (*source.calls, *_around(source.module))}
        self.uses: dict[str, int] = {}  # by weight
        self.last: dict[str, int] = {}  # place of a module's last equation
        self.number: dict[str, int] = {}  # of a module's call
        self.read: dict[str, set[str]] = {}  # weights inside it that it has read

    def names(self, place: int, eqn: Eqn) -> list[str]:
        """The modules that an equation belongs to, each numbered by its calls."""
        weights = [var.name for var in eqn.invars if var.name in self.params and var.name.endswith(WEIGHT)]
        inside = list(eqn.source.calls) or [self._counted(place, path, weights) for path in _around(eqn.source.module)]
        plain = {_NUMBER.sub("", name) for name in inside}
        containers = {part: None for name in plain for part in _around(name) if part not in plain}  # never called
        return [*containers, *inside, *(name for weight in weights for name in self._owner(weight))]

    def _counted(self, place: int, path: str, weights: Sequence[str]) -> str:
        own = {weight for weight in weights if weight.startswith(f"{path}.")}
        again = own & self.read.get(path, set())
        if path in self.last and (self.last[path] < place - 1 or again):
            self.number[path] = self.number.get(path, 0) + 1
            self.read[path] = set()
        self.last[path] = place
        self.read.setdefault(path, set()).update(own)
        return _numbered(path, self.number.get(path, 0))

    def _owner(self, weight: str) -> Iterator[str]:
        """The module that a weight belongs to, where no equation bears its name; those around it end elsewhere."""
        number, owner = self.uses.get(weight, 0), weight.removesuffix(WEIGHT)
        self.uses[weight] = number + 1
        if owner not in self.named:
            yield _numbered(owner, number)


def _around(module: str) -> list[str]:
    """Paths of a module and those around it, from the outside in."""
    parts = module.split(".") if module else []
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _numbered(path: str, number: int) -> str:
    return f"{path}:{number}" if number else path
