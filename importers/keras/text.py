"""Text at the front of a model: what turns it into token ids runs on the host, and the ids are the model's input.

Keras' layers for text need TensorFlow to run. From a file they are read by their configuration and vocabulary, and run
in Python; a model in memory, which has TensorFlow, runs its own layer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError, UnsupportedError

from .registry import layer
from .tensor import Tensor
from .writer import Writer

HOSTED = ("TextVectorization", "StringLookup", "IntegerLookup")
_PUNCTUATION = re.compile(r'[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']')
_STANDARDS: dict[Any, Callable[[str], str]] = {
    None: lambda text: text,
    "lower": str.lower,
    "strip_punctuation": lambda text: _PUNCTUATION.sub("", text),
    "lower_and_strip_punctuation": lambda text: _PUNCTUATION.sub("", text.lower()),
}
_WHOLE = "whole"  # a text that is one token, in a row of its own
_SPLITS: dict[Any, Callable[[str], list[str]]] = {
    None: lambda text: [text],
    _WHOLE: lambda text: [text],
    "whitespace": str.split,
    "character": list,
}


@dataclass(frozen=True)
class Front:
    """Ids from text, as a layer's configuration says.

    Attributes:
        ids: Id of every known token.
        unknown: Id of all others; None where there is none.
        standardize: Name of what is done to the text first.
        split: Name of how it is cut into tokens; None: it is one token.
        length: Number of ids, cut or padded with zeros; None: that of the longest text.
    """

    ids: Mapping[Any, int]
    unknown: int | None
    standardize: str | None = None
    split: str | None = None
    length: int | None = None

    def __call__(self, values: Any) -> np.ndarray:
        """Ids [batch, length] of texts, or ids of the values where they are not cut into tokens.

        Raises:
            InputError: For a token outside the vocabulary where none stands for unknown ones.
        """
        array = np.asarray(values)
        if array.dtype.kind in "iuf" and self.split is not None:
            return array.astype(np.int64)  # ids already
        if self.split is None:
            return np.array([self._id(_plain(each)) for each in array.ravel()], np.int64).reshape(array.shape)
        rows = [self._row(_plain(text)) for text in array.reshape(len(array), -1)[:, 0]]
        length = self.length or max(map(len, rows), default=0)
        return np.array([[*row[:length], *[0] * (length - len(row))] for row in rows], np.int64)

    def _row(self, text: Any) -> list[int]:
        return [self._id(token) for token in _SPLITS[self.split](_STANDARDS[self.standardize](str(text)))]

    def _id(self, token: Any) -> int:
        found = self.ids.get(token, self.unknown)
        if found is None:
            raise InputError(f"{token!r} is not in the model's vocabulary")
        return found


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def without_text(config: Any, asset: Callable[[str], str | None]) -> dict[str, Front]:
    """Put an identity of ids in the place of every layer for text that stands right behind an input.

    Args:
        config: Configuration of a model's file; it is changed.
        asset: Reads a text file beside it.

    Returns:
        What stood there, by name of the input.

    Raises:
        UnsupportedError: Where it stands elsewhere, or is set to something else than ids.
    """
    layers = config.get("config", {}).get("layers", []) if isinstance(config, dict) else []
    inputs = {_name(each): each for each in layers if each.get("class_name") == "InputLayer"}
    fronts: dict[str, Front] = {}
    for each in layers:
        if each.get("class_name") in HOSTED:
            source = _input_of(each, inputs)
            vocabulary = asset(f"layers/{_snake(each['class_name'])}/vocabulary.txt")
            front = fronts[source] = _front(each, vocabulary)
            _bypass(each, inputs[source], front)
    return fronts


def _name(entry: Mapping[str, Any]) -> str:
    return entry.get("name") or entry.get("config", {}).get("name", "")


def _input_of(entry: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """The input right before a layer."""
    nodes = json.dumps(entry.get("inbound_nodes", []))
    found = [name for name in inputs if json.dumps(name) in nodes] or ([*inputs] if len(inputs) == 1 else [])
    if len(found) != 1:
        raise UnsupportedError(f"layer {_name(entry)!r} ({entry['class_name']}) reads no input of its own")
    return found[0]


def _front(entry: Mapping[str, Any], stored: str | None) -> Front:
    own, where = entry["config"], f"layer {_name(entry)!r} ({entry['class_name']})"
    known = own.get("vocabulary")
    if known is None and stored is not None:
        known = stored.split("\n")
    if known is None:
        raise UnsupportedError(f"{where} has no vocabulary in the file; adapt it before the model is saved")
    plain = own.get("output_mode", "int") == "int" and not own.get("invert") and own.get("ngrams") is None
    standard, split = own.get("standardize"), own.get("split")
    if not plain or standard not in _STANDARDS or split not in _SPLITS:
        raise UnsupportedError(f"{where} gives something else than ids of single tokens; let it give ids")
    if entry["class_name"] == "TextVectorization":
        return Front(_numbered(known, ["", "[UNK]"]), 1, standard, split or _WHOLE, own.get("output_sequence_length"))
    special = [own["mask_token"]] if own.get("mask_token") is not None else []
    unknown = len(special) if own.get("num_oov_indices", 1) else None
    reserved = [*special, *[own.get("oov_token")] * own.get("num_oov_indices", 1)]
    return Front(_numbered(known, reserved), unknown)


def _numbered(vocabulary: Sequence[Any], reserved: Sequence[Any]) -> dict[Any, int]:
    """Ids of the tokens; padding and the unknown come first, whether the vocabulary lists them or not."""
    own = [each for each in vocabulary if each not in reserved]
    return {token: position for position, token in reversed([*enumerate([*reserved, *own])])}


def _bypass(entry: dict[str, Any], source: dict[str, Any], front: Front) -> None:
    name, kind = _name(entry), entry["class_name"]
    entry.update(class_name="Identity", module="keras.layers", registered_name=None)
    entry["config"] = {"name": name, "trainable": False, "dtype": "int64"}
    own = source["config"]
    own["dtype"] = "int64"
    if kind == "TextVectorization":
        key = "batch_shape" if "batch_shape" in own else "shape"
        own[key] = [None, front.length] if key == "batch_shape" else [front.length]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@layer(*HOSTED)
def text_layer(writer: Writer, layer: Any, inputs: Tensor) -> Tensor:
    """Runs on the host: its ids take the place of the input."""
    shape = tuple(layer.compute_output_shape(inputs.shape))
    return writer.host(inputs, layer, shape)


def hosts(layers: Mapping[str, Any], fronts: Mapping[str, Front]) -> dict[str, Callable[[Any], np.ndarray]]:
    """What runs before the model, by input name: layers of its own, and what a file held instead."""
    return {**{name: _Own(own) for name, own in layers.items()}, **fronts}


@dataclass(frozen=True)
class _Own:
    """A layer of the model itself."""

    layer: Any

    def __call__(self, values: Any) -> np.ndarray:
        array = np.asarray(values)
        if array.dtype.kind in "iuf" and type(self.layer).__name__ == "TextVectorization":
            return array.astype(np.int64)  # ids already
        return np.asarray(self.layer(array)).astype(np.int64)
