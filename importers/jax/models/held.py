"""Arrays that a function holds without being passed them, by path: `weights.layers.0.kernel`. They are names only."""

from __future__ import annotations

from collections.abc import Iterator
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import jax

from ..scopes import joined
from .model import is_array, path_of

_DEEPEST = 4  # functions that call functions


def held_by(function: Any) -> dict[str, Any]:
    """Arrays in the closure of a function, among the globals it reads, and in the object that it belongs to."""
    found: dict[str, Any] = {}
    for path, array in _held(function, _DEEPEST):
        found.setdefault(path, array)
    return found


def _held(function: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in _parts(function):
        if isinstance(value, FunctionType | MethodType) or hasattr(value, "__wrapped__"):
            yield from _held(value, depth - 1) if depth else ()
        else:
            yield from _arrays(name, value)


def _parts(function: Any) -> Iterator[tuple[str, Any]]:
    """What a function holds, by the names that its code has for it."""
    if isinstance(function, MethodType):
        yield from vars(function.__self__).items() if hasattr(function.__self__, "__dict__") else ()
        function = function.__func__
    if hasattr(function, "__wrapped__"):
        yield "", function.__wrapped__
    elif isinstance(function, FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            yield from ((name, value) for value in _contents(cell))
        names = function.__code__.co_names
        for name in (each for each in names if each in function.__globals__):
            value = function.__globals__[name]
            inside = vars(value) if isinstance(value, ModuleType) and not value.__name__.startswith("jax") else {}
            yield from ((joined(name, each), inside[each]) for each in names if each in inside)
            if not isinstance(value, ModuleType):
                yield name, value
    else:
        yield from getattr(function, "__dict__", {}).items()


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Iterator):
        return
    try:
        leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    except (TypeError, ValueError):  # a mapping whose keys have no order is no tree of weights
        return
    for path, leaf in leaves:
        if is_array(leaf):
            yield joined(name, path_of(path)).removesuffix(".value"), leaf


def _contents(cell: CellType) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # not assigned yet
        return
