"""How a model is called: the arrays that it takes, under which names, and what it returns.

A sequential or functional model says so itself. One with a call of its own is called as its user calls it: inputs are
named by the parameters of `call`, and by their places in the lists and dicts that are passed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType

from .exclusions import NoRoadError
from .graph import network, runs_a_graph, tree
from .text import HOSTED

_SINGLE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SETTINGS = ("training", "mask")  # parameters of `call` that are no inputs


@dataclass(frozen=True)
class Signature:
    """How a model is called; nothing here keeps the model alive.

    Attributes:
        inputs: Its inputs, in the types in which the model takes them.
        outputs: Names of its outputs; none yet where only a run can tell.
        places: Positional and named arguments with the numbers of the inputs in their places; None for a model that
            says itself what it takes.
        parameters: What its `call` takes, where it is called with `places`.
    """

    inputs: tuple[InputType, ...]
    outputs: tuple[str, ...] = ()
    places: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    parameters: Parameters | None = None

    @property
    def ranks(self) -> dict[str, int]:
        """Number of axes that the user's values have, by input name."""
        return {each.name: len(each.dims or ()) for each in self.inputs}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(each.name for each in self.inputs)

    def called(self, model: Any, values: Sequence[Any]) -> list[Any]:
        """The outputs of a model, in order, of the inputs in order."""
        returned = self.returned(model, values)
        return tree().flatten(returned) if self.places is None else importlib.import_module("jax").tree.leaves(returned)

    def returned(self, model: Any, values: Sequence[Any]) -> Any:
        """What a model returns, of the inputs in order."""
        if self.places is not None:
            args, kwargs = tree().map_structure(lambda place: values[place], self.places)
            return model(*args, **kwargs, training=False)
        functional = network(model)
        symbols = symbols_of(functional)
        if any(one is not other for one, other in zip(symbols, functional._inputs, strict=True)):
            return importlib.import_module("keras").Function(symbols, functional._outputs_struct)([*values])
        packed = tree().pack_sequence_as(functional._inputs_struct, [*values])
        return functional(packed, training=False)

    def named(self, inputs: Any) -> Any:
        """Inputs by name, where they are called otherwise.

        Raises:
            InputError: When they are in another structure.
        """
        if self.parameters is None or (isinstance(inputs, Mapping) and set(inputs) == set(self.names)):
            return inputs
        named, places = self.parameters.filled(inputs)
        if places != self.places:
            raise InputError(
                f"the model was traced for inputs {', '.join(self.names)}; it is called with {', '.join(named)} in "
                "another structure; give explain the model itself, so that it is traced for these"
            )
        return named


@dataclass(frozen=True)
class Parameters:
    """What a `call` of the user's own takes.

    Attributes:
        names: Its parameters, in order.
        needed: How many of them have to be passed.
    """

    names: tuple[str, ...]
    needed: int

    def filled(self, inputs: Any) -> tuple[dict[str, Any], Any]:
        """Inputs by name, and the arguments with the numbers of the inputs in their places.

        A mapping whose keys are parameters holds arguments by name, and a list or tuple the positional ones where
        several are needed; anything else is the first argument.
        """
        args, kwargs = ((inputs,), {})
        if isinstance(inputs, Mapping) and inputs and set(inputs) <= set(self.names):
            args, kwargs = (), dict(inputs)
        elif isinstance(inputs, list | tuple) and self.needed > 1:
            args = tuple(inputs)
        named: dict[str, Any] = {}
        fronts = [self.names[i] if i < len(self.names) else f"input.{i}" for i in range(len(args))]
        if isinstance(inputs, Mapping):
            fronts = [""]  # a dict says itself what its entries are called
        placed = tuple(_placed(front, each, named) for front, each in zip(fronts, args, strict=False))
        return named, (placed, {name: _placed(name, each, named) for name, each in kwargs.items()})


def parameters_of(model: Any) -> Parameters:
    """What a `call` of the user's own takes."""
    found = [each for each in inspect.signature(model.call).parameters.values() if each.name not in _SETTINGS]
    single = [each for each in found if each.kind in _SINGLE]
    return Parameters(tuple(each.name for each in single), sum(each.default is each.empty for each in single))


