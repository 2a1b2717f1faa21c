"""Loads Keras' files, those that Keras 2 wrote among them.

Keras 3 refuses keys of a layer's configuration that it does not know. Those that say nothing (a single group, time not
first) are taken out of a copy of the file, and which were is recorded; a key that says something is an error.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, MissingDependencyError, ModelError, UnsupportedError

from .text import Front, without_text

_CONFIG = "config.json"
_LONGEST_CONFIG = 2**27  # bytes
_NEUTRAL: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "groups": (("DepthwiseConv1D", "DepthwiseConv2D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
                "SeparableConv1D", "SeparableConv2D"), (1,)),
    "time_major": (("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"), (False,)),
    "implementation": (("SimpleRNN", "RNN"), (0, 1, 2)),
    "input_length": (("Embedding",), ()),
    "batch_input_shape": (("Embedding", "InputLayer"), ()),
}  # fmt: skip
"""Key that Keras 3 refuses -> the layers whose configuration may hold it, and the values that say nothing (none listed:
any, as the shape follows from the inputs)."""


@dataclass(frozen=True)
class Loaded:
    """A model from a file.

    Attributes:
        model: The model.
        name: Name of the file.
        origin: What was repaired in it.
        fronts: What turns text into ids in front of the model, by name of the input.
    """

    model: Any
    name: str
    origin: Mapping[str, str] = field(default_factory=dict)
    fronts: Mapping[str, Front] = field(default_factory=dict)


def keras_package() -> Any:
    """Keras, on JAX unless the user chose otherwise.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        return importlib.import_module("keras")
    except ImportError as error:
        raise MissingDependencyError(
            f"a Keras file needs Keras: pip install 'backtrace-jax[keras]' ({error})"
        ) from error


def load(path: Path) -> Loaded:
    """Load a `.keras` or `.h5` file; nothing in it is run as code.

    Raises:
        ModelError: When there is no such file, or it is not a Keras model.
        UnsupportedError: When it holds a layer that Keras does not know.
    """
    if not path.is_file():
        raise ModelError(f"{path} is not a plain file" if path.exists() else f"no such file: {path}")
    keras = keras_package()
    kind = _Archive if path.suffix == ".keras" else _Hdf5
    try:
        config = kind.config(path)
        fronts = without_text(config, kind.assets(path))
        repaired = [*_repair(config)]
        with tempfile.TemporaryDirectory() as folder:
            changed = Path(folder) / path.name
            if repaired or fronts:
                kind.write(path, changed, config)
            model = _loaded(keras, changed if repaired or fronts else path)
    except BacktraceError as error:
        error.args = (f"{path.name}: {error}",)
        raise
    except Exception as error:  # whatever Keras, h5py or zipfile makes of a damaged file
        raise ModelError(f"{path.name} cannot be loaded: {error}") from error
    origin = {"repaired": ", ".join(repaired)} if repaired else {}
    return Loaded(model, path.name, origin, fronts)


def _loaded(keras: Any, path: Path) -> Any:
    import jax

    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        return keras.saving.load_model(path, compile=False, safe_mode=True)


class _Archive:
    """A `.keras` file: an archive of a configuration and weights."""

    @staticmethod
    def config(path: Path) -> dict[str, Any]:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_CONFIG).file_size > _LONGEST_CONFIG:
                raise ModelError("its configuration is larger than that of any model; refused")
            return json.loads(archive.read(_CONFIG))

    @staticmethod
    def assets(path: Path) -> Callable[[str], str | None]:
        def read(name: str) -> str | None:
            with zipfile.ZipFile(path) as archive:
                found = [each for each in archive.infolist() if each.filename == f"assets/{name}"]
                return archive.read(found[0]).decode() if found and found[0].file_size <= _LONGEST_CONFIG else None

        return read

    @staticmethod
    def write(path: Path, target: Path, config: dict[str, Any]) -> None:
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
            for entry in source.infolist():
                if entry.filename == _CONFIG:
                    archive.writestr(_CONFIG, json.dumps(config))
                elif not entry.filename.startswith("assets/"):
                    with source.open(entry) as stored, archive.open(entry.filename, "w", force_zip64=True) as written:
                        _copy(stored, written)


def _copy(source: Any, target: Any) -> None:
    while part := source.read(io.DEFAULT_BUFFER_SIZE * 128):
        target.write(part)


class _Hdf5:
    """An `.h5` file: weights, with the configuration as an attribute."""

    @staticmethod
    def config(path: Path) -> dict[str, Any]:
        with importlib.import_module("h5py").File(path, "r") as file:
            text = file.attrs.get("model_config")
        if text is None:
            raise ModelError("holds weights alone; save the whole model, model.save(...)")
        return json.loads(text)

    @staticmethod
    def assets(path: Path) -> Callable[[str], str | None]:
        return lambda name: None

    @staticmethod
    def write(path: Path, target: Path, config: dict[str, Any]) -> None:
        target.write_bytes(path.read_bytes())
        with importlib.import_module("h5py").File(target, "r+") as file:
            file.attrs["model_config"] = np.bytes_(json.dumps(config))


def _repair(config: Any) -> Iterator[str]:
    """Take out the keys that Keras 3 refuses; says which."""
    waiting = [config]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting += reversed(current)
        elif isinstance(current, dict):
            own = current.get("config")
            if isinstance(own, dict) and isinstance(current.get("class_name"), str):
                yield from _repair_layer(current["class_name"], own, keras_3="module" in current)
            waiting += reversed([*current.values()])


def _repair_layer(kind: str, own: dict[str, Any], *, keras_3: bool) -> Iterator[str]:
    for key, (kinds, neutral) in _NEUTRAL.items():
        if kind not in kinds or key not in own or (kind == "InputLayer" and not own.keys() & {"shape", "batch_shape"}):
            continue
        if keras_3 and key == "implementation":
            continue
        if neutral and own[key] not in neutral:
            raise UnsupportedError(
                f"layer {own.get('name')!r} ({kind}) has {key}={own[key]!r}, which Keras 3 cannot do"
            )
        del own[key]
        yield f"{key} of {own.get('name')}"
