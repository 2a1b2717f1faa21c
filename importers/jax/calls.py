"""How a model is called: which arrays it takes, under which names, and in which tree they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from backtrace_jax.batch.layout import BatchAxis, axes_in, inputs_first, moved_first
from backtrace_jax.errors import InputError

_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """A call without its arrays.

    Attributes:
        names: Names of the arrays, in the order of the tree.
        tree: The arguments, positional and by keyword, as a tree of these arrays.
        axes: The axis of the batch in each array; None where it has none.
        positional: Names of the parameters that can be passed by position.
    """

    names: tuple[str, ...]
    tree: Any
    axes: tuple[int | None, ...]
    positional: tuple[str, ...]

    def axis(self, name: str) -> int | None:
        """The axis of the batch in the array of this name."""
        return self.axes[self.names.index(name)]

    def own(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array with its batch in front as the model takes it."""
        axis = self.axis(name)
        return array[0] if axis is None else np.moveaxis(array, 0, axis)

    def filled(self, arrays: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments, positional and by keyword, with these arrays in their places."""
        return jax.tree_util.tree_unflatten(self.tree, [arrays[name] for name in self.names])

    def arrays(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name, from what the model's user passes or from a mapping by these very names.

        Raises:
            InputError: When they are no inputs of this call.
        """
        if isinstance(inputs, Mapping) and set(inputs) == set(self.names):
            return {name: np.asarray(inputs[name]) for name in self.names}
        named, tree = _named(inputs, self.positional)
        if tree != self.tree:
            raise InputError(
                f"the model was traced for inputs {', '.join(self.names)}; it is called with {', '.join(named)}; "
                "give explain the model itself, so that it is traced for these"
            )
        return named

    def first(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name with their batch in front, from what the model's user passes."""
        return inputs_first(self.arrays(inputs), self.names, dict(zip(self.names, self.axes, strict=True)))


def read_call(called: Callable[..., Any], inputs: Any, batch_axis: BatchAxis = 0) -> Call:
    """How these inputs call a model.

    Raises:
        InputError: When there is no array among them, or one without a batch axis.
        SettingError: When the axis of the batch, or the input it is said of, does not exist.
    """
    positional = _positional(called)
    named, tree = _named(inputs, positional)
    if not named:
        raise InputError("the model is traced for its inputs; pass arrays, batch first")
    axes = axes_in({name: array.shape for name, array in named.items()}, batch_axis)
    for name, axis in axes.items():
        if axis is not None and (not named[name].ndim or named[name].shape[axis] == 0):
            raise InputError(
                f"input {name!r} of shape {list(named[name].shape)} has no batch along axis {axis}; pass one example "
                "at least, or another batch_axis= (None: no batch)"
            )
    return Call(tuple(named), tree, tuple(axes.values()), positional)


def outputs_by_name(outputs: Any) -> dict[str, Any]:
    """What a model returns, by name: `output` for an array alone, paths for a tree of them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(outputs)
    return {_path("" if path else "output", path): leaf for path, leaf in leaves}


def _named(inputs: Any, positional: tuple[str, ...]) -> tuple[dict[str, np.ndarray], Any]:
    args, kwargs = _arguments(inputs, positional)
    names = [positional[i] if i < len(positional) else f"input.{i}" for i in range(len(args))]
    leaves, tree = jax.tree_util.tree_flatten_with_path((args, kwargs))
    found = {}
    for path, leaf in leaves:
        kind, first, *rest = path
        front = names[first.idx] if kind.idx == 0 else first.key
        found[_path(front, rest)] = np.asarray(leaf)
    return found, tree


def _arguments(inputs: Any, positional: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A mapping whose keys are parameters holds keyword arguments; any other tree is the first argument."""
    if isinstance(inputs, Mapping) and inputs and set(inputs) <= set(positional):
        return (), dict(inputs)
    return (inputs, {}) if isinstance(inputs, tuple) else ((inputs,), {})


def _path(front: str, path: Any) -> str:
    keys = [str(next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))) for key in path]
    return ".".join(filter(None, (front, *keys)))


def _positional(called: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(each.name for each in parameters if each.kind in _KINDS)


def batched(name: str, array: Any, axis: int | None) -> np.ndarray:
    """An output with its batch in front."""
    return moved_first(name, np.asarray(array), axis)
