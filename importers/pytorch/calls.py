"""How a module is called: which arrays it takes, under which names, and what else it is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch

from backtrace_jax.batch.layout import BatchAxis, axes_in, inputs_first
from backtrace_jax.errors import InputError

from .trees import arrays_of, is_array, join, mapped

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Slot:
    """The place of an array among the arguments; no dataclass, which would be taken for a structure of them."""

    def __init__(self, name: str) -> None:
        """Mark the place of the array of this name."""
        self.name = name

    def __repr__(self) -> str:
        """Format as `<input_ids>`."""
        return f"<{self.name}>"


@dataclass(frozen=True)
class Call:
    """A call without its arrays.

    Attributes:
        names: Names of the arrays, in the order in which they are passed.
        positional: Names of the parameters of `forward` that can be passed by position.
        arguments: Positional and keyword arguments, a `Slot` in the place of each array.
        floating: Type of the module's own floats, which NumPy arrays are converted to; None: it has none of its own.
        axes: The axis of the batch in each array; None where it has none.
    """

    names: tuple[str, ...]
    positional: tuple[str, ...]
    arguments: Arguments
    floating: torch.dtype | None
    axes: tuple[int | None, ...]

    def axis(self, name: str) -> int | None:
        """The axis of the batch in the array of this name."""
        return self.axes[self.names.index(name)]

    def own(self, name: str, array: np.ndarray) -> np.ndarray:
        """An array with its batch in front as the module takes it."""
        axis = self.axis(name)
        return array[0] if axis is None else np.moveaxis(array, 0, axis)

    def first(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name with their batch in front, from what the module's user passes."""
        return inputs_first(self.arrays(inputs), self.names, dict(zip(self.names, self.axes, strict=True)))

    def filled(self, tensors: Mapping[str, torch.Tensor]) -> Arguments:
        """The arguments with tensors in their places."""

        def place(_: str, leaf: Any) -> Any:
            return tensors[leaf.name] if isinstance(leaf, Slot) else leaf

        args, kwargs = self.arguments
        return mapped(args, place, ""), mapped(kwargs, place, "")

    def arrays(self, inputs: Any) -> dict[str, np.ndarray]:
        """Arrays by name, from what the module's user passes or from a mapping by these very names.

        Raises:
            InputError: When they are no inputs of this call.
        """
        if isinstance(inputs, Mapping) and set(inputs) == set(self.names) and all(map(is_array, inputs.values())):
            return {name: as_numpy(inputs[name], self.floating) for name in self.names}
        args, kwargs = _arguments(inputs, len(self.arguments[0]))
        named = _named(args, kwargs, self.positional)
        if repr(_without_arrays(args, kwargs, self.positional)) != repr(self.arguments):
            raise InputError(
                f"the module was imported for inputs {', '.join(self.names)}; it is called with {', '.join(named)} or "
                "with other settings among them; give explain the module itself, so that it is imported for these"
            )
        return {name: as_numpy(value, self.floating) for name, value in named.items()}


def read_call(module: torch.nn.Module, inputs: Any, batch_axis: BatchAxis = 0) -> Call:
    """How these inputs call the module.

    Raises:
        InputError: When there is no array among them, or one without a batch axis.
        SettingError: When the axis of the batch, or the input it is said of, does not exist.
    """
    args, kwargs = _arguments(inputs, needed(module))
    positional = parameters(module)
    named = _named(args, kwargs, positional)
    if isinstance(inputs, str):
        named = {"input": np.asarray(inputs)}
    _check_numbers(named)
    if not named:
        raise InputError("the module is imported for its inputs; pass tensors or arrays, batch first")
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    axes = axes_in(shapes, batch_axis)
    for name, axis in axes.items():
        if axis is not None and (not shapes[name] or shapes[name][axis] == 0):
            raise InputError(
                f"input {name!r} of shape {list(shapes[name])} has no batch along axis {axis}; pass one example at "
                "least, or another batch_axis= (None: no batch)"
            )
    arguments = _without_arrays(args, kwargs, positional)
    return Call(tuple(named), positional, arguments, _floating(module), tuple(axes.values()))


