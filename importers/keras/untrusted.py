"""What a Keras file may hold: looked at before Keras sees it, since Keras builds, unpacks and reads what a file names.

The file is copied to a folder of its own with what a model needs and nothing else: its configuration, and its weights.
Code, links to other files, and data that unpack to far more than the file holds are refused.
"""

from __future__ import annotations

import importlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import MissingDependencyError, ModelError, UnsupportedError
from backtrace_jax.runtime.unpacking import check_unpacked

OLDEST = (3, 13, 2)
"""Version of Keras from which on files are loaded: older ones run code, or read other files, that a file names."""

_CONFIG, _WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_LONGEST_TEXT = 2**27  # bytes of a configuration or vocabulary
_CODE = {"Lambda", "__lambda__", "__typespec__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
_FUNCTIONS = {"activations", "constraints", "initializers", "losses", "metrics", "ops", "regularizers"}
_CLASSES = {*_FUNCTIONS, "dtype_policies", "layers", "mixed_precision", "models", "optimizers", "quantizers", "random"}


def check_version(keras: Any) -> None:
    """Refuse to load files with a Keras that is known to run or read what a file names.

    Raises:
        MissingDependencyError: Naming the version needed.
    """
    found = tuple(int(part) for part in keras.__version__.split(".")[:3] if part.isdigit())
    if found < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise MissingDependencyError(
            f"Keras {keras.__version__} may run code from a file: pip install 'keras>={needed}', or load the model "
            "yourself if you trust the file, and pass the model"
        )


def check_configuration(keras: Any, config: Any) -> None:
    """Refuse a configuration that holds code, or names what is no part of a model.

    Raises:
        UnsupportedError: Naming the entry.
    """
    for entry in entries(config):
        kind, inner = entry["class_name"], entry.get("config")
        name = inner.get("name") if isinstance(inner, dict) else inner
        where = f"{str(name)[:60]!r} ({kind[:60]})"
        if kind in _CODE:
            raise UnsupportedError(
                f"{where} holds code, which is not run from a file; replace it by layers or keras.ops"
            )
        if not _is_part(keras, entry):
            raise UnsupportedError(
                f"{where} of {str(entry['module'])[:60]!r} is nothing that Keras models are made of; if it is your "
                "own, register it with Keras and import it first"
            )


def entries(config: Any) -> Iterator[dict[str, Any]]:
    """Everything in a configuration that names a class or function, in the order in which it stands there."""
    waiting = [config]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting += reversed(current)
        elif isinstance(current, dict):
            if isinstance(current.get("class_name"), str):
                yield current
            waiting += reversed([*current.values()])


def _is_part(keras: Any, entry: dict[str, Any]) -> bool:
    """Whether a class or function is from those parts of Keras that models are made of, or registered by the user."""
    module, function = entry.get("module"), entry["class_name"] == "function"
    if module in (None, "builtins") or (module == "keras" and not function):
        return True
    root, *parts = [part for part in str(module).split(".") if part != "src"]
    if root == "keras":
        return parts[:1] != [] and parts[0] in (_FUNCTIONS if function else _CLASSES)
    return keras.saving.get_registered_object(str(entry.get("registered_name"))) is not None


class Archive:
    """A `.keras` file: an archive of a configuration, weights, and texts beside them.

    Raises:
        ModelError: When it is none, or unpacks to far more than it holds.
    """

    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        names = [entry.filename for entry in self._archive.infolist()]
        if len({*names}) < len(names):
            raise ModelError("two of its parts have one name; refused")
        check_unpacked(sum(entry.file_size for entry in self._archive.infolist()), self._size, ModelError)

    def config(self) -> Any:
        """The configuration."""
        return json.loads(self._text(_CONFIG))

    def asset(self, name: str) -> str | None:
        """A text beside the model."""
        name = f"assets/{name}"
        return self._text(name) if name in self._archive.namelist() else None

    def write(self, folder: Path, config: Any) -> Path:
        """Write the file again with this configuration, and with the weights alone besides."""
        target, weights = folder / "model.keras", folder / _WEIGHTS
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(_CONFIG, json.dumps(config))
            archive.writestr(_METADATA, self._text(_METADATA))
            with self._archive.open(_WEIGHTS) as stored, weights.open("wb") as written:
                shutil.copyfileobj(stored, written)
            check_weights(weights, self._size)
            archive.write(weights, _WEIGHTS)
        return target

    def _text(self, name: str) -> str:
        if self._archive.getinfo(name).file_size > _LONGEST_TEXT:
            raise ModelError(f"its {name} is larger than that of any model; refused")
        return self._archive.read(name).decode()


class Hdf5:
    """An `.h5` file: weights, with the configuration as an attribute."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def config(self) -> Any:
        """The configuration."""
        with _h5py().File(io.BytesIO(self._data), "r") as file:
            text = file.attrs.get("model_config")
        if text is None:
            raise ModelError("holds weights alone; save the whole model, model.save(...)")
        return json.loads(text)

    def asset(self, name: str) -> str | None:
        """Nothing: there are no texts beside the model."""
        return None

    def write(self, folder: Path, config: Any) -> Path:
        """Write the file again with this configuration."""
        target = folder / "model.h5"
        target.write_bytes(self._data)
        check_weights(target, len(self._data))
        with _h5py().File(target, "r+") as file:
            file.attrs["model_config"] = np.bytes_(json.dumps(config))
        return target


def check_weights(path: Path, size: int) -> None:
    """Refuse weights that lie in other files, or that are far more numbers than the file holds.

    Args:
        path: An HDF5 file.
        size: Bytes of the file that it came in.

    Raises:
        ModelError: Naming the entry.
    """
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        links: list[str] = []
        file.visititems_links(lambda name, link: links.append(name) if not isinstance(link, h5py.HardLink) else None)
        datasets: list[Any] = []
        file.visititems(lambda name, found: datasets.append(found) if isinstance(found, h5py.Dataset) else None)
        elsewhere = [*links, *(each.name for each in datasets if each.external or each.is_virtual)]
        if elsewhere:
            raise ModelError(f"its entry {elsewhere[0][:60]!r} lies elsewhere; refused")
        held = sum(each.nbytes for each in datasets)
    check_unpacked(held, size, ModelError)


def _h5py() -> Any:
    return importlib.import_module("h5py")
