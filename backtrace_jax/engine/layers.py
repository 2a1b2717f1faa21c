"""Chooses the intermediate values that the user asked for, by value or module name.

A module stands for the last value computed in it. One that is called several times stands for as many: its calls are
`name`, `name:1`, `name:2`, ..., and the first one is `name:0` where a single call is to be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from backtrace_jax.errors import SettingError
from backtrace_jax.ir import Graph, Var

from .calls import calls_of

ALL = "all"


def select_layers(graph: Graph, wanted: str | Sequence[str] | None) -> dict[str, str]:
    """Map what the user will find in `layers` to the value it stands for.

    Args:
        graph: The graph.
        wanted: None, "all" (every computed value), or names and globs of values and modules; the name of a module
            stands for all its calls.

    Raises:
        SettingError: For a name that matches nothing.
    """
    values = {var.name: var.name for eqn in graph.eqns for var in eqn.outvars if var.is_float}
    if wanted is None:
        return {}
    if wanted in (ALL, (ALL,)):
        return values
    modules = calls_of(graph)
    known = {**values, **{name: value for calls in modules.values() for name, value in calls.items()}}
    found: dict[str, str] = {}
    for pattern in (wanted,) if isinstance(wanted, str) else wanted:
        matches = {name: known[name] for name in known if name == pattern or fnmatchcase(name, pattern)}
        matches |= modules.get(pattern, {}) or _first_call(modules, pattern)
        if not matches:
            raise SettingError(
                f"layers: nothing is called {pattern!r}; names are, for example: {', '.join([*known][:8])}"
            )
        found.update(matches)
    return found


def select_value(graph: Graph, name: str) -> Var | None:
    """The computed value of this name, or the last one computed in the module, or call of a module, of this name.

    Raises:
        SettingError: For a module that is called several times.
    """
    modules = calls_of(graph)
    if len(calls := modules.get(name, {})) > 1:
        names = ", ".join([f"{name}:0" if each == name else each for each in calls][:4])
        raise SettingError(f"module {name!r} is called {len(calls)} times; name one of its calls: {names}")
    values = {var.name: var for eqn in graph.eqns for var in eqn.outvars}
    known = {each: value for found in modules.values() for each, value in found.items()}
    return values.get(name) or values.get({**_first_call(modules, name), **known}.get(name, ""))


def _first_call(modules: dict[str, dict[str, str]], name: str) -> dict[str, str]:
    calls = modules.get(name.removesuffix(":0"), {}) if name.endswith(":0") else {}
    return {name: next(iter(calls.values()))} if calls else {}
