"""Names of modules in what is traced: absolute paths, numbered by their calls, as marked scopes of JAX's name stack.

A scope of ours, `module@encoder.layers.0#2`, says which module computes and in which of its calls; it stands by itself,
whatever scopes are around it. Scopes inside it that are the user's own (`jax.named_scope`) go on with its path.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import lru_cache, update_wrapper
from types import FunctionType
from typing import Any, NamedTuple

import jax

PATH = "scope_path"
"""The attribute in which a part of a copied module keeps where it is."""

_MARK, _NUMBER, _SLASH = "module@", "#", "\x1f"
_OTHERS = ("eqx.nn.",)  # scopes that frameworks put around layers by themselves, under names of classes
_EINSUM = frozenset(",>")  # jnp.einsum makes a scope of its equation: `...qhd,...khd->...hqk`
_open: ContextVar[_Open | None] = ContextVar("modules that are being called", default=None)


class _Open:
    """The modules that are being called while a model is traced."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.inside: list[str] = [""]
        self.front = ""

    @contextmanager
    def entered(self, path: str) -> Iterator[None]:
        """Be inside a module; methods of a module that it calls itself belong to the same call."""
        if path == self.inside[-1] and path:
            yield
            return
        self.calls[path] += 1
        self.inside.append(path)
        try:
            with jax.named_scope(marked(path, self.calls[path] - 1)):
                yield
        finally:
            self.inside.pop()

    @contextmanager
    def outermost(self) -> Iterator[None]:
        """Be inside a module that counts paths from itself: those go on with the path around it."""
        before, self.front = self.front, self.inside[-1]
        try:
            with self.entered(self.front):
                yield
        finally:
            self.front = before


@contextmanager
def named() -> Iterator[None]:
    """Inside, whatever a module of a framework computes is traced in the scope of its path."""
    token = _open.set(_Open())
    try:
        with ExitStack() as stack:
            for framework, interceptor in (("flax.linen", _of_linen), ("haiku", _of_haiku)):
                if framework in sys.modules:
                    stack.enter_context(sys.modules[framework].intercept_methods(interceptor))
            yield
    finally:
        _open.reset(token)


def _of_linen(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    current, path = _open.get(), context.module.path
    if current is None or context.method_name == "setup":
        return function(*args, **kwargs)
    with current.entered(joined(current.front, *path)) if path else current.outermost():
        return function(*args, **kwargs)


def _of_haiku(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    if context.method_name == "__init__":
        return function(*args, **kwargs)
    return _called(module_path(context.module.module_name), function, args, kwargs)


def _called(path: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    current = _open.get()
    if current is None or not path:
        return function(*args, **kwargs)
    with current.entered(path):
        return function(*args, **kwargs)


def marked(path: str, number: int) -> str:
    """The name of a scope that says that a module computes: its path, and which of its calls this is."""
    return f"{_MARK}{path.replace('/', _SLASH)}{_NUMBER}{number}"


def joined(*parts: object) -> str:
    """A path: `layers.0.kernel`."""
    return ".".join(filter(None, map(str, parts)))


def module_path(name: str) -> str:
    """The path of a module as frameworks write it: `mlp.linear_0` for `mlp/~/linear_0`."""
    return ".".join(part for part in name.split("/") if part != "~")


@lru_cache(256)
def naming(kind: type, base: type, field: Callable[..., Any] | None = None) -> Any:
    """A subclass whose methods run in the scope of the path that an object has in `PATH`.

    None for a class whose subclasses are heard of (`__init_subclass__`): nothing of the user's may know of this one.

    Args:
        kind: A class of modules.
        base: The framework's own class of all modules, whose methods stay as they are.
        field: Declares a field, where the framework has its classes declare their attributes.
    """
    if any("__init_subclass__" in vars(each) for each in kind.__mro__ if each not in base.__mro__):
        return None
    methods = {
        name: _scoped(value)
        for each in reversed(kind.__mro__)
        if each not in base.__mro__
        for name, value in vars(each).items()
        if name == "__call__" or (isinstance(value, FunctionType) and not name.startswith("__"))
    }
    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    if field is not None:
        own |= {"__annotations__": {PATH: str}, PATH: field(static=True, default="")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there was to say of the class was said when it was made
        return type(kind)(kind.__name__, (kind,), {**own, **methods})


def _scoped(method: Any) -> Any:
    def scoped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _called(getattr(self, PATH), method.__get__(self, type(self)), args, kwargs)

    return update_wrapper(scoped, method)


class Scope(NamedTuple):
    """Where an equation is.

    Attributes:
        calls: The modules around it, from the outside in, each with the number of its call.
        own: Scopes of the user's own inside the innermost of them.
    """

    calls: tuple[tuple[str, int], ...] = ()
    own: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path of all of it."""
        return joined(*(path for path, _ in self.calls[-1:]), *self.own)

    def inside(self, names: Sequence[str]) -> Scope:
        """Go on with names of JAX's name stack."""
        calls, own = [*self.calls], [*self.own]
        for name in names:
            if name.startswith(_MARK):
                path, _, number = name.removeprefix(_MARK).replace(_SLASH, "/").rpartition(_NUMBER)
                calls, own = [*calls, *([(path, int(number))] if path else [])], []
            elif not name.startswith(_OTHERS) and _EINSUM.isdisjoint(name):
                own.append(name)
        return Scope(tuple(calls), tuple(own))
