"""The file of a saved explanation: one `.npz` with numbered arrays and one JSON entry that names them.

Array entries are numbered (`relevance.0`, `layers.3`, `positive.relevance.0`), because names of inputs and layers may
hold slashes or anything else that a zip entry had better not. The JSON entry `metadata` holds the names of every group
in the same order; a group without names is empty, one that it does not list is absent. Nothing is pickled.

Version 1 had neither channels nor completeness error, always a ledger, and the names of its nodes apart; up to version
2 channels always had ledgers.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.texts import shown
from backtrace_jax.runtime.files import replacing
from backtrace_jax.runtime.unpacking import read_arrays

from .ledger import CHANNELS, Channel, Ledger
from .record import Record
from .structure import EXTENSIONS, check_structure

FORMAT = "backtrace-jax explanation"
VERSION = 3
SUFFIX = ".npz"
GROUPS = ("relevance", "inputs", "outputs", "layers")
CHANNEL_GROUPS = ("relevance", "layers")


def save(explanation: Record, path: str | PathLike[str]) -> None:
    """Write the explanation at `path`, whole or not at all (see `Explanation.save`)."""
    if Path(path).suffix not in ("", SUFFIX):
        raise SettingError(f"'{path}': explanations are saved as NumPy archives; let the name end in {SUFFIX}")
    try:
        check_structure(explanation)
    except InputError as error:
        raise SettingError(f"this explanation cannot be saved: {error}") from error
    arrays = _arrays(explanation)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "output": explanation.output,
        "fingerprint": explanation.fingerprint,
        "warnings": list(explanation.warnings),
        "names": _names(explanation),
        "dtypes": {key: array.dtype.name for key, array in arrays.items() if _is_extension(array.dtype)},
    }
    plain = {key: _plain(array) for key, array in arrays.items()}
    plain["metadata"] = np.frombuffer(_json(metadata), np.uint8)
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in plain.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load(path: str | PathLike[str]) -> Record:
    """Read a file written by `save` (see `Explanation.load`)."""
    try:
        explanation = _explanation(_read(Path(path)))
        check_structure(explanation)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; check the path") from error
    except InputError as error:
        advice = "write a fresh one with Explanation.save"
        raise InputError(f"'{path}' is not a whole saved explanation: {error}; {advice}") from error
    return explanation


def _groups(explanation: Record) -> dict[str, Mapping[str, np.ndarray]]:
    """Arrays by name, by the prefix of their entries."""
    groups = {group: getattr(explanation, group) for group in GROUPS}
    for name, channel in explanation.channels.items():
        groups |= {f"{name}.{group}": getattr(channel, group) for group in CHANNEL_GROUPS}
    return groups


def _ledgers(explanation: Record) -> dict[str, Ledger]:
    """The ledgers there are, by the prefix of their entries."""
    every = {"": explanation.ledger, **{f"{name}.": channel.ledger for name, channel in explanation.channels.items()}}
    return {prefix: ledger for prefix, ledger in every.items() if ledger is not None}


def _names(explanation: Record) -> dict[str, list[str]]:
    nodes = {f"{prefix}nodes": list(ledger.by_node) for prefix, ledger in _ledgers(explanation).items()}
    return {group: list(named) for group, named in _groups(explanation).items()} | nodes


def _arrays(explanation: Record) -> dict[str, np.ndarray]:
    arrays = {
        f"{group}.{number}": np.asarray(array)
        for group, named in _groups(explanation).items()
        for number, array in enumerate(named.values())
    }
    optional = {"target": explanation.target, "completeness_error": explanation.completeness_error}
    arrays |= {name: np.asarray(array) for name, array in optional.items() if array is not None}
    for prefix, ledger in _ledgers(explanation).items():
        arrays |= {f"{prefix}ledger.signed": ledger.signed, f"{prefix}ledger.absolute": ledger.absolute}
        if nodes := list(ledger.by_node.values()):
            arrays[f"{prefix}nodes.signed"] = np.stack([node.signed for node in nodes])
            arrays[f"{prefix}nodes.absolute"] = np.stack([node.absolute for node in nodes])
    return arrays


@dataclass(frozen=True)
class _Entries:
    """A file's metadata, the names of every group of arrays, and the arrays."""

    metadata: Mapping[str, Any]
    names: Mapping[str, list[str]]
    arrays: Mapping[str, np.ndarray]

    def group(self, group: str) -> dict[str, np.ndarray]:
        return {name: self.arrays[f"{group}.{number}"] for number, name in enumerate(self.names[group])}

    def ledger(self, prefix: str = "") -> Ledger | None:
        if f"{prefix}nodes" not in self.names:
            return None
        signed, absolute = (self.arrays[f"{prefix}ledger.{kind}"] for kind in _KINDS)
        nodes = self.names[f"{prefix}nodes"]
        books = [self._books(f"{prefix}nodes.{kind}", len(nodes)) for kind in _KINDS] if nodes else [(), ()]
        return Ledger(signed, absolute, {name: Ledger(*each) for name, *each in zip(nodes, *books, strict=True)})

    def _books(self, key: str, nodes: int) -> np.ndarray:
        if self.arrays[key].shape[:1] != (nodes,):
            raise InputError(f"entry {key} has shape {list(self.arrays[key].shape)}, not [{nodes}, ...]")
        return self.arrays[key]

    def channel(self, name: str) -> Channel:
        groups = {group: self.group(f"{name}.{group}") for group in CHANNEL_GROUPS}
        return Channel(**groups, ledger=self.ledger(f"{name}."))