def signature_of(model: Any, example: Any = None) -> Signature:
    """How a model is called.

    Raises:
        InputError: When only inputs can tell, and there are none.
    """
    if runs_a_graph(model):
        return _declared(network(model))
    if example is None:
        raise InputError(
            f"model {model.name!r} ({type(model).__name__}) runs a call of its own, which is traced for its inputs: "
            "pass them, or example= where an Explainer is made of it"
        )
    parameters = parameters_of(model)
    named, places = parameters.filled(example)
    arrays = {name: as_given(value) for name, value in named.items()}
    inputs = tuple(InputType(name, (None,) * array.ndim, _type(model, array)) for name, array in arrays.items())
    return Signature(inputs, (), places, parameters)


def _declared(functional: Any) -> Signature:
    names, symbols = input_names(functional), symbols_of(functional)
    inputs = tuple(
        InputType(name, tuple(symbol.shape), np.dtype(symbol.dtype))
        for name, symbol in zip(names, symbols, strict=True)
    )
    return Signature(inputs, tuple(output_names(functional)))


def input_names(functional: Any) -> list[str]:
    """What users call the inputs: keys of a dict, or names of the Input layers."""
    keys = _keys(functional._inputs_struct)
    return [keys.get(id(symbol), symbol.name) for symbol in functional._inputs]


def output_names(functional: Any) -> list[str]:
    """Keys of a dict, or names of the layers that compute the outputs."""
    keys = _keys(functional._outputs_struct)
    return [keys.get(id(symbol), symbol._keras_history.operation.name) for symbol in functional._outputs]


def _keys(struct: Any) -> Mapping[int, str]:
    return {id(value): key for key, value in struct.items()} if isinstance(struct, dict) else {}


def symbols_of(functional: Any) -> list[Any]:
    """The inputs themselves, or the ids that layers for text make of them."""
    return [_ids_of(functional, symbol) for symbol in functional._inputs]


def _ids_of(functional: Any, symbol: Any) -> Any:
    for nodes in functional._nodes_by_depth.values():
        for node in nodes:
            if type(node.operation).__name__ in HOSTED and any(each is symbol for each in node.input_tensors):
                return node.outputs[0]
    return symbol


def hosted(functional: Any) -> dict[str, Any]:
    """The layers for text right behind an input, by its name."""
    pairs = zip(input_names(functional), functional._inputs, symbols_of(functional), strict=True)
    return {name: ids._keras_history.operation for name, symbol, ids in pairs if ids is not symbol}


def _placed(front: str, value: Any, named: dict[str, Any]) -> Any:
    """Enter the inputs of an argument by name; gives the argument with their numbers in their places."""
    if isinstance(value, Mapping):
        return {key: _placed(_path(front, key), each, named) for key, each in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and any(map(_is_array, value))):
        return [_placed(_path(front, i), each, named) for i, each in enumerate(value)]
    named[front] = value
    return len(named) - 1


def _path(front: str, key: object) -> str:
    return f"{front}.{key}" if front else str(key)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, Mapping)


def as_given(value: Any) -> np.ndarray:
    """What users pass as an array, wherever it lies."""
    if hasattr(value, "detach") or type(value).__module__.startswith(("tensorflow", "torch")):
        value = importlib.import_module("keras").ops.convert_to_numpy(value)
    return np.asarray(value)


def _type(model: Any, value: np.ndarray) -> np.dtype:
    """The type in which a model takes an input: floats in the one that it computes in, others as they are.

    Raises:
        UnsupportedError: For text.
    """
    if value.dtype.kind not in "biuf":
        raise NoRoadError(
            f"model {model.name!r} takes {value.dtype} in a call of its own; turn text into ids before the model"
        )
    if value.dtype.kind == "f":
        return np.dtype(model.input_dtype or "float32")
    narrow = importlib.import_module("jax").dtypes.canonicalize_dtype(value.dtype)
    return np.dtype(narrow)
