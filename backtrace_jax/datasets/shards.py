"""Files of arrays of numbers as Zarr v3 has them: chunks in zstd, several in one file with an index at its end.

Zarr's own way through its codecs costs some 1.3 ms for each chunk and file, which is more than light models take to
explain what is in it. What is written here follows the specification (codecs `bytes`, `zstd`, `crc32c`,
`sharding_indexed`), and zarr reads it; texts are left to zarr.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .locking import UNFINISHED

LEVEL = 1
"""Of compression: relevance hardly gets smaller by more of it."""

_NONE = np.uint64(2**64 - 1)  # where, and how long, a chunk behind the last example is


def encoded(rows: np.ndarray, chunk: int, block: int) -> list[bytes]:
    """The file of a block of an array, in parts; zeros are written as well, so that a lost file is not taken for them.

    Args:
        rows: The entries, examples first.
        chunk: Examples of a chunk.
        block: Examples of a block.
    """
    from numcodecs.zstd import Zstd

    zstd = Zstd(LEVEL, checksum=False)
    chunks = [zstd.encode(each) for each in _chunks(rows, chunk)]
    return [*chunks, *_index(chunks, block // chunk)] if chunk < block else chunks


def _chunks(rows: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    """Whole chunks of bytes in little endian; behind the last example there are zeros."""
    rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    for first in range(0, len(rows), chunk):
        found = rows[first : first + chunk]
        if len(found) < chunk:
            found = np.concatenate([found, np.zeros((chunk - len(found), *rows.shape[1:]), rows.dtype)])
        yield found.reshape(-1).view(np.uint8)


def _index(chunks: list[bytes], count: int) -> list[bytes]:
    """Where each chunk begins in the file and how long it is, and a checksum of that."""
    import google_crc32c

    index, place = np.full((count, 2), _NONE, "<u8"), 0
    for number, chunk in enumerate(chunks):
        index[number] = place, len(chunk)
        place += len(chunk)
    listed = index.tobytes()
    return [listed, google_crc32c.value(listed).to_bytes(4, "little")]


def write(path: Path, content: list[bytes]) -> None:
    """Write a file whole or not at all, and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with open(part, "xb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    settle(path.parent)


def settle(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    if path.exists():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
