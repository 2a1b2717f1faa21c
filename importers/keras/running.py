"""Runs the Keras model itself, and brings what users pass to it into arrays by input name."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType

from .calling import Signature, as_given

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


@contextmanager
def holding(model: Any, weights: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the model computes with these weights instead of its own."""
    keras = importlib.import_module("keras")
    variables = weights_of(model)
    with keras.StatelessScope(state_mapping=[(variables[name], value) for name, value in weights.items()]):
        yield


def weights_of(model: Any) -> dict[str, Any]:
    """The variables of a model by their paths inside it: `dense/kernel`; a further one of a path has a number."""
    found: dict[str, Any] = {}
    for variable in model.variables:
        if variable.dtype != "string":
            stem = variable.path.removeprefix(f"{model.name}/")
            names = (f"{stem}_{number}" if number else stem for number in count())
            found[next(name for name in names if name not in found)] = variable
    return found


@dataclass
class Runner:
    """How the model that was given is run; the model itself is passed to every run, and is not kept here.

    Attributes:
        signature: How it is called.
        outputs: Names of its outputs in the import, in order.
        compiled: What it computed so far, as programs by their text.
    """

    signature: Signature
    outputs: tuple[str, ...]
    compiled: dict[str, Any] = field(default_factory=dict)

    def run(self, model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name from inputs by name, of the model behind whatever turns text into ids."""
        keras = importlib.import_module("keras")
        with quietly():
            values = [
                keras.ops.convert_to_tensor(arrays[each.name].astype(each.dtype)) for each in self.signature.inputs
            ]
            on_jax = keras.backend.backend() == "jax"
            found = self._jitted(model, values) if on_jax else self.signature.called(model, values)
            return {
                name: np.asarray(keras.ops.convert_to_numpy(each))
                for name, each in zip(self.outputs, found, strict=True)
            }

    def _jitted(self, model: Any, values: list[Any]) -> Any:
        """In one piece: operation by operation, every operation would be compiled on its own, at each batch size.

        The model is traced each time, since it may have been changed; what was compiled is kept by what it computes.
        """
        import jax

        weights = {name: variable.value for name, variable in weights_of(model).items()}

        def pure(weights: Any, values: list[Any]) -> Any:
            with holding(model, weights):
                return self.signature.called(model, values)

        lowered = jax.jit(pure).lower(weights, values)
        text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if text not in self.compiled:
            while len(self.compiled) >= _PROGRAMS_KEPT:
                del self.compiled[next(iter(self.compiled))]
            self.compiled[text] = lowered.compile(_ONCE if jax.default_backend() == "cpu" else None)
        return self.compiled[text](weights, values)


@dataclass(frozen=True)
class Feed:
    """Turns what users pass to the model into arrays by input name.

    Attributes:
        declared: The inputs of the ONNX model.
        hosts: What turns text (or other raw values) into numbers before the model, by input name.
        ranks: Number of axes that the user's values have, by input name.
        signature: How a model is called that runs a call of its own.
    """

    declared: tuple[InputType, ...]
    hosts: Mapping[str, Callable[[Any], np.ndarray]]
    ranks: Mapping[str, int]
    signature: Signature | None = None

    def __call__(self, inputs: Any) -> Any:
        """Arrays by input name.

        Raises:
            InputError: When there are more or fewer values than inputs, or they are not what the model takes.
        """
        inputs = inputs if self.signature is None else self.signature.named(inputs)
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
        return _read_as(_of_rank(as_given(value), self.ranks[declared.name]), declared)


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
