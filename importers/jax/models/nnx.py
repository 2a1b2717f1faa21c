"""Flax nnx modules: split, merged into a copy in evaluation mode, and called with their arrays put back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MethodType
from typing import Any

from backtrace_jax.errors import ModelError

from .. import scopes
from ..scopes import joined
from .model import Model, check_loaded, signature_of, training_note, unique, version


def claims(model: Any) -> bool:
    """Whether this is an nnx module, or a method of one."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(getattr(model, "__self__", model), nnx.Module)


def pure(model: Any) -> Model:
    """The module as a pure function; only a copy of it is put into evaluation mode.

    What evaluation changes (statistics, caches, counts of random numbers) is changed in a copy of every call.

    Raises:
        ModelError: When it cannot be called, or its weights are not there.
    """
    nnx: Any = sys.modules["flax.nnx"]
    module, method = (model.__self__, model.__name__) if isinstance(model, MethodType) else (model, "__call__")
    name = type(module).__name__
    if not hasattr(module, method):
        raise ModelError(f"{name} has no __call__; pass the method that is meant, for example model.encode")
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    definition, state = nnx.split(copy)
    flat = nnx.to_flat_state(state)
    names = unique([joined(*path) for path, _ in flat])
    weights = {name: variable.get_value() for name, (_, variable) in zip(names, flat, strict=True)}
    for path, weight in weights.items():
        check_loaded(name, path, weight)

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        pairs = zip(names, flat, strict=True)
        held = [(path, variable.replace(weights[name])) for name, (path, variable) in pairs]
        return getattr(_named(nnx, nnx.merge(definition, nnx.from_flat_state(held))), method)(*args, **kwargs)

    return Model(
        name, version("flax"), function, weights, signature_of(getattr(copy, method)), notes=_notes(nnx, module)
    )


def _notes(nnx: Any, module: Any) -> tuple[str, ...]:
    """That a module is evaluated otherwise than it would be called, where that is a difference."""
    for path, part in nnx.iter_modules(module):
        rate = getattr(part, "rate", getattr(part, "dropout_rate", 0))
        drops = isinstance(rate, float) and rate > 0 and vars(part).get("deterministic") is False
        if drops or vars(part).get("use_running_average") is False:
            return (training_note(type(module).__name__, joined(*path), "module.eval()"),)
    return ()


def _named(nnx: Any, module: Any) -> Any:
    """A copy of a module whose parts say where they are when they are called."""
    for path, part in nnx.iter_modules(module):
        kind = scopes.naming(type(part), nnx.Module) if path else None
        if kind is not None:
            part.__class__ = kind
            setattr(part, scopes.PATH, joined(*path))
    return module
