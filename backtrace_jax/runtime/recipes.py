"""What takes long to trace and compile, found by what it is made from: before anything is traced.

An executable's own name (see `executables`) tells the function that was traced; to trace takes as long as a third of
the rest. A recipe tells all that tracing reads: the plan with its graph and rules, to the last setting; the types of
all arguments; the code of this package, function by function where a rule is one, and file by file; versions, flags and
settings. What cannot be told for sure (a function of the user's own, a class that nobody knows) has no recipe, and is
traced.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar

import jax
import numpy as np

from .cache import Cache, cache_of_user
from .executables import NAMES, load
from .machine import conditions
from .numerics import COMPILER_OPTIONS

FORMAT = 1
OWN = __name__.partition(".")[0]
_KNOWN = frozenset({OWN, "jax", "jaxlib", "numpy", "ml_dtypes", "builtins", "math", "operator", "functools", "enum"})
"""Packages whose code and version a recipe tells."""
_STARTED = time.time()
_SETTLED = 5.0  # s that files were left alone before they were imported
_PLAIN = (type(None), type(...), bool, int, str, bytes, float, complex)

Made = TypeVar("Made")


class UntoldError(Exception):
    """Something of which it is not known what follows from it."""


def made_once(told: Any, device: Any, make: Callable[[], Made]) -> Made:
    """What a function makes, or what it made in another process of the same.

    Args:
        told: All that the function depends on beside this package, its libraries, and the settings of JAX here.
        device: What the executables are for.
        make: The function; what it makes can be pickled but for executables.
    """
    cache = cache_of_user()
    name = cache and _name(told, device)
    if cache is None or name is None:
        return make()
    content = cache.read(name)
    if content is not None:
        try:
            return _Reader(content, cache, device).load()
        except Exception:  # an executable that was removed, or of a version that its name does not tell
            cache.remove(name)
    made = make()
    _keep(cache, name, made)
    return made


def _keep(cache: Cache, name: str, made: Any) -> None:
    file = io.BytesIO()
    try:
        _Writer(file).dump(made)
    except UntoldError:
        return
    cache.write(name, file.getvalue())


class _Writer(pickle.Pickler):
    """Writes executables as their names."""

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, jax.stages.Compiled):
            return None
        if obj not in NAMES:
            raise UntoldError("an executable that is not kept")
        return NAMES[obj]


class _Reader(pickle.Unpickler):
    """Reads each executable once, however often it occurs."""

    def __init__(self, content: bytes, cache: Cache, device: Any) -> None:
        super().__init__(io.BytesIO(content))
        self._load = functools.cache(lambda name: load(cache, name, device))

    def persistent_load(self, pid: str) -> Any:
        found = self._load(pid)
        if found is None:
            raise UntoldError("an executable that is not kept any more")
        return found


def _name(told: Any, device: Any) -> str | None:
    settings = {name: str(getattr(jax.config, name, value)) for name, value in jax.config.values.items()}
    options, place = COMPILER_OPTIONS.get(device.platform), (device.id, device.process_index)
    try:
        around = (FORMAT, sys.version, np.__version__, _sources(), settings, conditions(device), options, place)
        return Telling().of((around, told)).hex()
    except (UntoldError, RecursionError, ValueError):  # the last one of a closure that is still empty
        return None


@functools.cache
def _sources() -> str:
    """Hash of the package's files.

    Raises:
        UntoldError: When they may not be what was imported.
    """
    found = hashlib.sha256()
    for path in sorted(Path(sys.modules[OWN].__file__ or "").parent.rglob("*.py")):
        if path.stat().st_mtime > _STARTED - _SETTLED:
            raise UntoldError(f"{path} has just been changed")
        content = path.read_bytes()
        found.update(f"{path}\n{len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


class Telling:
    """Digests of values: equal ones mean the same, in any process."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, bytes | None]] = {}  # values are held, so that no id is used again

    def of(self, value: Any) -> bytes:
        """The digest of a value.

        Raises:
            UntoldError: When it holds something unknown.
        """
        if type(value) in _PLAIN:
            return _digest(
                type(value).__name__, [value.hex().encode() if type(value) is float else repr(value).encode()]
            )
        if id(value) not in self._known:
            self._known[id(value)] = value, None
            self._known[id(value)] = value, self._composed(value)
        found = self._known[id(value)][1]
        if found is None:
            raise UntoldError("a value that holds itself")
        return found

    def _composed(self, value: Any) -> bytes:
        if isinstance(value, set | frozenset):
            return _digest("set", sorted(map(self.of, value)))
        name, parts = _parts(value)
        return _digest(name, map(self.of, parts))


def _digest(name: str, parts: Iterable[bytes]) -> bytes:
    found = hashlib.sha256(name.encode())
    for part in parts:
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.digest()


def _parts(value: Any) -> tuple[str, Iterable[Any]]:
    """What a value is, and what it is made of."""
    for kind, parts in _KINDS.items():
        if isinstance(value, kind):
            return kind.__name__, parts(value)
    if isinstance(value, type):
        return "type", _named(value)
    if is_dataclass(value):
        return "dataclass", (type(value), *(getattr(value, each.name) for each in fields(value)))
    if callable(value):
        return "callable", _named(value)
    raise UntoldError(f"a value of type {type(value).__name__}")


def _named(value: Any) -> tuple[str, str]:
    """Something that is found by its name in a module whose code is told.

    Raises:
        UntoldError: When it is not.
    """
    name = getattr(value, "__qualname__", "") or getattr(value, "__name__", "")
    module = getattr(value, "__module__", "") or ""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value or module.partition(".")[0] not in _KNOWN:
        raise UntoldError(f"{module}.{name}")
    return module, name


def _function(value: FunctionType) -> Iterable[Any]:
    """The code of a function of this package, and what it has taken along; others are known by name."""
    if (value.__module__ or "").partition(".")[0] != OWN:
        return _named(value)
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    return value.__module__, value.__qualname__, value.__code__, value.__defaults__, value.__kwdefaults__, cells


def _code(value: CodeType) -> Iterable[Any]:
    return value.co_code, value.co_consts, value.co_names, value.co_freevars, value.co_firstlineno


_KINDS: dict[Any, Callable[[Any], Iterable[Any]]] = {
    np.ndarray: lambda value: (value.dtype, value.shape, value.tobytes()),
    np.generic: lambda value: (value.dtype, value.tobytes()),
    np.dtype: lambda value: (value.name, value.str),
    jax.ShapeDtypeStruct: lambda value: (value.shape, value.dtype, value.weak_type),
    Enum: lambda value: (type(value), value.name),
    tuple: lambda value: (type(value), *value),
    list: tuple,
    Mapping: lambda value: (entry for pair in value.items() for entry in pair),
    functools.partial: lambda value: (value.func, value.args, value.keywords),
    MethodType: lambda value: (value.__self__, value.__func__),
    FunctionType: _function,
    CodeType: _code,
}
