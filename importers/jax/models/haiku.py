"""Functions that Haiku transformed, with their parameters: in a tuple, or in a partial `apply`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from backtrace_jax.errors import ModelError

from .. import scopes
from .model import Model, arrays_of, shortened, signature_of, version

_WAY = "(transformed, params), (transformed, params, state) or functools.partial(transformed.apply, params)"
_HELD, _RNG = ("params", "state"), "rng"


def claims(model: Any) -> bool:
    """Whether this is a transformed function, with or without parameters."""
    return (
        _is_transformed(model)
        or (isinstance(model, tuple) and len(model) > 0 and _is_transformed(model[0]))
        or (isinstance(model, partial) and _original(model.func) is not None)
        or _original(model) is not None
    )


def pure(model: Any) -> Model:
    """The function with its parameters passed; no key of random numbers is.

    Raises:
        ModelError: When its parameters, or its state, are missing.
    """
    apply, args, keywords = _application(model)
    takes = [*inspect.signature(apply).parameters][:3]
    needed = [name for name in _HELD if name in takes]
    given = dict(zip(takes, args, strict=False))
    own = {name: value for name, value in keywords.items() if name not in takes}
    given |= {name: value for name, value in keywords.items() if name in takes}
    if missing := [name for name in needed if name not in given]:
        raise ModelError(f"a function transformed by Haiku is passed with its {' and '.join(missing)}: {_WAY}")
    named = {name: given[name] for name in needed}
    weights, rebuild = shortened(*arrays_of(named, owner=_name(apply)), _module_path)
    rng = [given.get(_RNG)] if _RNG in takes else []
    behind = args[len(needed) + len(rng) :]

    def function(weights: Mapping[str, Any], *more: Any, **kwargs: Any) -> Any:
        outputs = apply(*rebuild(weights).values(), *rng, *behind, *more, **{**own, **kwargs})
        return outputs[0] if "state" in needed else outputs

    called: Any = _original(apply)
    return Model(_name(apply), version("haiku"), function, weights, signature_of(partial(called, *behind, **own)))


def _application(model: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What is called, and what it is given by position and by name."""
    if isinstance(model, partial):
        return model.func, model.args, dict(model.keywords)
    if _is_transformed(model):
        return model.apply, (), {}
    return (model[0].apply, tuple(model[1:]), {}) if isinstance(model, tuple) else (model, (), {})


def _module_path(path: str) -> str:
    """The path of an array by its module's own: `mlp.linear_0.w` for `params.mlp/~/linear_0.w`."""
    return scopes.module_path(path.partition(".")[2])


def _is_transformed(value: Any) -> bool:
    haiku = sys.modules.get("haiku")
    return haiku is not None and isinstance(value, haiku.Transformed | haiku.TransformedWithState)


def _original(value: Any) -> Any:
    """The function that was transformed, of its `apply`."""
    return getattr(value, "_original_fn", None) if "haiku" in sys.modules else None


def _name(apply: Any) -> str:
    return getattr(_original(apply), "__name__", "function")
