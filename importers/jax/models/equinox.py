"""Equinox modules: written for one example, so that a batch takes `jax.vmap` of them, in inference mode."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import jax

from backtrace_jax.errors import ModelError

from .. import scopes
from ..scopes import joined
from .model import Model, arrays_of, path_of, signature_of, training_note, version

_STATE = "state"


def claims(model: Any) -> bool:
    """Whether this is an Equinox module or a method of one, alone or with its state."""
    model = model[0] if isinstance(model, tuple) and model else model
    return _is_module(getattr(model, "__self__", model))


def pure(model: Any) -> Model:
    """The module as a pure function, its own copy in inference mode.

    Raises:
        ModelError: When it cannot be called, or is passed with something that is no state.
    """
    equinox: Any = sys.modules["equinox"]
    called, *others = model if isinstance(model, tuple) else (model,)
    module, method = getattr(called, "__self__", called), getattr(called, "__name__", "__call__")
    name = type(module).__name__
    if not hasattr(module, method):
        raise ModelError(
            f"{name} is an Equinox module without __call__; pass a method of it, or a function that calls it"
        )
    if len(others) > 1 or not all(isinstance(each, equinox.nn.State) for each in others):
        raise ModelError(f"{name} is passed as it is, or as (module, state) where equinox.nn.make_with_state made it")
    weights, rebuild = arrays_of(equinox.nn.inference_mode(module), owner=name)
    state, restore = arrays_of(others[0] if others else None, _STATE, owner=name)
    own = getattr(module, method)
    taken = _state_parameter(own) if others else ""
    signature = signature_of(own, taken)

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        called = getattr(_named(equinox, rebuild(weights)), method)
        if not others or signature is None:
            return called(*args, **kwargs)
        outputs, _ = called(**signature.bind_partial(*args, **kwargs).arguments, **{taken: restore(weights)})
        return outputs

    return Model(name, version("equinox"), function, {**weights, **state}, signature, single=True, notes=_notes(module))


def _notes(module: Any) -> tuple[str, ...]:
    """That a module is evaluated otherwise than it would be called, where that is a difference."""
    parts = jax.tree_util.tree_leaves_with_path(module, is_leaf=lambda each: hasattr(each, "inference"))
    for path, part in parts:
        if getattr(part, "inference", None) is False and getattr(part, "p", 1) not in (0, 0.0):
            return (training_note(type(module).__name__, path_of(path), "equinox.nn.inference_mode(module)"),)
    return ()


def _state_parameter(called: Any) -> str:
    """The parameter that takes the state."""
    parameters = [*inspect.signature(called).parameters]
    return _STATE if _STATE in parameters or len(parameters) < 2 else parameters[1]


def _is_module(value: Any) -> bool:
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(value, equinox.Module)


def _named(equinox: Any, module: Any, front: str = "") -> Any:
    """A copy of a module whose parts say where they are when they are called."""

    def named(path: Any, leaf: Any) -> Any:
        return _named(equinox, leaf, joined(front, path_of(path))) if _is_module(leaf) else leaf

    inside = jax.tree_util.tree_map_with_path(
        named, module, is_leaf=lambda each: each is not module and _is_module(each)
    )
    kind = scopes.naming(type(inside), equinox.Module, equinox.field) if front and callable(inside) else None
    if kind is None:
        return inside
    found = object.__new__(kind)
    for name, value in {**vars(inside), scopes.PATH: front}.items():
        object.__setattr__(found, name, value)  # modules are frozen
    return found
