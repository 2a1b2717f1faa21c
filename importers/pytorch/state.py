"""Hash of everything that decides what a module computes, as far as Python lets one see it.

Weights and buffers, attributes of any structure, hooks, and the code of the module's classes or of what was put in its
place on the instance, with defaults, closures and the globals it reads: data, and functions, classes and objects of the
same package. What is hidden deeper shows in the outputs, which are compared with the module's own on every call.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, slice)
_CODE = (types.FunctionType, staticmethod, classmethod, property, functools.partial)
_DATA = (*_PLAIN, list, tuple, set, frozenset, dict, np.ndarray, torch.Tensor)
_IGNORED = frozenset({"training", "_modules"})  # evaluated in any case; taken in by themselves
_FOREIGN = sys.stdlib_module_names | {
    "builtins",
    "torch",
    "numpy",
    "transformers",
}  # their objects are nobody's settings
_MOST = 200_000  # values that are taken in: a vocabulary, but not a data set


def state_of(module: torch.nn.Module) -> str:
    """Hash of a module; equal as long as nothing of it is changed."""
    found = _Hash()
    for name, part in module.named_modules(remove_duplicate=False):
        found.add((name, type(part), {key: value for key, value in vars(part).items() if key not in _IGNORED}))
    return found.digest.hexdigest()


class _Hash:
    """Takes in values of any kind; one that was taken in before is told by its place."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, tuple[int, Any]] = {}

    def add(self, value: Any) -> None:
        """Take in a value and all that it holds."""
        waiting = [value]
        while waiting and len(self._seen) < _MOST:
            waiting += reversed([*self._taken(waiting.pop())])

    def _taken(self, value: Any) -> Iterator[Any]:
        """Take in a value by itself, and say what it holds."""
        if isinstance(value, _PLAIN):
            self._note(repr(value))
            return
        known = self._seen.get(id(value))
        if known is not None:
            self._note(f"again {known[0]}")
            return
        self._seen[id(value)] = len(self._seen), value  # held, so that its id stays its own
        self._note(type(value).__qualname__)
        if isinstance(value, torch.Tensor | np.ndarray):
            self._numbers(value)
        else:
            yield from _held(value)

    def _note(self, text: str) -> None:
        self.digest.update(text.encode() + b"\0")

    def _numbers(self, value: torch.Tensor | np.ndarray) -> None:
        self._note(f"{value.dtype} {tuple(value.shape)}")
        if isinstance(value, np.ndarray):
            plain = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
            self.digest.update(plain)
        elif value.device.type != "meta" and value.layout == torch.strided:
            self.digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _held(value: Any) -> Iterator[Any]:
    """What a value consists of; nothing of a module, which is taken in as a part, and of torch's own objects."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, set | frozenset):
        yield sorted(map(repr, value))
    elif isinstance(value, type):
        yield value.__qualname__
        yield from _class(value)
    elif isinstance(value, _CODE):
        yield from _code(value)
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_consts, value.co_names)
    elif not isinstance(value, torch.nn.Module | types.ModuleType) and not type(value).__module__.startswith("torch."):
        yield dict(getattr(value, "__dict__", {}))
        yield from _class(type(value))


def _class(kind: type) -> Iterator[Any]:
    """The methods and constants of a class, those that it inherits among them; of other packages, of modules only."""
    for each in kind.__mro__:
        layer = issubclass(each, torch.nn.Module) and each is not torch.nn.Module
        if layer or _root(each) not in _FOREIGN:
            yield [(name, value) for name, value in vars(each).items() if isinstance(value, (*_CODE, *_DATA))]


def _code(value: Any) -> Iterator[Any]:
    if isinstance(value, property):
        yield value.fget
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    else:
        yield from _function(value)


def _function(function: types.FunctionType) -> Iterator[Any]:
    """Its code, defaults and closure, and what it reads of the globals."""
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            yield None
    names = [*_names(function.__code__)]
    for name in names:
        found = function.__globals__.get(name)
        if isinstance(found, types.ModuleType) and _root(function) == _root(found):
            yield [getattr(found, each, None) for each in names if _is_read(vars(found).get(each), function)]
        elif _is_read(found, function):
            yield found


def _names(code: types.CodeType) -> Iterator[str]:
    """The globals and attributes that code reads, that of the functions inside it among them."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_read(found: Any, function: types.FunctionType) -> bool:
    """Whether a global is data, or a function, class or object of the package that the function is of."""
    if isinstance(found, (*_DATA, types.SimpleNamespace)):
        return True
    if isinstance(found, types.FunctionType):
        return found.__globals__ is function.__globals__
    owner = found if isinstance(found, type) else type(found)
    return _root(function) not in _FOREIGN and _root(owner) == _root(function)


def _root(value: Any) -> str:
    """The package that a function, a class or a module is of."""
    name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(name).partition(".")[0]
