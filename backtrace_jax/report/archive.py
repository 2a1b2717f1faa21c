"""The file of a saved explanation: one `.npz` with numbered arrays and one JSON entry that names them.

Array entries are numbered (`relevance.0`, `layers.3`), because names of inputs and layers may hold slashes or anything
else that a zip entry had better not. The JSON entry `metadata` holds the names in the same order. Nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.explanation import Explanation, Ledger
from backtrace_jax.report.files import replacing

FORMAT = "backtrace-jax explanation"
VERSION = 1
GROUPS = ("relevance", "inputs", "outputs", "layers")

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
    arrays = _arrays(explanation)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "output": explanation.output,
        "fingerprint": explanation.fingerprint,
        "names": {group: list(getattr(explanation, group)) for group in GROUPS},
        "nodes": list(explanation.ledger.by_node),
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
        _check_format(metadata)
        return _explanation(metadata, _typed(arrays, metadata["dtypes"]))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; check the path") from error
    except (BacktraceError, *_BROKEN) as error:
        advice = "write a fresh one with Explanation.save"
        raise InputError(f"'{path}' is not a whole saved explanation: {_reason(error)}; {advice}") from error


def _arrays(explanation: Explanation) -> dict[str, np.ndarray]:
    arrays = {
        f"{group}.{number}": np.asarray(array)
        for group in GROUPS
        for number, array in enumerate(getattr(explanation, group).values())
    }
    if explanation.target is not None:
        arrays["target"] = np.asarray(explanation.target)
    ledger = explanation.ledger
    arrays |= {"ledger.signed": ledger.signed, "ledger.absolute": ledger.absolute}
    if nodes := list(ledger.by_node.values()):
        arrays["nodes.signed"] = np.stack([node.signed for node in nodes])
        arrays["nodes.absolute"] = np.stack([node.absolute for node in nodes])
    return arrays


def _explanation(metadata: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Explanation:
    groups = {
        group: {name: arrays[f"{group}.{number}"] for number, name in enumerate(metadata["names"][group])}
        for group in GROUPS
    }
    by_node = {
        name: Ledger(arrays["nodes.signed"][number], arrays["nodes.absolute"][number])
        for number, name in enumerate(metadata["nodes"])
    }
    return Explanation(
        **groups,
        output=metadata["output"],
        target=arrays.get("target"),
        ledger=Ledger(arrays["ledger.signed"], arrays["ledger.absolute"], by_node),
        fingerprint=metadata["fingerprint"],
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        if file.read(2) != b"PK":  # otherwise numpy speaks of pickles, which helps nobody
            raise InputError("the file is not an .npz archive")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if "metadata" not in archive:
                raise InputError("the archive has no entry 'metadata'")
            entries = dict(archive.items())
    for key, entry in entries.items():  # numpy hands over entries of any other kind as raw bytes
        if not isinstance(entry, np.ndarray):
            raise InputError(f"entry '{key}' is no array")
    return entries


def _check_format(metadata: Any) -> None:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise InputError("its metadata are of another program")
    if metadata["version"] != VERSION:
        raise InputError(f"it has format version {metadata['version']}, this backtrace-jax reads {VERSION}")


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
