"""The file of a saved explanation: one `.npz` with numbered arrays and one JSON entry that names them.

Array entries are numbered (`relevance.0`, `layers.3`, `positive.relevance.0`), because names of inputs and layers may
hold slashes or anything else that a zip entry had better not. The JSON entry `metadata` holds the names of every group
in the same order; a group without names is empty, one that it does not list is absent. Nothing is pickled.

Version 1 had neither channels nor completeness error, always a ledger, and the names of its nodes apart.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.explanation import CHANNELS, Channel, Explanation, Ledger
from backtrace_jax.report.files import replacing
from backtrace_jax.unpacking import read_arrays

FORMAT = "backtrace-jax explanation"
VERSION = 2
SUFFIX = ".npz"
GROUPS = ("relevance", "inputs", "outputs", "layers")
CHANNEL_GROUPS = ("relevance", "layers")

# What numpy, zipfile, zlib and json raise on bytes that are not what they should be.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
)


def save(explanation: Explanation, path: str | PathLike[str]) -> None:
    """Write the explanation at `path`, whole or not at all (see `Explanation.save`)."""
    if Path(path).suffix not in ("", SUFFIX):
        raise SettingError(f"'{path}': explanations are saved as NumPy archives; let the name end in {SUFFIX}")
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
    plain = {key: _plain(key, array) for key, array in arrays.items()}
    plain["metadata"] = np.frombuffer(_json(metadata), np.uint8)
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for key, array in plain.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load(path: str | PathLike[str]) -> Explanation:
    """Read a file written by `save` (see `Explanation.load`)."""
    try:
        arrays = _read(Path(path))
        metadata = json.loads(arrays.pop("metadata").tobytes())
        names = _written_names(metadata)
        return _explanation(metadata, _Entries(names, _typed(arrays, metadata["dtypes"])))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; check the path") from error
    except (BacktraceError, *_BROKEN) as error:
        advice = "write a fresh one with Explanation.save"
        raise InputError(f"'{path}' is not a whole saved explanation: {_reason(error)}; {advice}") from error


def _groups(explanation: Explanation) -> dict[str, Mapping[str, np.ndarray]]:
    """Arrays by name, by the prefix of their entries."""
    groups = {group: getattr(explanation, group) for group in GROUPS}
    for name, channel in explanation.channels.items():
        groups |= {f"{name}.{group}": getattr(channel, group) for group in CHANNEL_GROUPS}
    return groups


def _ledgers(explanation: Explanation) -> dict[str, Ledger]:
    """The ledgers there are, by the prefix of their entries."""
    own = {} if explanation.ledger is None else {"": explanation.ledger}
    return own | {f"{name}.": channel.ledger for name, channel in explanation.channels.items()}


def _names(explanation: Explanation) -> dict[str, list[str]]:
    nodes = {f"{prefix}nodes": list(ledger.by_node) for prefix, ledger in _ledgers(explanation).items()}
    return {group: list(named) for group, named in _groups(explanation).items()} | nodes


def _arrays(explanation: Explanation) -> dict[str, np.ndarray]:
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
    """The arrays of a file, and the names of every group of them."""

    names: Mapping[str, list[str]]
    arrays: Mapping[str, np.ndarray]

    def group(self, group: str) -> dict[str, np.ndarray]:
        return {name: self.arrays[f"{group}.{number}"] for number, name in enumerate(self.names[group])}

    def ledger(self, prefix: str = "") -> Ledger:
        signed, absolute = (self.arrays[f"{prefix}ledger.{kind}"] for kind in ("signed", "absolute"))
        by_node = {
            name: Ledger(self.arrays[f"{prefix}nodes.signed"][number], self.arrays[f"{prefix}nodes.absolute"][number])
            for number, name in enumerate(self.names[f"{prefix}nodes"])
        }
        return Ledger(signed, absolute, by_node)

    def channel(self, name: str) -> Channel:
        groups = {group: self.group(f"{name}.{group}") for group in CHANNEL_GROUPS}
        return Channel(**groups, ledger=self.ledger(f"{name}."))


def _explanation(metadata: dict[str, Any], entries: _Entries) -> Explanation:
    return Explanation(
        **{group: entries.group(group) for group in GROUPS},
        output=metadata["output"],
        target=entries.arrays.get("target"),
        ledger=entries.ledger() if "nodes" in entries.names else None,
        fingerprint=metadata["fingerprint"],
        channels={name: entries.channel(name) for name in CHANNELS if f"{name}.nodes" in entries.names},
        completeness_error=entries.arrays.get("completeness_error"),
        warnings=tuple(metadata.get("warnings", ())),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    entries = read_arrays(path)
    if not isinstance(entries, dict):
        raise InputError("the file is not an .npz archive")
    if "metadata" not in entries:
        raise InputError("the archive has no entry 'metadata'")
    return entries


def _written_names(metadata: Any) -> dict[str, list[str]]:
    """Names of every group, whatever the version that wrote them."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise InputError("its metadata are of another program")
    if metadata["version"] not in range(1, VERSION + 1):
        raise InputError(f"it has format version {metadata['version']}, this backtrace-jax reads 1 to {VERSION}")
    return metadata["names"] if metadata["version"] > 1 else metadata["names"] | {"nodes": metadata["nodes"]}


def _json(metadata: dict[str, Any]) -> bytes:
    try:
        return json.dumps(metadata).encode("ascii")
    except (TypeError, ValueError) as error:
        raise SettingError(f"the fingerprint cannot be saved as JSON: {error}; use plain Python values") from error


def _is_extension(dtype: np.dtype) -> bool:
    """Whether `.npy` would lose the dtype: bfloat16 and its kin are written as raw bytes."""
    return dtype.kind == "V" and dtype.names is None


def _plain(key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.hasobject:
        raise SettingError(f"'{key}' holds Python objects, which are never pickled; convert it to a plain dtype first")
    return array.view(f"u{array.dtype.itemsize}") if _is_extension(array.dtype) else array


def _typed(arrays: dict[str, np.ndarray], dtypes: Mapping[str, str]) -> dict[str, np.ndarray]:
    if dtypes:
        import ml_dtypes  # noqa: F401  (registers the extension dtypes by name; comes with jax)
    return {key: array.view(dtypes[key]) if key in dtypes else array for key, array in arrays.items()}


def _reason(error: Exception) -> str:
    return f"entry {error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
