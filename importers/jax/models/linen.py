"""Flax linen modules with their variables: as a pair, bound, in a partial `apply`, or in a train state."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from types import MethodType
from typing import Any

from backtrace_jax.errors import ModelError

from .model import Model, Rebuild, arrays_of, shortened, signature_of, version

_APPLY = ("variables", "rngs", "method", "mutable", "capture_intermediates")  # keywords of apply itself
_PARAMS = "params"


def claims(model: Any) -> bool:
    """Whether this is a linen module, with or without variables."""
    return (
        _is_module(model)
        or (isinstance(model, tuple) and len(model) > 0 and _is_module(model[0]))
        or (isinstance(model, MethodType) and _is_module(model.__self__))
        or (isinstance(model, partial) and _is_method(model.func, "apply"))
        or _is_train_state(model)
    )


def pure(model: Any) -> Model:
    """The module as a pure function of its variables.

    Raises:
        ModelError: When its variables are missing.
    """
    if _is_train_state(model):
        return _of_train_state(model)
    if isinstance(model, partial):
        module, variables, args = _partly_applied(model)
        return _applied(module, variables, args, model.keywords)
    if isinstance(model, tuple):
        if len(model) != 2 or not isinstance(model[1], Mapping):
            raise ModelError(
                f"{_name(model[0])} is passed as (module, variables), variables being the mapping that init returned: "
                f"found {len(model)} entries, {', '.join(type(each).__name__ for each in model[1:])}"
            )
        return _applied(model[0], model[1], (), {})
    return _bound(model)


def _bound(model: Any) -> Model:
    """A bound module, or a method of one."""
    method = model.__name__ if isinstance(model, MethodType) else None
    module: Any = model if method is None else model.__self__
    if module.scope is None:
        raise ModelError(
            f"{_name(module)} is a linen module without its variables; pass (module, variables), where variables = "
            "module.init(key, x) or what was restored"
        )
    module, variables = module.unbind()
    return _applied(module, variables, (), {"method": method} if method else {})


def _of_train_state(model: Any) -> Model:
    others = {name: getattr(model, name) for name in ("batch_stats",) if hasattr(model, name)}
    variables = {_PARAMS: model.params, **others}
    if _is_method(model.apply_fn, "apply"):
        return _applied(model.apply_fn.__self__, variables, (), {})
    weights, rebuild = _read(type(model).__name__, variables)
    apply = model.apply_fn

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return apply(rebuild(weights), *args, **kwargs)

    return Model(type(model).__name__, version("flax"), function, weights, signature_of(partial(apply, variables)))


def _applied(module: Any, variables: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Model:
    """A module that is applied to its variables, these arguments and keywords, and then those of its user."""
    weights, rebuild = _read(_name(module), variables)
    apply = type(module).apply
    method = keywords.get("method") or "__call__"
    called = getattr(type(module), method) if isinstance(method, str) else method
    passed = {name: value for name, value in keywords.items() if name != "variables"}
    own = {name: value for name, value in keywords.items() if name not in _APPLY}

    def function(weights: Mapping[str, Any], *more: Any, **kwargs: Any) -> Any:
        return apply(module, rebuild(weights), *args, *more, **{**passed, **kwargs})

    bound = called if isinstance(called, MethodType) else partial(called, module)
    return Model(_name(module), version("flax"), function, weights, signature_of(partial(bound, *args, **own)))


def _read(owner: str, variables: Any) -> tuple[dict[str, Any], Rebuild]:
    """Arrays of variables by the path of the module that has them, `Dense_0.kernel`, whatever their collection."""
    linen: Any = sys.modules["flax.linen"]
    weights, rebuild = arrays_of(linen.meta.unbox(variables), owner=owner)
    return shortened(weights, rebuild, lambda path: path.partition(".")[2])


def _partly_applied(model: partial[Any]) -> tuple[Any, Mapping[str, Any], tuple[Any, ...]]:
    """Module and variables of a partial `apply`, and the arguments behind them."""
    apply: Any = model.func
    variables, *args = model.args or (model.keywords.get("variables"),)
    if not isinstance(variables, Mapping):
        raise ModelError(
            f"{_name(apply.__self__)}.apply takes its variables first: functools.partial(module.apply, variables)"
        )
    return apply.__self__, variables, tuple(args)


def _is_module(value: Any) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(value, linen.Module)


def _is_method(value: Any, name: str) -> bool:
    return isinstance(value, MethodType) and _is_module(value.__self__) and value.__name__ == name


def _is_train_state(value: Any) -> bool:
    states = sys.modules.get("flax.training.train_state")
    return states is not None and isinstance(value, states.TrainState)


def _name(module: Any) -> str:
    return type(module).__name__
