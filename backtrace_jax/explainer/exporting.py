"""`export`: the ONNX file that a PyTorch module or a Keras model is explained through, or that a JAX model becomes."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from backtrace_jax.errors import ImportMismatchError, ModelError, SettingError, UnsupportedError
from backtrace_jax.errors.arguments import as_path, known_arguments
from backtrace_jax.importers import jax, keras, pytorch, read
from backtrace_jax.ir.imported import Imported
from backtrace_jax.question.feeds import Inputs, read_inputs, refuse_datasets

_LARGEST_FILE = 2**31 - 2**20  # bytes of a protocol buffer, with room for what surrounds the weights


@known_arguments
def export(model: Any, path: str | Path, inputs: Inputs = None) -> Imported:
    """Write the ONNX file of a PyTorch module, a Keras model or a JAX model, proven to compute the same.

    A JAX model is explained without a file; its file is written by jax2onnx (extra `jax2onnx`).

    Args:
        model: The module or model, or the path of a Keras file.
        path: The file to write. What of a Keras model is more than 2 GiB is written beside it, as `path.data`.
        inputs: Examples that a module is traced with, and that the file is proven on.

    Returns:
        The model as read, with `origin` telling exporter, opset and versions.

    Raises:
        SettingError: When it is an ONNX model already, a module without inputs to trace it with, or one with more than
            2 GiB of weights.
        MissingDependencyError: When jax2onnx is not installed.
        UnsupportedError: When the model cannot be exported.
        ImportMismatchError: When the export does not compute what the model computes, on any inputs.
    """
    import onnx  # not needed to import the package

    if inputs is None and pytorch.is_module(model):
        raise SettingError(
            "a PyTorch module is traced with inputs: give INPUTS, an .npy file, or an .npz by input name"
        )
    path = as_path("path", path)
    refuse_datasets(inputs)
    imported = jax.exported(model, inputs) if _is_jax(model) else read(model, inputs)
    if imported.proto is None and not imported.origin:
        raise SettingError(f"{imported.name} is an ONNX model already; there is nothing to export")
    if imported.alone:
        raise ImportMismatchError(
            f"{imported.name} decides by the values of its inputs what it computes, and a file holds one way only; "
            "explain the module itself, call by call"
        )
    if imported.origin.get("exporter") == keras.TRACED:
        raise UnsupportedError(
            f"{imported.name} has layers without an ONNX form, or runs a call of its own; explain the model itself"
        )
    if imported.proto is None:
        raise SettingError(f"{imported.name} has more weights than one file holds; export it by torch.onnx.export")
    if inputs is not None and imported.prove is not None:
        imported.prove(read_inputs(imported.arrays(inputs), imported.inputs), None)
    large = imported.proto.ByteSize() > _LARGEST_FILE
    try:
        onnx.save(imported.proto, path, save_as_external_data=large, location=f"{path.name}.data")
    except OSError as error:
        raise SettingError(f"cannot write '{path}': {error}") from error
    return imported


def _is_jax(model: Any) -> bool:
    return jax.is_model(model) and not (pytorch.is_module(model) or keras.is_model(model))


def named(text: str) -> Any:
    """What `package.module:name` names: a model, or a function without arguments that returns one.

    Raises:
        SettingError: When there is nothing of that name.
        ModelError: When the function fails.
    """
    module, _, name = text.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -m` does
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"{text!r} names nothing: {error}; give package.module:name") from error
    finally:
        sys.path.remove(folder)
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        return found
    try:
        return found()
    except Exception as error:
        raise ModelError(f"{text!r} cannot be called without arguments: {error}") from error
