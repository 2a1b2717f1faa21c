"""How a model is called: which arrays it takes, under which names, in which tree, and what else it is given.

Arguments are trees as JAX has them (tuples, lists, mappings, named tuples, registered dataclasses). An array in them is
an input, under its path: `batch.image`. Whatever else is a leaf (numbers, texts, `train=False`) is a constant of the
import.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from backtrace_jax.batch.layout import BatchAxis, axes_in, inputs_first
from backtrace_jax.errors import InputError, ModelError
from backtrace_jax.errors.arguments import more_than_numbers

from .arguments import Arguments, Parameters
from .models.model import is_array, is_key, path_of, unique
from .scopes import joined

_ARRAYS = ("__array__", "__jax_array__")

TORCH = "wrap what computes with torch in a torch.nn.Module whose forward calls it, and pass that"


@dataclass(frozen=True)
class Slot:
    """The place of an array among the leaves of the arguments."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call without its arrays.

    Attributes:
        names: Names of the arrays, in the order of the tree.
        tree: The arguments, positional and by keyword, as a tree.
        leaves: Its leaves: a `Slot` in the place of each array, and constants.
        axes: The axis of the batch in each array; None where it has none.
        parameters: Those of the model.
    """

    names: tuple[str, ...]
    tree: Any
    leaves: tuple[Any, ...]
    axes: tuple[int | None, ...]
    parameters: Parameters

    def axis(self, name: str) -> int | None:
        """The axis of the batch in the array of this name."""
        return self.axes[self.names.index(name)]

    def own(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array with its batch in front as the model takes it."""
        axis = self.axis(name)
        return array[0, ...] if axis is None else np.moveaxis(array, 0, axis)

    def filled(self, arrays: Mapping[str, Any]) -> Arguments:
        """Arguments, positional and by keyword, with these arrays in their places."""
        leaves = [arrays[leaf.name] if isinstance(leaf, Slot) else leaf for leaf in self.leaves]
        return Arguments(*jax.tree_util.tree_unflatten(self.tree, leaves))

    def by_name(self, inputs: Any) -> Any:
        """The arguments where arrays are given by the names of this call; else what is given."""
        return self.filled(inputs) if self._are_named(inputs) else inputs

    def _are_named(self, inputs: Any) -> bool:
        return isinstance(inputs, Mapping) and set(inputs) == set(self.names) and all(map(_is_data, inputs.values()))

    def shaped(self, arrays: Mapping[str, Any]) -> Any:
        """These arrays in the tree that the model's user passes; None in the place of all else."""
        leaves = [arrays.get(leaf.name) if isinstance(leaf, Slot) else None for leaf in self.leaves]
        args, kwargs = jax.tree_util.tree_unflatten(self.tree, leaves)
        return kwargs or (args[0] if len(args) == 1 else args)

    def arrays(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name, from what the model's user passes or from a mapping by these very names.

        Raises:
            InputError: When they are no inputs of this call.
        """
        if self._are_named(inputs):
            return {name: as_array(name, inputs[name]) for name in self.names}
        given = read(self.parameters, inputs)
        if given.tree != self.tree or not all(map(_same, given.leaves, self.leaves)):
            raise InputError(
                f"the model was traced for a call with {said(self.leaves)}; this one has {said(given.leaves)}: give "
                "explain the model itself, so that it is traced for it"
            )
        return given.arrays

    def first(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name with their batch in front, from what the model's user passes."""
        return inputs_first(self.arrays(inputs), self.names, dict(zip(self.names, self.axes, strict=True)))


@dataclass(frozen=True)
class Given:
    """What a user passes: arrays by name, and the tree without them."""

    arrays: dict[str, np.ndarray]
    tree: Any
    leaves: tuple[Any, ...]


def said(leaves: tuple[Any, ...]) -> str:
    """Leaves of arguments for messages: names of arrays, and constants."""
    return ", ".join(leaf.name if isinstance(leaf, Slot) else repr(leaf)[:40] for leaf in leaves)


def read_call(signature: inspect.Signature | None, inputs: Any, batch_axis: BatchAxis = 0) -> tuple[Call, Given]:
    """How these inputs call a model.

    Raises:
        InputError: When there is no array among them, or one without a batch axis.
        SettingError: When the axis of the batch, or the input it is said of, does not exist.
    """
    parameters = Parameters.of(signature)
    given = read(parameters, inputs)
    if not given.arrays:
        raise InputError(
            f"the model is traced for its inputs, and there is no array among them ({said(given.leaves) or 'none'}); "
            "pass arrays, batch first"
        )
    axes = axes_in({name: array.shape for name, array in given.arrays.items()}, batch_axis)
    for name, axis in axes.items():
        array = given.arrays[name]
        if axis is not None and (not array.ndim or array.shape[axis] == 0):
            raise InputError(
                f"input {name!r} of shape {list(array.shape)} has no batch along axis {axis}; pass one example at "
                f"least, or batch_axis={{{name!r}: None}} where all examples share it"
            )
    return Call(tuple(given.arrays), given.tree, given.leaves, tuple(axes.values()), parameters), given


def read(parameters: Parameters, inputs: Any) -> Given:
    """Arrays by name, and the tree that they are in.

    Raises:
        InputError: When an entry hides arrays, or is none that a model could take.
    """
    args, kwargs = parameters.arguments(inputs)
    found, tree = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs)), is_leaf=_is_numbers)
    names = unique([_name(parameters, path) for path, _ in found])
    leaves = dict(zip(names, (leaf for _, leaf in found), strict=True))
    arrays = {name: as_array(name, leaf) for name, leaf in leaves.items() if _is_data(leaf)}
    for name, leaf in leaves.items():
        if name not in arrays:
            _check_constant(name, leaf)
    return Given(arrays, tree, tuple(Slot(name) if name in arrays else leaf for name, leaf in leaves.items()))