_KINDS = ("signed", "absolute")


def _explanation(entries: _Entries) -> Record:
    metadata = entries.metadata
    return Record(
        **dict[str, Any]({group: entries.group(group) for group in GROUPS}),
        output=metadata["output"],
        target=entries.arrays.get("target"),
        ledger=entries.ledger(),
        fingerprint=metadata["fingerprint"],
        channels={name: entries.channel(name) for name in CHANNELS if f"{name}.relevance" in entries.names},
        completeness_error=entries.arrays.get("completeness_error"),
        warnings=tuple(metadata.get("warnings", ())),
    )


def _read(path: Path) -> _Entries:
    """A file's entries, all that belong there and no others.

    Raises:
        InputError: Naming the entry that is missing, too many, or not what it should be.
    """
    arrays = read_arrays(path)
    if not isinstance(arrays, dict):
        raise InputError("the file is not an .npz archive")
    if "metadata" not in arrays:
        raise InputError("the archive has no entry 'metadata'")
    metadata = _parsed(arrays.pop("metadata"))
    names = _checked_names(metadata)
    expected, optional = _keys(names), {"target", "completeness_error"}
    if missing := sorted(expected - arrays.keys()):
        raise InputError(f"entry {missing[0]} is missing")
    if foreign := sorted(arrays.keys() - expected - optional):
        raise InputError(f"entry {shown(foreign[0])} belongs to nothing")
    return _Entries(metadata, names, _typed(arrays, metadata["dtypes"]))


_METADATA: dict[str, type] = {"version": int, "output": str, "fingerprint": dict, "names": dict, "dtypes": dict}
_ONLY_SOMETIMES: dict[str, type] = {"warnings": list, "nodes": list}


def _parsed(array: np.ndarray) -> dict[str, Any]:
    """The metadata, every field of its type.

    Raises:
        InputError: Naming the field.
    """
    try:
        metadata = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:  # not Unicode, not JSON, numbers of too many digits, too many levels
        raise InputError(f"its metadata are no JSON: {error!s:.100}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise InputError("its metadata are of another program")
    fields = _METADATA | {name: kind for name, kind in _ONLY_SOMETIMES.items() if name in metadata}
    for name, kind in fields.items():
        if type(metadata.get(name)) is not kind:
            raise InputError(f"its metadata's {name!r} should be {kind.__name__}, found {shown(metadata.get(name))}")
    if metadata["version"] not in range(1, VERSION + 1):
        raise InputError(f"it has format version {metadata['version']}, this backtrace-jax reads 1 to {VERSION}")
    if not _are_texts(metadata.get("warnings", [])):
        raise InputError("its warnings are no list of texts")
    return metadata


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _checked_names(metadata: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of every group, whatever the version that wrote them.

    Raises:
        InputError: Naming the group that is missing, unknown, or no list of names.
    """
    names = metadata["names"] if metadata["version"] > 1 else metadata["names"] | {"nodes": metadata.get("nodes")}
    channels = {f"{name}.{group}" for name in CHANNELS for group in CHANNEL_GROUPS}
    ledgers = {"nodes", *(f"{name}.nodes" for name in CHANNELS)}
    needed = {*GROUPS, *(channels if (channels | ledgers - {"nodes"}) & names.keys() else ())}
    if missing := sorted(needed - names.keys()):
        raise InputError(f"its names of {missing[0]} are missing")
    for group, listed in names.items():
        if group not in needed | ledgers:
            raise InputError(f"it has names of {shown(group)}, which is no part of an explanation")
        if not _are_texts(listed) or len(set(listed)) < len(listed):
            raise InputError(f"its names of {group} are no list of different texts")
    return names


def _keys(names: Mapping[str, list[str]]) -> set[str]:
    """The entries that groups of these names have."""
    keys = set()
    for group, listed in names.items():
        prefix, nodes, _ = group.rpartition("nodes")
        if nodes:
            parts = ("ledger", "nodes") if listed else ("ledger",)
            keys |= {f"{prefix}{part}.{kind}" for part in parts for kind in _KINDS}
        else:
            keys |= {f"{group}.{number}" for number in range(len(listed))}
    return keys


def _json(metadata: dict[str, Any]) -> bytes:
    try:
        return json.dumps(metadata).encode("ascii")
    except ValueError as error:  # a number of too many digits
        raise SettingError(f"the fingerprint cannot be saved as JSON: {error}; use plain Python values") from error


def _is_extension(dtype: np.dtype) -> bool:
    """Whether `.npy` would lose the dtype: bfloat16 and its kin are written as raw bytes."""
    return dtype.kind == "V" and dtype.names is None


def _plain(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}") if _is_extension(array.dtype) else array


def _typed(arrays: dict[str, np.ndarray], dtypes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays, those of extension types as what they are."""
    if dtypes:
        import ml_dtypes  # noqa: F401  (registers the extension dtypes by name; comes with jax)
    return arrays | {key: _as_extension(key, arrays.get(key), name) for key, name in dtypes.items()}


def _as_extension(key: str, array: np.ndarray | None, name: Any) -> np.ndarray:
    if array is None or name not in EXTENSIONS or array.dtype.name != f"uint{8 * np.dtype(name).itemsize}":
        raise InputError(f"entry {shown(key)} cannot be of type {shown(name)}")
    return array.view(name)
