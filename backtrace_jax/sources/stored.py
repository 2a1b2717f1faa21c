"""Arrays on the disk, read in slices: .npy and .npz as memory maps, Zarr by chunks; nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError
from backtrace_jax.errors.arguments import check_plain_file, shown_path
from backtrace_jax.errors.libraries import DATASETS, library
from backtrace_jax.runtime.unpacking import ALWAYS, check_unpacked, read_arrays

ARRAYS = (".npy", ".npz")
ZARR = (".zarr",)
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray")
_MOVED = ("bytes", "transpose", "sharding_indexed", "shuffle", "astype")
_PACKED = ("gzip", "zstd", "blosc", "zlib", "lz4", "bz2", "lzma", "packbits")
_ROUNDED = ("delta", "fixedscaleoffset", "quantize", "bitround")
_CHECKED = ("crc32c", "crc32", "adler32", "fletcher32")
_CODECS = frozenset((*_MOVED, *_PACKED, *_ROUNDED, *_CHECKED))
"""Codecs that only move and unpack bytes. Others may run code of the file: numcodecs has one that unpickles."""


def arrays_in(path: Path) -> Any:
    """The array of an .npy file; those of an .npz file by name, or as a tuple where they were saved without names.

    Raises:
        InputError: When it cannot be read as such.
    """
    check_plain_file(path, InputError)
    try:
        found = _mapped(path) if zipfile.is_zipfile(path) else _array(path, 0, path.stat().st_size)
    except Exception as error:  # of zipfile and numpy: about anything, where bytes are not as they should be
        advice = "write it with numpy.save or numpy.savez, from arrays of numbers"
        raise InputError(f"'{shown_path(path)}' cannot be read as {path.suffix}: {error}; {advice}") from error
    if isinstance(found, dict) and [*found] == [f"arr_{number}" for number in range(len(found))]:
        return tuple(found.values())
    return found


def _array(path: Path, offset: int, size: int) -> np.ndarray:
    """An array in a file as a memory map, from its header on.

    Raises:
        InputError: When it holds no numbers, or claims more than there are.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        try:
            version = np.lib.format.read_magic(file)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
            shape, fortran, dtype = read(file)
        except Exception as error:  # numpy raises about anything on bytes that are not as they should be
            raise InputError(f"it holds no array of numbers: {error!s:.150}") from error
        start = file.tell()
    if dtype.kind not in "biufcUS":
        raise InputError(f"it holds {dtype}, no numbers, and nothing is unpickled")
    if math.prod(shape) * dtype.itemsize > size - (start - offset):
        raise InputError(f"its header claims more numbers than its {size} bytes can hold")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an archive: memory maps where they are stored as they are, else unpacked at once."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        found = read_arrays(path)
        assert isinstance(found, dict)
        return found
    check_unpacked(sum(entry.file_size for entry in entries), path.stat().st_size)
    if len({entry.filename for entry in entries}) < len(entries):
        raise InputError("two of its entries have one name")
    return {
        entry.filename.removesuffix(".npy"): _array(path, _begins(path, entry), entry.file_size) for entry in entries
    }


def _begins(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin, behind its own header."""
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\3\4":
        raise InputError("it is damaged: an entry is not where its list says")
    return entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def is_zarr(path: Path) -> bool:
    """Whether a folder holds an array or a group of Zarr."""
    return path.is_dir() and any((path / name).is_file() for name in _ZARR_FILES)


def zarr_in(path: Path) -> Any:
    """The array of a Zarr store, or those of its group by name.

    Raises:
        InputError: When it cannot be read as such.
        MissingDependencyError: When zarr is not installed.
    """
    zarr = library("zarr", f"reading {shown_path(path)} needs zarr", DATASETS)
    try:
        return checked_zarr(zarr.open(path, mode="r"))
    except BacktraceError as error:
        raise InputError(f"'{shown_path(path)}': {error}") from error
    except Exception as error:  # of the library: about anything, where a store is damaged
        raise InputError(f"'{shown_path(path)}' cannot be read as Zarr: {error!s:.150}") from error


def checked_zarr(node: Any) -> Any:
    """An array of Zarr, or those of a group by name, whose chunks can be read safely.

    Raises:
        InputError: When they hold no numbers, are unpacked by unknown code, or are too large.
    """
    if hasattr(node, "arrays"):
        return {str(name): checked_zarr(array) for name, array in node.arrays()}
    called = f"array {node.path!r}" if node.path else "the array"
    if np.dtype(node.dtype).kind not in "biuf":
        raise InputError(f"{called} holds {node.dtype}, no numbers")
    unknown = {_name(each) for each in _codecs(node.metadata.to_dict())} - _CODECS
    if unknown:
        raise InputError(f"{called} is packed by {min(unknown)!r}, which is not known to be safe")
    size = math.prod(getattr(node, "shards", None) or node.chunks) * node.dtype.itemsize
    if size > max(ALWAYS, node.nbytes_stored() * 32):
        raise InputError(f"{called} has chunks of {size / 2**20:.0f} MiB, far more than it holds")
    return node


def _codecs(metadata: Mapping[str, Any]) -> list[Any]:
    """All codecs of an array, those inside others as well."""
    own = [*(metadata.get("codecs") or ()), *(metadata.get("filters") or ()), metadata.get("compressor")]
    found = [each for each in own if each is not None]
    for each in [*found]:
        inner = each.get("configuration") if isinstance(each, Mapping) else None
        if isinstance(inner, Mapping):
            found += [*(inner.get("codecs") or ()), *(inner.get("index_codecs") or ())]
    return found


def _name(codec: Any) -> str:
    given = codec if isinstance(codec, Mapping) else codec.get_config() if hasattr(codec, "get_config") else {}
    return str(given.get("id") or given.get("name") or codec).removeprefix("numcodecs.")
