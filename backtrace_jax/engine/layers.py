"""Chooses the intermediate values whose relevance the user asked for, by value or module name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..errors import SettingError
from ..ir import Graph, Var

ALL = "all"
WEIGHT = ".weight"


def select_layers(graph: Graph, wanted: str | Sequence[str] | None) -> dict[str, str]:
    """Map what the user will find in `layers` to the value it stands for.

    Args:
        graph: The graph.
        wanted: None, "all" (every computed value), or names and globs of values and modules. A module stands for the
            last value computed in it.

    Raises:
        SettingError: For a name that matches nothing.
    """
    values = {var.name: var.name for eqn in graph.eqns for var in eqn.outvars if var.is_float}
    if wanted is None:
        return {}
    if wanted in (ALL, (ALL,)):
        return values
    known = {**values, **_modules(graph)}
    found: dict[str, str] = {}
    for pattern in (wanted,) if isinstance(wanted, str) else wanted:
        matches = {name: known[name] for name in known if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            raise SettingError(
                f"layers: nothing is called {pattern!r}; names are, for example: {', '.join([*known][:8])}"
            )
        found.update(matches)
    return found


def select_value(graph: Graph, name: str) -> Var | None:
    """The computed value of this name, or the last one computed in the module of this name; None: there is none."""
    values = {var.name: var for eqn in graph.eqns for var in eqn.outvars}
    return values.get(name) or values.get(_modules(graph).get(name, ""))


def _modules(graph: Graph) -> dict[str, str]:
    """The last value computed inside each module, enclosing modules included.

    An exporter that folds batch normalisation into a convolution names the node after the former; the owner of the
    weights, `conv1` for `conv1.weight`, stands for it as well.
    """
    last: dict[str, str] = {}
    params = {var.name for var in graph.params}
    for eqn in graph.eqns:
        weights = [var.name for var in eqn.invars if var.name in params and var.name.endswith(WEIGHT)]
        owners = [name.removesuffix(WEIGHT) for name in weights]
        for module in filter(None, (eqn.source.module, *owners)) if eqn.outvars[0].is_float else ():
            parts = module.split(".")
            last.update({".".join(parts[:depth]): eqn.outvars[0].name for depth in range(1, len(parts) + 1)})
    return last
