"""The ONNX file of a JAX model, written by jax2onnx and proven to compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import jax.export
import numpy as np

from backtrace_jax.errors import BacktraceError, SettingError, UnsupportedError
from backtrace_jax.errors.libraries import library
from backtrace_jax.ir.imported import Imported

from .. import onnx, proof
from .reading import read_model, source_of
from .tracing import Tracing, outputs_of

if TYPE_CHECKING:
    from onnx import ModelProto

_BATCH = "batch"


def exported(model: Any, inputs: Any) -> Imported:
    """The file of a model, read once more and proven on these inputs; its `proto` is what is written.

    Raises:
        SettingError: Without inputs.
        MissingDependencyError: When jax2onnx is not installed.
        UnsupportedError: When jax2onnx cannot export the model.
        ImportMismatchError: When its file does not compute what the model computes.
    """
    if inputs is None:
        raise SettingError("a JAX model is traced with inputs: give INPUTS, an .npy file, or an .npz by input name")
    exporter = library("jax2onnx", "a JAX model is exported by jax2onnx", "pip install 'backtrace-jax[jax2onnx]'")
    source = source_of(read_model(model, inputs, proven=False))
    feeds = source.call.first(inputs)
    proto = _written(exporter, source.tracing, {name: array.shape[1:] for name, array in feeds.items()})
    found = onnx.read(proto)
    forward = proof.lowered(found, feeds).compiled()
    proof.prove(
        found, source.answer, {name: feeds[name].astype(source.tracing.dtypes[name]) for name in feeds}, forward
    )
    return replace(
        found,
        name=source.tracing.model.name,
        proto=proto,
        origin={
            "framework": source.tracing.model.framework,
            "exporter": f"jax2onnx {_version()}".strip(),
            "opset": str(max(each.version for each in proto.opset_import)),
        },
    )


def _written(exporter: Any, tracing: Tracing, shapes: Mapping[str, tuple[int, ...]]) -> ModelProto:
    names = tracing.call.names
    traced = tracing.at({name: (1, *shape) for name, shape in shapes.items()})

    def function(*arrays: Any) -> Any:
        outputs = outputs_of(tracing.model, tracing.call, tracing.model.weights, dict(zip(names, arrays, strict=True)))
        return tuple(outputs.values())

    try:
        with tracing.configuration.set():
            types = [_open(shapes[name], tracing.dtypes[name]) for name in names]
            return exporter.to_onnx(
                function,
                inputs=types,
                model_name=tracing.model.name,
                input_names=[*names],
                output_names=[*traced.names],
            )
    except BacktraceError:
        raise
    except Exception as error:  # exporters raise anything
        raise UnsupportedError(
            f"jax2onnx cannot export {tracing.model.name[:40]}: {type(error).__name__}: {error!s:.120}; explain the "
            "model itself"
        ) from error


def _version() -> str:
    try:
        return metadata.version("jax2onnx")
    except metadata.PackageNotFoundError:  # imported from a folder
        return ""


def _open(shape: tuple[int, ...], dtype: np.dtype) -> jax.ShapeDtypeStruct:
    """The type of an input with any number of examples."""
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(", ".join((_BATCH, *map(str, shape)))), dtype)
