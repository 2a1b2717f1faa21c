"""Reads an ONNX model, untrusted: nothing outside its folder is opened, sizes are checked before allocating."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from backtrace_jax.errors import ModelError, SettingError

from .verify import check_tensor, graphs_of, shortened, verify
from .wire import check_parts

LARGEST = 2**31 - 1  # bytes of a protobuf message

ModelSource: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto"


@dataclass(frozen=True)
class OnnxModel:
    """A parsed model and the folder its external data lives in.

    Attributes:
        proto: The model; tensors stored outside the file are read on demand by `array`.
        folder: Real path of the folder external data may come from; None for a model given in memory.
        name: What to call the model in messages.
    """

    proto: onnx.ModelProto
    folder: Path | None
    name: str

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The tensor as an array, from the model or from its external file (mapped, not copied).

        Raises:
            ModelError: When the data are missing, too short, or outside the model's folder.
        """
        check_tensor(tensor)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor)
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:
            raise ModelError(f"{self.name}: tensor {shortened(tensor.name)!r} is broken: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Hash of the model and of all the data outside it, each byte once however many tensors share it."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for path, (begin, end) in self._external_spans():
            digest.update(_mapped(path, np.dtype(np.uint8), begin, (end - begin,)).data)
        return digest.hexdigest()

    def stored_bytes(self) -> int:
        """Bytes of the model and of all the data outside it."""
        return self.proto.ByteSize() + sum(end - begin for _, (begin, end) in self._external_spans())

    def _external_spans(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        """The parts of other files that tensors lie in, overlapping ones as one."""
        parts: dict[Path, list[tuple[int, int]]] = {}
        for tensor in _tensors(self.proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                place = self._place(tensor)
                parts.setdefault(place.path, []).append((place.offset, place.offset + place.size))
        for path, spans in parts.items():
            yield from ((path, span) for span in _merged(spans))

    def _external(self, tensor: onnx.TensorProto) -> np.ndarray:
        place = self._place(tensor)
        return _mapped(place.path, place.dtype, place.offset, place.shape)

    def _place(self, tensor: onnx.TensorProto) -> _Place:
        where = f"{self.name}: external data of tensor {shortened(tensor.name)!r}"
        check_tensor(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._external_path(entries.get("location", ""), where)
        dtype = _stored_type(tensor, where)
        offset, shape = _natural(entries.get("offset", "0"), where), tuple(tensor.dims)
        size = dtype.itemsize * math.prod(shape)
        if "length" in entries and _natural(entries["length"], where) != size:
            raise ModelError(f"{where}: length {entries['length']} does not fit shape {shape} of {dtype}")
        if offset + size > path.stat().st_size:
            raise ModelError(f"{where}: {path.name} ends before byte {offset + size}; is the file complete?")
        return _Place(path, offset, size, shape, dtype)

    def _external_path(self, location: Any, where: str) -> Path:
        if self.folder is None:
            raise ModelError(f"{where}: the model was given in memory; pass its path so that the data can be found")
        if not isinstance(location, str) or not location or "\0" in location:
            raise ModelError(f"{where}: location {shortened(location)!r} leaves the model's folder; refused")
        path = self._real_path(location, where)
        if not path.is_relative_to(self.folder):
            raise ModelError(f"{where}: location {shortened(location)!r} leaves the model's folder; refused")
        if not path.exists():
            raise ModelError(f"{where}: file {shortened(location)!r} is missing; put it beside the model")
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{where}: {shortened(location)!r} is not a plain file; refused")
        return path

    def _real_path(self, location: str, where: str) -> Path:
        try:
            path = Path(os.path.realpath(Path(self.folder or ".") / location))
            path.exists()
        except (OSError, ValueError) as error:
            raise ModelError(f"{where}: {shortened(location)!r} is no file's name: {shortened(error)}") from error
        return path


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies outside the model."""

    path: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    dtype: np.dtype


def load(model: Any) -> OnnxModel:
    """Read a model from a path, or take a ModelProto as it is.

    Raises:
        ModelError: When there is no such file, or it is not a complete ONNX model.
        SettingError: When `model` is something else than a path or a ModelProto.
    """
    if isinstance(model, onnx.ModelProto):
        return _verified(OnnxModel(model, None, model.graph.name or "model"))
    if not isinstance(model, str | os.PathLike):
        kinds = "a path, an onnx.ModelProto, a torch.nn.Module or a keras.Model"
        raise SettingError(f"model must be {kinds}, found {type(model).__name__}")
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path} is not a plain file" if path.exists() else f"no such file: {path}")
    return _verified(OnnxModel(_parse(path), Path(os.path.realpath(path)).parent, path.name))


def _parse(path: Path) -> onnx.ModelProto:
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{path} is larger than 2 GiB, which no ONNX file can be; store its weights as external data")
    try:
        data = path.read_bytes()
        check_parts(data)
        return onnx.ModelProto.FromString(data)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or it is truncated: {error}") from error


def _verified(model: OnnxModel) -> OnnxModel:
    proto = model.proto
    verify(proto, model.name)
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{model.name} holds no graph; is it a complete ONNX model?")
    if not proto.opset_import:
        raise ModelError(f"{model.name} names no operator set (opset_import); re-export it with a current exporter")
    if not proto.graph.output:
        raise ModelError(f"{model.name} has no outputs; is the file complete?")
    return model


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initialisers and attributes, those of sub-graphs and functions included."""
    waiting: list[Any] = [proto.graph, *proto.functions]
    while waiting:
        current = waiting.pop()
        if isinstance(current, onnx.GraphProto):
            yield from current.initializer
        for attribute in (attribute for node in current.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            waiting += graphs_of(attribute)


def _merged(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same bytes in order, none of them twice."""
    spans = sorted(spans)
    begin, end = spans[0]
    for low, high in spans:
        if low > end:
            yield begin, end
            begin, end = low, high
        end = max(end, high)
    yield begin, end


def _mapped(path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Part of a file as an array that is read when it is looked at; no link is followed, whatever was seen before."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        return np.memmap(file, dtype, "r", offset, shape).view(np.ndarray)


def _stored_type(tensor: onnx.TensorProto, where: str) -> np.dtype:
    """Type of entries that lie in a file one after the other, each in bytes of its own."""
    names = {code: name for name, code in onnx.TensorProto.DataType.items()}
    name = names.get(tensor.data_type, "UNDEFINED")
    if name in ("STRING", "UNDEFINED") or name.endswith(("INT2", "INT4", "4E2M1")):
        raise ModelError(f"{where}: type {name} cannot be read from a file; keep the tensor inside the model")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _natural(value: str | int, where: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ModelError(f"{where}: {shortened(value)!r} is not a size")
    return number
