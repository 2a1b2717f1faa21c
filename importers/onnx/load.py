"""Reads an ONNX model, untrusted: nothing outside its folder is opened, sizes are checked before allocating."""

from __future__ import annotations

import hashlib
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
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external(tensor)
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:
            raise ModelError(f"{self.name}: tensor {tensor.name!r} is broken: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Hash of the model and of every tensor stored outside it."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for tensor in _tensors(self.proto.graph):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                digest.update(np.ascontiguousarray(self._external(tensor)).view(np.uint8).data)
        return digest.hexdigest()

    def _external(self, tensor: onnx.TensorProto) -> np.ndarray:
        where = f"{self.name}: external data of tensor {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        path = self._external_path(entries.get("location", ""), where)
        dtype = _stored_type(tensor, where)
        offset, shape = _natural(entries.get("offset", "0"), where), tuple(tensor.dims)
        size = dtype.itemsize * int(np.prod([_natural(d, where) for d in shape], dtype=object))
        if "length" in entries and _natural(entries["length"], where) != size:
            raise ModelError(f"{where}: length {entries['length']} does not fit shape {shape} of {dtype}")
        if offset + size > path.stat().st_size:
            raise ModelError(f"{where}: {path.name} ends before byte {offset + size}; is the file complete?")
        if size == 0:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape).view(np.ndarray)

    def _external_path(self, location: str, where: str) -> Path:
        if self.folder is None:
            raise ModelError(f"{where}: the model was given in memory; pass its path so that the data can be found")
        path = Path(os.path.realpath(self.folder / location.partition("\0")[0]))
        if not location or "\0" in location or not path.is_relative_to(self.folder):
            raise ModelError(f"{where}: location {location!r} leaves the model's folder; refused")
        if not path.exists():
            raise ModelError(f"{where}: file {location!r} is missing; put it beside the model")
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{where}: {location!r} is not a plain file; refused")
        return path


def load(model: Any) -> OnnxModel:
    """Read a model from a path, or take a ModelProto as it is.

    Raises:
        ModelError: When there is no such file, or it is not a complete ONNX model.
        SettingError: When `model` is something else than a path or a ModelProto.
    """
    if isinstance(model, onnx.ModelProto):
        return _verified(OnnxModel(model, None, model.graph.name or "model"))
    if not isinstance(model, str | os.PathLike):
        raise SettingError(f"model must be a path or an onnx.ModelProto, found {type(model).__name__}")
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"{path} is not a plain file" if path.exists() else f"no such file: {path}")
    return _verified(OnnxModel(_parse(path), Path(os.path.realpath(path)).parent, path.name))


def _parse(path: Path) -> onnx.ModelProto:
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{path} is larger than 2 GiB, which no ONNX file can be; store its weights as external data")
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or it is truncated: {error}") from error


def _verified(model: OnnxModel) -> OnnxModel:
    proto = model.proto
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{model.name} holds no graph; is it a complete ONNX model?")
    if not proto.opset_import:
        raise ModelError(f"{model.name} names no operator set (opset_import); re-export it with a current exporter")
    if not proto.graph.output:
        raise ModelError(f"{model.name} has no outputs; is the file complete?")
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph: initialisers and attributes, those of sub-graphs included."""
    graphs = [graph]
    while graphs:
        current = graphs.pop()
        yield from current.initializer
        for attribute in (attribute for node in current.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs


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
        raise ModelError(f"{where}: {value!r} is not a size")
    return number
