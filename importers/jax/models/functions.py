"""Functions of arrays, and whatever else is called like one: methods, partials, jitted functions, objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any
from weakref import WeakMethod, ref

from backtrace_jax.errors import ModelError

from ..scopes import joined
from .held import held_by
from .model import Model, arrays_of, shortened, signature_of, version


def claims(model: Any) -> bool:
    """Whether it can be called; a class makes something that can."""
    return callable(model) and not isinstance(model, type)


def pure(model: Any) -> Model:
    """The function itself; arrays that a partial passes are weights."""
    if isinstance(model, partial):
        return _of_partial(model)
    called = _weakly(model)

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return called(*args, **kwargs)

    return Model(name_of(model), version("jax"), function, {}, signature_of(model), held=held_by(model))


def name_of(function: Any) -> str:
    """What to call a function."""
    if isinstance(function, partial):
        return name_of(function.func)
    return getattr(function, "__name__", type(function).__name__).replace("<lambda>", "lambda")


def _of_partial(model: partial[Any]) -> Model:
    """A partial as a function of the arrays that it passes, by the names of its function's parameters."""
    name, function = name_of(model), model.func
    passed = {**_named(function, model.args), **model.keywords}
    weights, rebuild = shortened(*arrays_of(passed, owner=name), lambda path: path.removesuffix(".value"))
    count, keys = len(model.args), [*passed]

    def called(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        filled = rebuild(weights)
        values = [filled[key] for key in keys]
        return function(*values[:count], *args, **{**dict(zip(keys[count:], values[count:], strict=True)), **kwargs})

    return Model(name, version("jax"), called, weights, signature_of(model))


def _named(function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments by the names of the parameters that take them."""
    try:
        names = [*inspect.signature(function).parameters]
    except (TypeError, ValueError):
        names = []
    return {names[i] if i < len(names) else joined("argument", i): value for i, value in enumerate(args)}


def _weakly(function: Any) -> Callable[..., Any]:
    """The function without keeping it alive: what is kept of a model goes when the model goes."""
    try:
        held = WeakMethod(function) if isinstance(function, MethodType) else ref(function)
    except TypeError:  # of a kind that nothing can refer to weakly
        return function

    def called(*args: Any, **kwargs: Any) -> Any:
        found = held()
        if found is None:
            raise ModelError("the function is gone that this was imported from; keep a reference to it")
        return found(*args, **kwargs)

    return called
