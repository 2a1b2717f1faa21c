"""Who is a model: each kind becomes a function of its weights and its inputs; the model itself is never touched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

_FUNCTIONS = (FunctionType, MethodType, partial)


@dataclass(frozen=True)
class Model:
    """A model as a pure function.

    Attributes:
        name: What to call it in messages.
        framework: Whose module it is, with the version.
        function: Takes the weights, then what the model's user passes.
        weights: Arrays by their path in the model, as `function` takes them.
        signature: What is called, for the names of its parameters.
    """

    name: str
    framework: str
    function: Callable[..., Any]
    weights: Mapping[str, Any]
    signature: Callable[..., Any]


def is_model(model: Any) -> bool:
    """Whether it is a Flax module or a function; imports nothing."""
    return _is_nnx(model) or _is_linen(model) or isinstance(model, _FUNCTIONS)


def pure(model: Any) -> Model:
    """The model as a pure function."""
    if _is_nnx(model):
        return _of_nnx(model)
    if _is_linen(model):
        return _of_linen(*model)
    name = getattr(model, "__name__", type(model).__name__)
    return Model(name, _version("jax"), lambda weights, *args, **kwargs: model(*args, **kwargs), {}, model)


def _version(package: str) -> str:
    return f"{package} {sys.modules[package].__version__}"


def _is_nnx(model: Any) -> bool:
    flax = sys.modules.get("flax.nnx")
    return flax is not None and isinstance(model, flax.Module)


def _is_linen(model: Any) -> bool:
    flax = sys.modules.get("flax.linen")
    return (
        flax is not None
        and isinstance(model, tuple)
        and len(model) == 2
        and isinstance(model[0], flax.Module)
        and isinstance(model[1], Mapping)
    )


def _of_nnx(module: Any) -> Model:
    nnx = sys.modules["flax.nnx"]
    copy = nnx.merge(*nnx.split(module))
    copy.eval()
    definition, state = nnx.split(copy)
    flat = nnx.to_flat_state(state)
    weights = {".".join(map(str, path)): variable.get_value() for path, variable in flat}

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        held = [(path, variable.replace(weights[".".join(map(str, path))])) for path, variable in flat]
        return nnx.merge(definition, nnx.from_flat_state(held))(*args, **kwargs)

    return Model(type(module).__name__, _version("flax"), function, weights, module)


def _of_linen(module: Any, variables: Mapping[str, Any]) -> Model:
    import jax

    leaves, tree = jax.tree_util.tree_flatten_with_path(variables)
    names = [".".join(str(getattr(key, "key", key)) for key in path) for path, _ in leaves]

    def function(weights: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return module.apply(jax.tree_util.tree_unflatten(tree, [weights[name] for name in names]), *args, **kwargs)

    return Model(
        type(module).__name__,
        _version("flax"),
        function,
        dict(zip(names, (leaf for _, leaf in leaves), strict=True)),
        module.__call__,
    )
