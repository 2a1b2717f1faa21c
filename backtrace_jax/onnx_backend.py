"""The ONNX backend protocol: run a model's forward pass as any ONNX runtime does, with exact shapes and dtypes.

It serves conformance tests, and shows whether a model computes here what it computes elsewhere before it is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from .engine.compile import compile_forward
from .errors import DataDependentError, InputError, SettingError
from .importers.onnx import OnnxModel, input_types, load, lower
from .ir import Program
from .numerics import Device

Arrays: TypeAlias = Sequence[Any] | Mapping[str, Any]
Compiled: TypeAlias = Callable[[dict[str, np.ndarray]], tuple[np.ndarray, ...]]

_PLATFORMS = {"CPU": "cpu", "CUDA": "gpu"}


class JaxBackend(Backend):
    """Runs ONNX models through this library's lowering."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", known: Collection[str] = (), **kwargs: Any) -> JaxRep:
        """Get a model ready to run.

        Args:
            model: The model.
            device: "CPU" or "CUDA", with an index after a colon if there are several.
            known: Inputs whose values the model is specialised to. Those that decide shapes (the target of a Reshape,
                say) are found without being named.
            **kwargs: Other settings of the protocol; there are none.
        """
        if kwargs:
            raise SettingError(f"unknown settings {', '.join(sorted(kwargs))}; there is one: known")
        return JaxRep(load(model), _device(device), frozenset(known))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Arrays, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Run a model once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether JAX sees such a device here."""
        try:
            _device(device)
        except SettingError:
            return False
        return True


class JaxRep(BackendRep):
    """A model ready to run; each combination of input shapes is compiled once."""

    def __init__(self, model: OnnxModel, device: Device, known: frozenset[str]) -> None:
        self._model = model
        self._device = device
        self._known = known  # grows by whatever turns out to decide shapes
        self._compiled: dict[Any, Compiled] = {}

    def run(self, inputs: Arrays, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Outputs of the model in its own order, as NumPy arrays.

        Args:
            inputs: Arrays in the order of the model's inputs, or by name.
            **kwargs: Settings of the protocol; there are none.
        """
        if kwargs:
            raise SettingError(f"unknown settings {', '.join(sorted(kwargs))}; there are none")
        arrays = self._named(inputs)
        if self._key(arrays) not in self._compiled:
            compiled = self._compile(arrays)
            self._compiled[self._key(arrays)] = compiled
        return self._compiled[self._key(arrays)](arrays)

    def _key(self, arrays: dict[str, np.ndarray]) -> Any:
        types = tuple((array.shape, array.dtype.name) for array in arrays.values())
        return types, self._known, tuple(arrays[name].tobytes() for name in sorted(self._known))

    def _named(self, inputs: Arrays) -> dict[str, np.ndarray]:
        declared = input_types(self._model)
        names = [entry.name for entry in declared]
        given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
        if given.keys() != set(names) or len(inputs) != len(names):
            raise InputError(f"expected the inputs {', '.join(names)}; found {len(inputs)}: {', '.join(given)}")
        arrays = {name: np.asarray(given[name]) for name in names}
        for entry in declared:
            if arrays[entry.name].dtype != entry.dtype:
                raise InputError(f"input {entry} expected, found dtype {arrays[entry.name].dtype}")
        return arrays

    def _compile(self, arrays: dict[str, np.ndarray]) -> Compiled:
        program = self._lower(arrays)
        read = [var.name for var in program.graph.inputs]
        with jax.default_device(self._device):
            weights = program.weights
            function = compile_forward(program.graph, weights, {name: arrays[name] for name in read})

        def run(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
            with jax.default_device(self._device), jax.enable_x64(True):
                results = function(weights, {name: arrays[name] for name in read})
            return tuple(map(np.asarray, results))

        return run

    def _lower(self, arrays: dict[str, np.ndarray]) -> Program:
        """The graph, specialised to the inputs that decide shapes."""
        shapes = {name: array.shape for name, array in arrays.items()}
        while True:
            try:
                return lower(self._model, shapes, known={name: arrays[name] for name in self._known})
            except DataDependentError as error:
                if error.inputs <= self._known:
                    raise
                self._known |= error.inputs


def _device(name: str) -> Device:
    kind, _, index = name.partition(":")
    try:
        return jax.devices(_PLATFORMS[kind.upper()])[int(index or 0)]
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise SettingError(f"no device {name!r} here; there are: {jax.devices()}") from error


prepare = JaxBackend.prepare
run_model = JaxBackend.run_model
supports_device = JaxBackend.supports_device
