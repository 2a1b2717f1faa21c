"""Frozen data as JSON and arrays: graphs, settings, and what else of an explainer a file holds.

JSON's own types stand for themselves, but for floats, which are written in hexadecimal; everything else is an object
with one entry, whose name says what it is. Arrays, functions and weights are numbered. What is read is untrusted: only
the classes listed here are made, and their parts are checked by those that use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import jax
import ml_dtypes  # noqa: F401  (registers its types by name)
import numpy as np

from backtrace_jax.batch import Leaving
from backtrace_jax.engine.books import Books
from backtrace_jax.engine.compile import Answers, Made, Result
from backtrace_jax.engine.exported import Function
from backtrace_jax.engine.pieces import Piece, Pieces
from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir import Eqn, Graph, Source, Var
from backtrace_jax.ir.imported import InputType

_DATA = {each.__name__: each for each in (Answers, Eqn, Graph, InputType, Leaving, Piece, Pieces, Source, Var)}
_NAMED = {each.__name__: each for each in (Books, Made, Result)}
_TREE = type(jax.tree.structure(0))


class Writing:
    """Writes values; collects their arrays.

    Attributes:
        arrays: By number.
    """

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self._numbers: dict[int, int] = {}
        self._functions: list[Function] = []

    def value(self, value: Any) -> Any:
        """A value as JSON.

        Raises:
            SettingError: When it is of a type that a file cannot hold.
        """
        if value is None or type(value) in (bool, int, str):
            return value
        for kind, (name, parts) in _WRITTEN.items():
            if isinstance(value, kind):
                return {name: parts(self, value)}
        name = type(value).__name__
        if _DATA.get(name) is type(value):
            return {name: [self.value(getattr(value, each.name)) for each in fields(value)]}
        raise SettingError(f"this cannot be exported: it holds a {name}; give it to the process as Python code")

    def array(self, array: np.ndarray) -> list[Any]:
        """An array's number and type."""
        self.arrays.append(array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array)
        return [len(self.arrays) - 1, array.dtype.name]

    def many(self, values: Any) -> list[Any]:
        """Values one after the other."""
        return [self.value(each) for each in values]

    def function(self, function: Function) -> list[Any]:
        """A function's number and tree; each is written once."""
        if id(function) not in self._numbers:
            self._functions.append(function)
            self._numbers[id(function)] = self.array(np.frombuffer(function.code, np.uint8))[0]
        return [self._numbers[id(function)], self.value(function.tree)]


def _tree(writing: Writing, tree: Any) -> Any:
    return writing.value(jax.tree.unflatten(tree, range(tree.num_leaves)))


def _pairs(writing: Writing, value: Mapping[Any, Any]) -> list[Any]:
    return [writing.many(pair) for pair in value.items()]


def _named(writing: Writing, value: Any) -> list[Any]:
    """A tuple's name, if it has one, and its entries."""
    name = "" if type(value) is tuple else type(value).__name__
    if name and _NAMED.get(name) is not type(value):
        raise SettingError(f"this cannot be exported: it holds a {name}, which a file does not")
    return [name, *writing.many(value)]


_WRITTEN: dict[Any, tuple[str, Callable[[Writing, Any], Any]]] = {
    np.ndarray: ("array", Writing.array),
    np.generic: ("scalar", lambda writing, value: writing.array(np.asarray(value))),
    float: ("float", lambda writing, value: value.hex()),
    np.dtype: ("dtype", lambda writing, value: value.name),
    tuple: ("tuple", _named),
    list: ("list", Writing.many),
    Mapping: ("dict", _pairs),
    frozenset: ("set", lambda writing, value: writing.many(sorted(value))),
    jax.ShapeDtypeStruct: ("type", lambda writing, value: [list(value.shape), value.dtype.name]),
    _TREE: ("tree", _tree),
    Function: ("function", Writing.function),
}


class Reading:
    """Reads what `Writing` has written."""

    def __init__(self, arrays: Mapping[int, np.ndarray]) -> None:
        self._arrays = arrays
        self._functions: dict[int, Function] = {}

    def value(self, told: Any) -> Any:
        """A value.

        Raises:
            InputError: When it is none.
        """
        if told is None or type(told) in (bool, int, str):
            return told
        (name, parts), *others = told.items() if isinstance(told, dict) and told else [("", None)]
        if others or not (name in _READ or name in _DATA):
            raise InputError(f"{shown(told)} is no value")
        if name in _DATA:
            return _DATA[name](*self.many(parts))
        return _READ[name](self, parts)

    def many(self, parts: Any) -> list[Any]:
        """Values one after the other."""
        if not isinstance(parts, list):
            raise InputError(f"{shown(parts)} are no values")
        return [self.value(each) for each in parts]

    def array(self, told: Any) -> np.ndarray:
        """An array by number and type."""
        number, name = told
        found, dtype = self._arrays[number], np.dtype(name)
        return found.view(dtype) if dtype.kind == "V" and found.dtype.itemsize == dtype.itemsize else found

    def function(self, told: Any) -> Function:
        """A function by number; each is one object."""
        number, tree = told
        if number not in self._functions:
            self._functions[number] = Function(self._arrays[number].tobytes(), self.value(tree))
        return self._functions[number]


def _tuple(reading: Reading, parts: Any) -> tuple[Any, ...]:
    name, *values = parts
    found = reading.many(values)
    return _NAMED[name](*found) if name else tuple(found)


_READ: dict[str, Callable[[Reading, Any], Any]] = {
    "array": Reading.array,
    "scalar": lambda reading, parts: reading.array(parts)[()],
    "float": lambda reading, parts: float.fromhex(parts),
    "dtype": lambda reading, parts: np.dtype(parts),
    "tuple": _tuple,
    "list": Reading.many,
    "dict": lambda reading, parts: dict(map(reading.many, parts)),
    "set": lambda reading, parts: frozenset(reading.many(parts)),
    "type": lambda reading, parts: jax.ShapeDtypeStruct(tuple(parts[0]), np.dtype(parts[1])),
    "tree": lambda reading, parts: jax.tree.structure(reading.value(parts)),
    "function": Reading.function,
}
