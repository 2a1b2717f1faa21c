"""What is passed for a model and holds none, or none that can be read, with the way to one that can."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backtrace_jax.errors import BacktraceError, ModelError, SettingError

_LOAD = "load the model with its own library and pass the module"
_BUILD = "build the module, load them into it, and pass the module"
_CONVERT = "convert it: python -m tf2onnx.convert"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")
_ESTIMATORS = {
    "sklearn": "skl2onnx.to_onnx(model, X[:1])",
    "xgboost": "onnxmltools.convert_xgboost(model, ...), or skl2onnx.to_onnx(...) with its converter registered",
    "lightgbm": "onnxmltools.convert_lightgbm(model, ...), or skl2onnx.to_onnx(...) with its converter registered",
}


def refuse_strangers(model: Any) -> None:
    """Refuse what is known not to be a model that can be read.

    Raises:
        ModelError: For files, folders, and names of models that are elsewhere.
        SettingError: For objects.
    """
    problem = _of_path(model) if isinstance(model, str | os.PathLike) else _of_object(model)
    if problem is not None:
        raise problem


def _of_path(model: str | os.PathLike[str]) -> BacktraceError | None:
    text, path = str(model)[:100], Path(model)
    suffix = path.suffix.lower()
    if re.match(r"[a-z][a-z0-9+]+://?", text, re.IGNORECASE):
        return ModelError(f"{text} is an address, and nothing is downloaded: {_LOAD}")
    if suffix in _WEIGHTS:
        return ModelError(f"{text} holds weights only, or a pickled module, and nothing is unpickled: {_BUILD}")
    if suffix == ".tflite":
        return ModelError(f"{text} is a TensorFlow Lite file; {_CONVERT} --tflite {path.name} --output model.onnx")
    if suffix == ".pb" or os.path.isfile(path / "saved_model.pb"):
        kind = "--saved-model" if os.path.isdir(path) else "--graphdef"
        return ModelError(f"{text} is a model of TensorFlow; {_CONVERT} {kind} {path.name} --output model.onnx")
    if re.fullmatch(r"[\w-]+(/[\w.-]+)?", text) and not suffix and not os.path.exists(path):
        return ModelError(f"no such file: {text}; a name on a hub? nothing is downloaded: {_LOAD}")
    return None


def _of_object(model: Any) -> BacktraceError | None:
    library = type(model).__module__.partition(".")[0]
    if isinstance(model, Mapping):
        return SettingError(f"model is of type {type(model).__name__}, which holds weights only: {_BUILD}")
    if isinstance(model, type):
        return SettingError(f"model is the class {model.__name__}; pass an instance of it: {model.__name__}(...)")
    if library in _ESTIMATORS and hasattr(model, "predict"):
        return SettingError(f"a {type(model).__name__} of {library} is converted first: {_ESTIMATORS[library]}")
    return None
