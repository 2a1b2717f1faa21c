"""Hash of everything that decides what a model computes, as far as Python lets one see it.

Attributes of any structure, arrays, and the code of functions and of the classes of objects, with defaults, closures
and the globals it reads: data, and functions, classes and objects of the same package. What is hidden deeper shows in
the outputs, which are compared with the model's own on every call. A framework says what its arrays are, and which
objects it takes in by itself.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice)
_CODE = (types.FunctionType, staticmethod, classmethod, property, functools.partial)
_MOST = 200_000  # values that are taken in: a vocabulary, but not a data set


class Hash:
    """Takes in values of any kind; one that was taken in before is told by its place.

    Attributes:
        plain: Types of values that their text tells.
        arrays: Types of arrays.
        foreign: Packages whose objects are nobody's settings.
        cut: Whether there was more than is taken in.
    """

    plain: ClassVar[tuple[type, ...]] = _PLAIN
    arrays: ClassVar[tuple[type, ...]] = (np.ndarray,)
    foreign: ClassVar[frozenset[str]] = sys.stdlib_module_names | {"builtins", "numpy"}

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.cut = False
        self._seen: dict[int, tuple[int, Any]] = {}

    def add(self, value: Any) -> None:
        """Take in a value and all that it holds."""
        waiting = [value]
        while waiting and len(self._seen) < _MOST:
            waiting += reversed([*self._taken(waiting.pop())])
        self.cut = self.cut or bool(waiting)

    def numbers(self, value: Any) -> bytes | memoryview:
        """The bytes of an array; nothing of one that holds no numbers."""
        if value.dtype.hasobject:
            return repr(value.tolist()).encode()
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8).data

    def attributes(self, value: Any) -> Iterator[Any]:
        """What an object that is no structure consists of."""
        yield dict(getattr(value, "__dict__", {}))
        yield from self.members(type(value))

    def is_layer(self, kind: type) -> bool:
        """Whether a class of other packages decides by its methods what a model computes."""
        return False

    def _taken(self, value: Any) -> Iterator[Any]:
        """Take in a value by itself, and say what it holds."""
        if isinstance(value, self.plain):
            self.note(repr(value))
            return
        known = self._seen.get(id(value))
        if known is not None:
            self.note(f"again {known[0]}")
            return
        self._seen[id(value)] = len(self._seen), value  # held, so that its id stays its own
        self.note(type(value).__qualname__)
        if isinstance(value, self.arrays):
            self.note(f"{value.dtype} {tuple(value.shape)}")
            self.digest.update(self.numbers(value))
        else:
            yield from self._held(value)

    def note(self, text: str) -> None:
        """Take in a text."""
        self.digest.update(text.encode() + b"\0")

    def _held(self, value: Any) -> Iterator[Any]:
        """What a value consists of."""
        if isinstance(value, Mapping):
            yield from value.items()
        elif isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, set | frozenset):
            yield sorted(map(repr, value))
        elif isinstance(value, type):
            yield value.__qualname__
            yield from self.members(value)
        elif isinstance(value, _CODE):
            yield from self._code(value)
        elif isinstance(value, types.MethodType):
            yield from (value.__func__, value.__self__)
        elif isinstance(value, types.CodeType):
            yield from (value.co_code, value.co_consts, value.co_names)
        elif not isinstance(value, types.ModuleType):
            yield from self.attributes(value)

    def members(self, kind: type) -> Iterator[Any]:
        """Methods and constants of a class, those that it inherits among them; of other packages, of layers only."""
        for each in kind.__mro__:
            if self.is_layer(each) or root(each) not in self.foreign:
                yield [(name, value) for name, value in vars(each).items() if isinstance(value, (*_CODE, *self._data))]

    @property
    def _data(self) -> tuple[type, ...]:
        return (*self.plain, list, tuple, set, frozenset, dict, *self.arrays)

    def _code(self, value: Any) -> Iterator[Any]:
        if isinstance(value, property):
            yield value.fget
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, staticmethod | classmethod):
            yield value.__func__
        else:
            yield from self.function(value)

    def function(self, function: types.FunctionType) -> Iterator[Any]:
        """Its code, defaults and closure, and what it reads of the globals."""
        yield function.__code__
        yield from bound(function)
        names = [*_names(function.__code__)]
        for name in names:
            found = function.__globals__.get(name)
            if isinstance(found, types.ModuleType) and self.is_own(found, function):
                yield [getattr(found, each, None) for each in names if self.is_read(vars(found).get(each), function)]
            elif self.is_read(found, function):
                yield found

    def is_own(self, module: types.ModuleType, function: types.FunctionType) -> bool:
        """Whether what a function reads of a module may be a setting."""
        return root(function) == root(module)

    def is_read(self, found: Any, function: types.FunctionType) -> bool:
        """Whether a global is data, or a function, class or object of the package that the function is of."""
        if isinstance(found, (*self._data, types.SimpleNamespace)):
            return True
        if isinstance(found, types.FunctionType):
            return found.__globals__ is function.__globals__
        owner = found if isinstance(found, type) else type(found)
        return root(function) not in self.foreign and root(owner) == root(function)


def bound(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds: its defaults and its closure."""
    yield from (function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            yield None


def root(value: Any) -> str:
    """The package that a function, a class or a module is of."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(name).partition(".")[0]


def _names(code: types.CodeType) -> Iterator[str]:
    """The globals and attributes that code reads, that of the functions inside it among them."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
