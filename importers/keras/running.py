"""Runs the Keras model itself, and brings what users pass to it into arrays by input name."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType

from .graph import network
from .text import HOSTED

_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For what is run on a few examples: optimising it would cost more than it saves."""


_PROGRAMS_KEPT = 4  # one for each batch size


@contextmanager
def quietly() -> Iterator[None]:
    """Run Keras as it runs by itself: without strict promotion, and without leaving a trace in the model."""
    keras = importlib.import_module("keras")
    with ExitStack() as stack:
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.numpy_dtype_promotion("standard"))
            stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(keras.StatelessScope())  # what a call would change (random states) is thrown away
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@dataclass
class Runner:
    """How the model that was given is run; the model itself is passed to every run, and is not kept here.

    Attributes:
        inputs: Names of its inputs in the ONNX model, in order.
        outputs: Names of its outputs in the ONNX model, in order.
        compiled: What it computed so far, as programs by their text.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compiled: dict[str, Any] = field(default_factory=dict)

    def run(self, model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name from inputs by name, of the model behind whatever turns text into ids."""
        keras, functional = importlib.import_module("keras"), network(model)
        symbols = [_ids_of(functional, symbol) for symbol in functional._inputs]
        with quietly():
            values = [
                keras.ops.convert_to_tensor(arrays[name].astype(symbol.dtype))
                for name, symbol in zip(self.inputs, symbols, strict=True)
            ]
            found = [np.asarray(keras.ops.convert_to_numpy(each)) for each in self._called(functional, symbols, values)]
        return dict(zip(self.outputs, found, strict=True))

    def _called(self, functional: Any, symbols: list[Any], values: list[Any]) -> list[Any]:
        keras = importlib.import_module("keras")
        if any(one is not other for one, other in zip(symbols, functional._inputs, strict=True)):
            return keras.tree.flatten(keras.Function(symbols, functional._outputs_struct)(values))
        if keras.backend.backend() == "jax":
            return keras.tree.flatten(self._jitted(functional, values))
        inputs = keras.tree.pack_sequence_as(functional._inputs_struct, values)
        return keras.tree.flatten(functional(inputs, training=False))

    def _jitted(self, functional: Any, values: list[Any]) -> Any:
        """In one piece: operation by operation, every operation would be compiled on its own, at each batch size.

        The model is traced each time, since it may have been changed; what was compiled is kept by what it computes.
        """
        import jax

        keras = importlib.import_module("keras")
        groups = functional.trainable_variables, functional.non_trainable_variables
        weights = [[each.value for each in group] for group in groups]

        def pure(weights: Any, values: list[Any]) -> Any:
            inputs = keras.tree.pack_sequence_as(functional._inputs_struct, values)
            return functional.stateless_call(*weights, inputs, training=False)[0]

        lowered = jax.jit(pure).lower(weights, values)
        text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if text not in self.compiled:
            while len(self.compiled) >= _PROGRAMS_KEPT:
                del self.compiled[next(iter(self.compiled))]
            self.compiled[text] = lowered.compile(_ONCE if jax.default_backend() == "cpu" else None)
        return self.compiled[text](weights, values)


def _ids_of(functional: Any, symbol: Any) -> Any:
    """The input itself, or the ids that a layer for text makes of it."""
    for nodes in functional._nodes_by_depth.values():
        for node in nodes:
            if type(node.operation).__name__ in HOSTED and any(each is symbol for each in node.input_tensors):
                return node.outputs[0]
    return symbol


@dataclass(frozen=True)
class Feed:
    """Turns what users pass to the model into arrays by input name.

    Attributes:
        declared: The inputs of the ONNX model.
        hosts: What turns text (or other raw values) into numbers before the model, by input name.
        ranks: Number of axes that the user's values have, by input name.
    """

    declared: tuple[InputType, ...]
    hosts: Mapping[str, Callable[[Any], np.ndarray]]
    ranks: Mapping[str, int]

    def __call__(self, inputs: Any) -> Any:
        """Arrays by input name.

        Raises:
            InputError: When there are more or fewer values than inputs, or they are not what the model takes.
        """
        given = inputs if isinstance(inputs, Mapping) else self._by_name(inputs)
        known = {each.name: each for each in self.declared}
        return {name: self._array(known[name], value) if name in known else value for name, value in given.items()}

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        names = [each.name for each in self.declared]
        values = list(inputs) if self._is_list(inputs) else [inputs]
        if len(values) != len(names):
            listed = ", ".join(map(str, self.declared))
            raise InputError(f"the model takes {len(names)} inputs ({listed}), found {len(values)}")
        return dict(zip(names, values, strict=True))

    def _is_list(self, inputs: Any) -> bool:
        """Whether these are the inputs in order, rather than the only input itself as nested lists."""
        if isinstance(inputs, tuple):
            return True
        if not isinstance(inputs, list):
            return False
        if len(self.declared) > 1 or len(inputs) != 1:
            return len(self.declared) > 1
        return np.ndim(inputs[0]) == self.ranks[next(iter(self.ranks))]

    def _array(self, declared: InputType, value: Any) -> np.ndarray:
        if declared.name in self.hosts:
            return self.hosts[declared.name](value)
        if hasattr(value, "detach") or type(value).__module__.startswith(("tensorflow", "torch")):
            value = importlib.import_module("keras").ops.convert_to_numpy(value)
        return _read_as(_of_rank(np.asarray(value), self.ranks[declared.name]), declared)


def _of_rank(array: np.ndarray, rank: int) -> np.ndarray:
    """Keras adds or drops a last axis of size 1."""
    if array.ndim == rank + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array[..., None] if array.ndim == rank - 1 and array.ndim > 0 and rank == 2 else array


def _read_as(array: np.ndarray, declared: InputType) -> np.ndarray:
    """Numbers in the type that the model reads them as; ids given as floats are ids where they are whole."""
    wanted = declared.dtype
    if array.dtype.kind not in "biuf" or array.dtype == wanted:
        return array
    with np.errstate(invalid="ignore"):
        converted = array.astype(wanted)
    if wanted.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(converted, array):
        raise InputError(f"input {declared.name!r} takes whole numbers (ids), found {array.dtype} with fractions")
    return converted
