"""The store on the disk: a Zarr group whose arrays are written block by block, each block's status last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.arguments import shown_path
from backtrace_jax.errors.libraries import DATASETS, library

from .layout import BLOCK, DONE, EXAMPLE, STATUS, TEXT, Stored, chunks_of
from .shards import LEVEL, encoded, settle, write

ATTRIBUTE = "backtrace_jax"
"""The attribute of the group that says what the store holds."""

VERSION = 1
SUMMARY = "summary"
_FILES = 8  # written side by side


def zarr_module() -> Any:
    """The library that stores.

    Raises:
        MissingDependencyError: When it is not installed.
    """
    return library("zarr", "a store needs zarr", DATASETS)


class Store:
    """A store that has been opened.

    Attributes:
        path: Its folder.
        group: Its Zarr group.
        about: What it holds: fingerprint, layout, block size, count.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        """Open it.

        Raises:
            InputError: When there is none.
        """
        zarr = zarr_module()
        self.path = path
        try:
            self.group: Any = zarr.open_group(str(path), mode="r+" if write else "r", zarr_format=3)
            self.about: dict[str, Any] = dict(self.group.attrs[ATTRIBUTE])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"'{shown_path(path)}' is no store of explanations, nor empty; choose another folder"
            ) from error
        if self.about.get("version") != VERSION:
            raise InputError(f"'{shown_path(path)}' has version {self.about.get('version')!r}, this reads {VERSION}")
        if wrong := [name for name, kind in _TOLD.items() if not isinstance(self.about.get(name, ...), kind)]:
            raise damaged(path, f"its attribute {wrong[0]!r} is {self.about.get(wrong[0])!r:.60}")
        if STATUS not in self._arrays:
            raise damaged(path, f"it has no array {STATUS!r}")
        links = [each for each in (path.glob("**/*") if write else ()) if each.is_symlink()]
        if links:
            raise InputError(f"'{shown_path(path)}' holds a link, {links[0].name}, through which nothing is written")

    @property
    def block(self) -> int:
        """Examples of a block."""
        return self.about["block"]

    @property
    def keys(self) -> list[str]:
        """Of the arrays by example."""
        return [key for key in self._arrays if not key.startswith(f"{SUMMARY}/")]

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        """The arrays by key."""
        try:
            return self._listed()
        except Exception as error:  # of zarr: about anything, where a description is damaged
            raise damaged(self.path, error) from error

    def _listed(self) -> dict[str, Any]:
        names = sorted(path.parent.relative_to(self.path) for path in self.path.glob("*/zarr.json"))
        names += sorted(path.parent.relative_to(self.path) for path in self.path.glob(f"{SUMMARY}/*/zarr.json"))
        return {str(name): self.group[str(name)] for name in names if str(name) != SUMMARY}

    def __len__(self) -> int:
        """Examples that it has room for: all of them, or those so far of a stream."""
        return self._arrays[STATUS].shape[0]

    def finished(self) -> frozenset[int]:
        """Blocks that are whole, by their numbers; the last one of a stream under way is not, unless it is full."""
        names = os.listdir(folder) if (folder := self.path / STATUS / "c").is_dir() else []
        found = {int(name) for name in names if name.isdigit()}
        return frozenset(
            found if self.about["count"] is not None else {n for n in found if (n + 1) * self.block <= len(self)}
        )

    def rows(self, key: str, first: int, last: int) -> np.ndarray:
        """Entries of an array.

        Raises:
            InputError: When they cannot be read, or the file of examples that were explained is missing.
        """
        try:
            found = np.asarray(self._arrays[key][first:last])
        except Exception as error:  # of zarr: about anything, where bytes are not as they should be
            raise damaged(self.path, error) from error
        for block in range(first // self.block, -(-last // self.block)):
            if key != STATUS and self._is_lost(key, block) and self._is_explained(block):
                raise damaged(self.path, f"the file of block {block} of {key!r} is missing")
        return found

    def _is_lost(self, key: str, block: int) -> bool:
        """Whether the numbers of a block have no file; what is no number may have none."""
        return self._arrays[key].dtype.kind not in "OT" and not self._file(key, block).is_file()

    def _is_explained(self, block: int) -> bool:
        """Whether an example of a block was explained; where all have failed, nothing is written of them."""
        first = block * self.block
        return bool((self.rows(STATUS, first, min(first + self.block, len(self))) == DONE).any())

    def _file(self, key: str, block: int) -> Path:
        return self.path / key / "c" / "/".join(map(str, [block, *[0] * (self._arrays[key].ndim - 1)]))

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the entry of one example."""
        return self._arrays[key].shape[1:]

    def summed(self, name: str) -> Any:
        """What was kept of each block as a whole, [blocks, ...], read when it is asked for.

        Raises:
            InputError: When the file of a block is missing.
        """
        key = f"{SUMMARY}/{name}"
        if lost := [block for block in sorted(self.finished()) if self._is_lost(key, block)]:
            raise damaged(self.path, f"the file of block {lost[0]} of {key!r} is missing")
        return self._arrays[key]

    def write(self, block: int, arrays: Mapping[str, np.ndarray], partials: Mapping[str, np.ndarray]) -> None:
        """Write a block: its status when all else is on the disk."""
        if self.about["count"] is None:
            self._grow(block * self.block + len(arrays[STATUS]), block + 1)
        rows = {key: array for key, array in arrays.items() if key != STATUS}
        rows |= {f"{SUMMARY}/{key}": array[None] for key, array in partials.items()}
        with ThreadPoolExecutor(_FILES, "writing files") as files:  # they wait for the disk together
            for _ in files.map(lambda each: self._put(each[0], block, each[1]), rows.items()):
                pass
        self._put(STATUS, block, arrays[STATUS])

    def _put(self, key: str, block: int, rows: np.ndarray) -> None:
        """Write the entries of a block of an array; texts that are all empty have no file."""
        into = self._arrays[key]
        size = (into.shards or into.chunks)[0]
        _check_kind(key, rows, into)
        file = self._file(key, block)
        if rows.dtype.kind in "OTUS":  # texts
            into[block * size : block * size + len(rows)] = rows
            settle(file)
            settle(file.parent)
        else:
            write(file, encoded(rows, into.chunks[0], size))

    def _grow(self, count: int, blocks: int) -> None:
        """Room for so many examples and blocks, in a stream."""
        for name, array in self._arrays.items():
            wanted = blocks if name.startswith(f"{SUMMARY}/") else count
            if array.shape[0] != wanted:
                array.resize((wanted, *array.shape[1:]))

    def end(self, count: int) -> None:
        """Say how many examples a stream had."""
        self.about = {**self.about, "count": count}
        self.group.attrs[ATTRIBUTE] = self.about


def _check_kind(key: str, rows: np.ndarray, into: Any) -> None:
    """Refuse entries of another type or shape than the array has.

    Raises:
        InputError: Naming both.
    """
    same = rows.dtype == into.dtype or (rows.dtype.kind in "OTUS" and into.dtype.kind in "OT")
    if not same or rows.shape[1:] != into.shape[1:]:
        raise InputError(
            f"{key!r} holds {rows.dtype} {list(rows.shape[1:])} here, and {into.dtype} {list(into.shape[1:])} at the "
            "front: the source changes halfway"
        )


_TOLD = {
    "block": int,
    "count": int | None,
    "nodes": list,
    **dict.fromkeys(("fingerprint", "question", "source", "stored", "views", "cautions", "inputs"), dict),
}
"""What the attributes say."""


def damaged(path: Path, error: object) -> InputError:
    """What is said of a store that cannot be read."""
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    return InputError(f"the store '{shown_path(path)}' is damaged: {kind}{error!s:.120}")


def create(path: Path, about: Mapping[str, Any], layout: Mapping[str, Stored], partials: Mapping[str, Stored]) -> None:
    """Lay out a new store in a folder, which has nothing in it."""
    zarr = zarr_module()
    attributes = {ATTRIBUTE: {"version": VERSION, **about}}
    group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)  # in this very folder, which is locked
    count, block = about["count"], about["block"]
    blocks = 0 if count is None else -(-count // block)
    for key, stored in layout.items():
        _array(group, key, count or 0, stored, chunks_of(stored, block), block, EXAMPLE)
    summary = group.create_group(SUMMARY)
    for key, stored in partials.items():
        _array(summary, key, blocks, stored, (1, *stored.shape), 1, BLOCK)


def _array(group: Any, key: str, count: int, stored: Stored, chunks: tuple[int, ...], block: int, axis: str) -> None:
    from zarr.codecs import ZstdCodec

    group.create_array(
        key,
        shape=(count, *stored.shape),
        dtype=str if stored.dtype == TEXT else stored.dtype,
        chunks=tuple(max(1, size) for size in chunks),
        shards=(block, *chunks[1:]) if chunks[0] < block else None,
        compressors=ZstdCodec(level=LEVEL),
        fill_value=np.nan if stored.dtype.startswith("float") else None,  # what a missing file reads as elsewhere
        dimension_names=(axis, *stored.axes),
    )
