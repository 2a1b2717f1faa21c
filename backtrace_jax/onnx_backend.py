"""The ONNX backend protocol: run a model's forward pass as any ONNX runtime does, with exact shapes and dtypes.

It serves conformance tests, and shows whether a model computes here what it computes elsewhere before it is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import jax
import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from .engine.forward import compile_forward
from .errors import DataDependentError, InputError, SettingError
from .explainer import stages
from .importers.onnx import OnnxModel, input_types, load, lower
from .ir import Program
from .ir.imported import InputType
from .runtime.numerics import Device, exact_types
from .runtime.processes import enter

Arrays: TypeAlias = Sequence[Any] | Mapping[str, Any]
Compiled: TypeAlias = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

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
    """A model ready to run; each combination of input shapes is compiled once, and as many kept as by an Explainer."""

    def __init__(self, model: OnnxModel, device: Device, known: frozenset[str]) -> None:
        self._model = model
        self._device = device
        self._known = known  # grows by whatever turns out to decide shapes
        self._compiled: dict[Any, Compiled] = {}

    def run(self, inputs: Arrays, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs of the model in its own order, as NumPy arrays; sequences are lists, absent optionals None.

        Args:
            inputs: Arrays in the order of the model's inputs, or by name.
            **kwargs: Settings of the protocol; there are none.
        """
        enter()
        if kwargs:
            raise SettingError(f"unknown settings {', '.join(sorted(kwargs))}; there are none")
        given = self._named(inputs)
        arrays = dict(item for name, value in given.items() for item in _flat(name, value))
        compiled = self._compiled.pop(self._key(arrays), None) or self._compile(given, arrays)
        self._compiled[self._key(arrays)] = compiled  # the last place is that of the newest
        for oldest in [*self._compiled][: -stages.FORMS_KEPT]:
            self._compiled.pop(oldest, None)
        found = compiled(arrays)
        return tuple(_nested(info.name, info.type, found) for info in self._model.proto.graph.output)

    def _key(self, arrays: dict[str, np.ndarray]) -> Any:
        types = tuple((name, array.shape, array.dtype.name) for name, array in arrays.items())
        return types, tuple((name, arrays[name].tobytes()) for name in sorted(self._known) if name in arrays)

    def _named(self, inputs: Arrays) -> dict[str, Any]:
        declared = input_types(self._model)
        names = [entry.name for entry in declared]
        given = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
        if given.keys() != set(names) or len(inputs) != len(names):
            raise InputError(f"expected the inputs {', '.join(names)}; found {len(inputs)}: {', '.join(given)}")
        values = {entry.name: _value(given[entry.name], entry) for entry in declared}
        for entry in declared:
            for name, array in _flat(entry.name, values[entry.name]):
                if array.dtype != entry.dtype:
                    raise InputError(f"input {entry} expected, found dtype {array.dtype} for {name}")
        return values

    def _compile(self, given: dict[str, Any], arrays: dict[str, np.ndarray]) -> Compiled:
        program = self._lower(given, arrays)
        read = [var.name for var in program.graph.inputs]
        weights = program.weights
        function = compile_forward(program.graph, weights, {name: arrays[name] for name in read}, device=self._device)

        def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            with jax.default_device(self._device), exact_types():
                results = function(weights, {name: arrays[name] for name in read})
            return dict(zip(program.graph.output_names, map(np.asarray, results), strict=True))

        return run

    def lower(self, inputs: Arrays) -> tuple[Program, dict[str, np.ndarray]]:
        """The graph that `run` would run, and what its inputs are."""
        given = self._named(inputs)
        arrays = dict(item for name, value in given.items() for item in _flat(name, value))
        program = self._lower(given, arrays)
        return program, {var.name: arrays[var.name] for var in program.graph.inputs}

    def _lower(self, given: dict[str, Any], arrays: dict[str, np.ndarray]) -> Program:
        """The graph, specialised to the inputs that decide shapes."""
        shapes = {name: _shapes(value) for name, value in given.items()}
        while True:
            known = {name: arrays[name] for name in self._known if name in arrays}
            try:
                return lower(self._model, shapes, known=known)
            except DataDependentError as error:
                if error.inputs <= self._known:
                    raise
                self._known |= error.inputs


def _value(given: Any, declared: InputType) -> Any:
    """An input as an array, a list of arrays, or None, as the model declares it."""
    optional = bool(declared.container) and declared.container[0] == "optional"
    if given is None and optional:
        return None
    inner = replace(declared, container=declared.container[1:])
    if optional:
        return _value(given, inner)
    return [_value(item, inner) for item in given or ()] if declared.container else np.asarray(given)


def _flat(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an input, under the names that their entries have in the graph."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _flat(f"{name}[{i}]", item)
    elif value is not None:
        yield name, value


def _shapes(value: Any) -> Any:
    return [_shapes(item) for item in value] if isinstance(value, list) else getattr(value, "shape", None)


def _nested(name: str, declared: onnx.TypeProto, found: Mapping[str, np.ndarray]) -> Any:
    """An output as the model declares it, from the graph's outputs by name."""
    kind = declared.WhichOneof("value")
    if kind == "optional_type":
        present = any(each == name or each.startswith(f"{name}[") for each in found)
        return _nested(name, declared.optional_type.elem_type, found) if present else None
    if kind != "sequence_type" or name in found:  # scores take the place of a sequence of maps, nothing that of text
        return found.get(name)
    count = len({each[len(name) :].split("]")[0] for each in found if each.startswith(f"{name}[")})
    return [_nested(f"{name}[{i}]", declared.sequence_type.elem_type, found) for i in range(count)]


def _device(name: str) -> Device:
    kind, _, index = name.partition(":")
    try:
        return jax.devices(_PLATFORMS[kind.upper()])[int(index or 0)]
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise SettingError(f"no device {name!r} here; there are: {jax.devices()}") from error


prepare = JaxBackend.prepare
run_model = JaxBackend.run_model
supports_device = JaxBackend.supports_device