def _name(parameters: Parameters, path: Any) -> str:
    kind, first, *rest = path
    front = parameters.name(first.idx) if kind.idx == 0 else first.key
    return joined(front, path_of(rest))


def _is_data(leaf: Any) -> bool:
    """Whether a leaf is an input; keys of random numbers are constants."""
    if is_key(leaf) or isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
        return False
    return is_array(leaf) or _is_numbers(leaf) or any(hasattr(leaf, each) for each in _ARRAYS)


def _is_numbers(value: Any) -> bool:
    """Whether these are rows of numbers, which a list holds as an array does."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, bool | int | float) or _is_numbers(each) for each in value)


def as_array(name: str, leaf: Any) -> np.ndarray:
    """An input as JAX would take it.

    Raises:
        InputError: When it holds no numbers, or rows of unequal length.
    """
    if more := more_than_numbers(leaf):
        raise InputError(f"input {name!r} {more}")
    try:
        array = np.asarray(leaf)
    except (ValueError, TypeError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            raise InputError(f"input {name!r} has rows of unequal length; pad the rows (and pass the mask)") from error
        raise InputError(f"input {name!r} is no array: {error}") from error
    if array.dtype.kind in "OSUMm":
        raise InputError(f"input {name!r} holds {array.dtype}, not numbers")
    return array


def _check_constant(name: str, leaf: Any) -> None:
    """Refuse an object with arrays inside that JAX takes for a leaf: they would be constants.

    Raises:
        InputError: With the way to register its class.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct | Tracer):
        raise InputError(f"input {name!r} holds no numbers, but a {type(leaf).__name__}; pass the array itself")
    inside = getattr(leaf, "__dict__", {})
    if not (callable(leaf) or is_key(leaf)) and any(map(_is_data, inside.values())):
        kind = type(leaf).__name__
        raise InputError(
            f"input {name!r} is a {kind}, inside of which JAX does not look; register it: "
            f"jax.tree_util.register_dataclass({kind}), or pass a dict of arrays"
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two leaves of arguments are the same but for the numbers in arrays."""
    if is_key(one) and is_key(other):
        return bool((jax.random.key_data(one) == jax.random.key_data(other)).all())
    return one is other or (type(one) is type(other) and bool(one == other))


def outputs_by_name(outputs: Any) -> dict[str, Any]:
    """What a model returns, by name: `output` for an array alone, `output.0` or its own path for those of a tree.

    Raises:
        ModelError: When it returns no array.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.tree_util.tree_map(_opened, outputs))
    keyed = isinstance(outputs, Mapping) or hasattr(outputs, "_fields") or dataclasses.is_dataclass(outputs)
    front = "" if keyed else "output"
    names = unique([joined(front, path_of(path)) for path, _ in leaves])
    found = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True) if _is_result(leaf)}
    if found:
        return found
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(leaf, torch.Tensor) for _, leaf in leaves):
        raise ModelError(f"it returns torch tensors: {TORCH}")
    raise ModelError(f"it returns no array, but {', '.join(type(leaf).__name__ for _, leaf in leaves) or 'nothing'}")


def _opened(leaf: Any) -> Any:
    """The fields of a dataclass that JAX has not been told of."""
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    return leaf


def _is_result(leaf: Any) -> bool:
    return is_array(leaf) or isinstance(leaf, bool | int | float)