def names_of(module: torch.nn.Module, inputs: Any) -> tuple[str, ...]:
    """Names of the arrays that these inputs call the module with."""
    return tuple(_named(*_arguments(inputs, needed(module)), parameters(module)))


def as_numpy(value: Any, floating: torch.dtype | None) -> np.ndarray:
    """An array or tensor as an array; floats of an array in the module's own type, as a file would take them.

    A module without floats of its own computes in the type that it is given: double stays double.
    """
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:
            return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return plain.resolve_conj().resolve_neg().numpy()
    if value.dtype.kind != "f":
        return value
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    wanted = floating or (torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return value if tensor.dtype == wanted else as_numpy(tensor.to(wanted), wanted)


def as_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array as a tensor that shares no memory with it."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.array(array, order="C")).to(device)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the module's weights are."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _floating(module: torch.nn.Module) -> torch.dtype | None:
    tensors = [*module.parameters()] or [*module.buffers()]
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if not types:
        return None
    return next(iter(types)) if len(types) == 1 else torch.float32


def _arguments(inputs: Any, needed: int) -> Arguments:
    """Positional and keyword arguments of the call that a user means by these inputs.

    A list of arrays is one argument, but for a module that cannot be called with one only.
    """
    if isinstance(inputs, list) and needed > 1 and len(inputs) >= needed and all(map(is_array, inputs)):
        inputs = tuple(inputs)
    if isinstance(inputs, Mapping):
        return (), {str(name): _filled_in(value) for name, value in inputs.items() if value is not None}
    if isinstance(inputs, tuple):
        return tuple(map(_filled_in, inputs)), {}
    return (_filled_in(inputs),), {}


def _filled_in(value: Any) -> Any:
    """Nested lists of numbers, and anything else that NumPy takes for an array, as one."""
    if is_array(value) or isinstance(value, tuple | Mapping):
        return value
    if isinstance(value, list) and any(map(_holds_tensors, value)):
        return value
    return _as_array(value) if isinstance(value, list) or hasattr(value, "__array__") else value


def _as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError("the rows are of unequal length; pad them to one length, and pass the mask") from error


def _check_numbers(named: Mapping[str, Any]) -> None:
    """Refuse text, which a module takes as numbers only."""
    for name, value in named.items():
        if not isinstance(value, torch.Tensor) and value.dtype.kind in "OSU":
            raise InputError(
                f"input {name!r} holds text or objects, not numbers; tokenize first: "
                'tokenizer(texts, return_tensors="pt", padding=True)'
            )


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for _, leaf in arrays_of(value, ""))


def parameters(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of what `forward` takes by position."""
    return tuple(each.name for each in _positional(module))


def needed(module: torch.nn.Module) -> int:
    """How many arguments `forward` cannot be called without."""
    return sum(each.default is inspect.Parameter.empty for each in _positional(module))


def _positional(module: torch.nn.Module) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each for each in parameters if each.kind in kinds]


def _argument_names(count: int, positional: Sequence[str]) -> list[str]:
    return [positional[i] if i < len(positional) else join("input", i) for i in range(count)]


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any], positional: Sequence[str]) -> dict[str, Any]:
    """The arrays among the arguments, by name."""
    given = [*zip(_argument_names(len(args), positional), args, strict=True), *kwargs.items()]
    return {name: array for key, value in given for name, array in arrays_of(value, key)}


def _without_arrays(args: tuple[Any, ...], kwargs: Mapping[str, Any], positional: Sequence[str]) -> Arguments:
    def place(name: str, leaf: Any) -> Any:
        return Slot(name) if is_array(leaf) else leaf

    names = _argument_names(len(args), positional)
    emptied = tuple(mapped(value, place, name) for name, value in zip(names, args, strict=True))
    return emptied, {name: mapped(value, place, name) for name, value in kwargs.items()}
