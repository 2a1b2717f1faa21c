"""Reads an ONNX model, untrusted: nothing outside its folder is opened, sizes are checked before allocating."""

from __future__ import annotations

import hashlib
import os
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
from backtrace_jax.errors.arguments import check_plain_file

from .external import ExternalData
from .modules import Scopes, scopes_told
from .verify import check_tensor, check_version, graphs_of, shortened, verify
from .wire import check_parts

LARGEST = 2**31 - 1  # bytes of a protobuf message

ModelSource: TypeAlias = "str | os.PathLike[str] | onnx.ModelProto"


@dataclass(frozen=True)
class OnnxModel:
    """A parsed model and the folder its external data lives in.

    Attributes:
        proto: The model, which nobody else changes; tensors stored outside it are read by `array`.
        folder: Real path of the folder external data may come from; None for a model given in memory.
        name: What to call the model in messages.
    """

    proto: onnx.ModelProto
    folder: Path | None
    name: str

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The tensor as an array, from the model or from what was read of its external files.

        Raises:
            ModelError: When the data are missing, too short, or outside the model's folder.
        """
        check_tensor(tensor)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._external.array(tensor)
        try:
            return numpy_helper.to_array(tensor)
        except Exception as error:
            raise ModelError(f"{self.name}: tensor {shortened(tensor.name)!r} is broken: {error}") from error

    @cached_property
    def sha256(self) -> str:
        """Hash of the model and of all the data outside it, each byte once however many tensors share it."""
        digest = hashlib.sha256(self.proto.SerializeToString(deterministic=True))
        for part in self._external.parts():
            digest.update(part.data)
        return digest.hexdigest()

    @cached_property
    def scopes(self) -> dict[Scopes, str]:
        """The module that scopes in the names of nodes stand for, where it is told."""
        return scopes_told(self.proto.graph)

    def stored_bytes(self) -> int:
        """Bytes of the model and of all the data outside it."""
        return self.proto.ByteSize() + sum(part.nbytes for part in self._external.parts())

    @cached_property
    def _external(self) -> ExternalData:
        outside = (each for each in _tensors(self.proto) if each.data_location == onnx.TensorProto.EXTERNAL)
        return ExternalData(self.name, self.folder, tuple(outside))


def load(model: Any, *, copy: bool = True) -> OnnxModel:
    """Read a model from a path, or take a ModelProto.

    Args:
        model: The path or the ModelProto.
        copy: Whether a ModelProto stays its owner's, who may change it later; False where it was made for this call.

    Raises:
        ModelError: When there is no such file, or it is not a complete ONNX model.
        SettingError: When `model` is something else than a path or a ModelProto.
    """
    if isinstance(model, onnx.ModelProto):
        return _verified(OnnxModel(_copied(model) if copy else model, None, model.graph.name or "model"))
    if not isinstance(model, str | os.PathLike):
        kinds = "a path, an onnx.ModelProto, a torch.nn.Module, a keras.Model or a JAX function or module"
        raise SettingError(f"model must be {kinds}, found {type(model).__name__}")
    path = Path(model)
    check_plain_file(path, ModelError)
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


def _copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _verified(model: OnnxModel) -> OnnxModel:
    proto = model.proto
    verify(proto, model.name)
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{model.name} holds no graph; is it a complete ONNX model?")
    if not proto.opset_import:
        raise ModelError(f"{model.name} names no operator set (opset_import); re-export it with a current exporter")
    if not proto.graph.output:
        raise ModelError(f"{model.name} has no outputs; is the file complete?")
    check_version(proto, model.name)
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
