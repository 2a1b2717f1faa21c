"""Loads Keras' files, those that Keras 2 wrote among them.

Keras 3 refuses keys of a layer's configuration that it does not know. Those that say nothing (a single group, time not
first) are taken out of a copy of the file, and which were is recorded; a key that says something is an error.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from backtrace_jax.errors import BacktraceError, MissingDependencyError, ModelError, UnsupportedError

from .text import Front, without_text
from .untrusted import Archive, Hdf5, check_configuration, check_version, entries

_LONGEST_REASON = 300  # characters
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


def load(name: str, data: bytes) -> Loaded:
    """Load what a `.keras` or `.h5` file holds; nothing in it is run as code.

    Args:
        name: Name of the file, whose end says which of the two it is.
        data: Its bytes.

    Raises:
        MissingDependencyError: When Keras is missing, or too old to be trusted with files.
        ModelError: When it is not a Keras model, or unpacks to far more than it holds.
        UnsupportedError: When it holds code, or a layer that Keras does not know.
    """
    keras = keras_package()
    check_version(keras)
    try:
        file = (Archive if name.endswith(".keras") else Hdf5)(data)
        config = file.config()
        check_configuration(keras, config)
        fronts, repaired = without_text(config, file.asset), [*_repair(config)]
        with tempfile.TemporaryDirectory() as folder:
            model = _loaded(keras, file.write(Path(folder), config))
    except BacktraceError as error:
        error.args = (f"{name}: {error}",)
        raise
    except Exception as error:  # whatever Keras, h5py or zipfile makes of a damaged file
        raise ModelError(f"{name} cannot be loaded: {str(error)[:_LONGEST_REASON]}") from error
    origin = {"repaired": ", ".join(repaired)} if repaired else {}
    return Loaded(model, name, origin, fronts)


def _loaded(keras: Any, path: Path) -> Any:
    """Load a model; first in shapes alone, so that sizes which the weights do not have are refused before they cost."""
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        load_model = partial(keras.saving.load_model, path, compile=False, safe_mode=True)
        jax.eval_shape(lambda: load_model() and None)
        return load_model()


def _repair(config: Any) -> Iterator[str]:
    """Take out the keys that Keras 3 refuses; says which."""
    for entry in entries(config):
        if isinstance(entry.get("config"), dict):
            yield from _repair_layer(entry["class_name"], entry["config"], keras_3="module" in entry)


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
