"""Arrays from files, untrusted: a few bytes can claim terabytes, and unpack to gigabytes."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError

LARGEST_RATIO = 32
"""Bytes that a file may unpack to, per byte of it; `ALWAYS` bytes are allowed in any case."""

ALWAYS = 2**28

_ARCHIVES = (b"PK\3\4", b"PK\5\6")  # how they begin, the empty ones too


def check_unpacked(unpacked: int, size: int, error: type[Exception] = InputError) -> None:
    """Refuse what unpacks to far more than a file holds.

    Args:
        unpacked: Bytes that it says it unpacks to.
        size: Bytes of the file.
        error: What is raised then.
    """
    if unpacked > max(ALWAYS, LARGEST_RATIO * size):
        raise error(f"it would unpack from {size / 2**20:.1f} to {unpacked / 2**20:.1f} MiB; refused")


def read_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """One array (.npy), or arrays by name (.npz); whatever the bytes say they are, they cost what the file holds.

    Raises:
        InputError: When it unpacks to far more than it holds, claims more than there is, or holds what is no array.
        OSError: When the file cannot be read.
    """
    with open(path, "rb") as file:  # numpy leaves a file open that it opened itself and could not read
        size = os.fstat(file.fileno()).st_size
        try:
            if file.read(4) not in _ARCHIVES:
                file.seek(0)
                _check_claim(file, size)
                file.seek(0)
                return np.load(file, allow_pickle=False)
            return _archive(file, size)
        except (BacktraceError, OSError):
            raise
        except (MemoryError, OverflowError) as error:
            raise InputError(f"its header claims more numbers than its {size} bytes can hold") from error
        except (
            Exception
        ) as error:  # numpy, zipfile and zlib raise about anything on bytes that are not as they should be
            raise InputError(f"it holds no arrays of numbers that can be read: {error!s:.200}") from error


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _check_claim(stream: Any, size: int) -> None:
    """Refuse an array whose header claims more numbers than there are bytes; what is no array, numpy refuses."""
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError):
        return
    if math.prod(shape) * max(dtype.itemsize, 1) > size:
        raise InputError(f"its header claims more numbers than its {size} bytes can hold")


def _archive(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        check_unpacked(sum(entry.file_size for entry in entries), size)
        if len({entry.filename for entry in entries}) < len(entries):
            raise InputError("two of its entries have one name")
        for entry in entries:
            with archive.open(entry) as stream:
                _check_claim(stream, entry.file_size)
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        arrays = dict(loaded.items())
    for name, entry in arrays.items():  # numpy hands over entries of any other kind as raw bytes
        if not isinstance(entry, np.ndarray):
            raise InputError(f"entry {name!r} is no array")
    return arrays
