"""Tensors stored outside the model's file: read once, from the model's folder only, and owned from then on.

A file that is merely mapped stays in the hands of its owner: overwritten in place it changes answers under a hash that
stays, and truncated it ends the process. So the parts of it that hold tensors are copied as soon as one is asked for,
and what is hashed is what is computed with.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import onnx

from backtrace_jax.errors import ModelError

from .verify import check_tensor, shortened

_ALIGNED = 64  # bytes: what an array must start at for XLA to read it without a copy
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class _Place(NamedTuple):
    """Where a tensor lies outside the model."""

    path: Path
    begin: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype
    where: str


class _Part(NamedTuple):
    """Bytes of a file from `begin` to `end`."""

    begin: int
    end: int
    data: np.ndarray


@dataclass(frozen=True)
class ExternalData:
    """What a model keeps in other files.

    Attributes:
        name: What to call the model in messages.
        folder: Real path of the folder that the files may lie in; None for a model given in memory.
        tensors: All tensors of the model that say they are stored outside.
    """

    name: str
    folder: Path | None
    tensors: tuple[onnx.TensorProto, ...]

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """A tensor's entries, which cannot be written to.

        Raises:
            ModelError: When the data of any tensor are missing, too short, outside the model's folder, or too large for
                the memory of the machine.
        """
        place = self._place(tensor)
        if place.begin == place.end:
            return np.zeros(place.shape, place.dtype)
        part = next(part for part in self._parts[place.path] if part.begin <= place.begin and place.end <= part.end)
        data = part.data[place.begin - part.begin : place.end - part.begin]
        return data.view(place.dtype).reshape(place.shape)

    def parts(self) -> Iterator[np.ndarray]:
        """The bytes that tensors lie in, each once however many tensors share it."""
        for parts in self._parts.values():
            yield from (part.data for part in parts)

    @cached_property
    def _parts(self) -> dict[Path, list[_Part]]:
        files: dict[Path, list[_Place]] = {}
        for tensor in self.tensors:
            place = self._place(tensor)
            files.setdefault(place.path, []).append(place)
        return {path: self._read(path, places) for path, places in files.items()}

    def _read(self, path: Path, places: list[_Place]) -> list[_Part]:
        try:
            with opened(path) as file:
                size = os.fstat(file.fileno()).st_size
                for place in places:
                    if place.end > size:
                        raise ModelError(f"{place.where}: {_too_short(path, place.end)}")
                spans = [*_merged((place.begin, place.end) for place in places)]
                self._check_memory(sum(end - begin for begin, end in spans))
                return [_Part(begin, end, _copied(file, begin, end)) for begin, end in spans]
        except EOFError as error:
            raise ModelError(f"{places[0].where}: {_too_short(path, places[0].end)}") from error
        except (OSError, MemoryError) as error:
            raise ModelError(
                f"{places[0].where}: {shortened(path.name)} cannot be read: {shortened(error)}; is it a plain file, "
                "which nobody changes meanwhile?"
            ) from error

    def _check_memory(self, size: int) -> None:
        memory = _memory()
        if memory is not None and size > memory:
            raise ModelError(
                f"{self.name}: its external data take {size / 2**30:.1f} GiB, and this machine has "
                f"{memory / 2**30:.1f} GiB of memory; use a larger one"
            )

    @cached_property
    def _paths(self) -> dict[str, Path]:
        """Where the files are, by the location that tensors name: checked once, as they may be gone later."""
        return {location: self._path(location, where) for location, where in self._locations()}

    def _locations(self) -> Iterator[tuple[str, str]]:
        first = {_entries(tensor).get("location", ""): self._where(tensor) for tensor in reversed(self.tensors)}
        return reversed([*first.items()])

    def _where(self, tensor: onnx.TensorProto) -> str:
        return f"{self.name}: external data of tensor {shortened(tensor.name)!r}"

    def _place(self, tensor: onnx.TensorProto) -> _Place:
        where, entries = self._where(tensor), _entries(tensor)
        check_tensor(tensor)
        path = self._paths[entries.get("location", "")]
        dtype = _stored_type(tensor, where)
        begin, shape = _natural(entries.get("offset", "0"), where), tuple(tensor.dims)
        size = dtype.itemsize * math.prod(shape)
        if "length" in entries and _natural(entries["length"], where) != size:
            raise ModelError(f"{where}: length {entries['length']} does not fit shape {shape} of {dtype}")
        return _Place(path, begin, begin + size, shape, dtype, where)

    def _path(self, location: str, where: str) -> Path:
        if self.folder is None:
            raise ModelError(f"{where}: the model was given in memory; pass its path so that the data can be found")
        if not location or "\0" in location:
            raise ModelError(f"{where}: location {shortened(location)!r} leaves the model's folder; refused")
        try:
            path = Path(os.path.realpath(self.folder / location))
            found = path.stat() if path.exists() else None
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{where}: location {shortened(location)!r} is no file's name: {shortened(error)}"
            ) from error
        if not path.is_relative_to(self.folder):
            raise ModelError(f"{where}: location {shortened(location)!r} leaves the model's folder; refused")
        if found is None:
            raise ModelError(f"{where}: file {shortened(location)!r} is missing; put it beside the model")
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{where}: {shortened(location)!r} is not a plain file; refused")
        return path


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def opened(path: Path) -> BinaryIO:
    """Open a plain file by its real path; a link anywhere on the way was put there after the path was checked.

    Raises:
        OSError: When it cannot be opened, is reached by a link, or is no plain file.
    """
    if os.open not in os.supports_dir_fd:
        return open(path, "rb")  # a system whose files are not opened folder by folder
    folder = os.open(path.anchor, _FOLDER)
    try:
        for part in path.parts[1:-1]:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(path.name, _FILE | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no plain file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _copied(file: BinaryIO, begin: int, end: int) -> np.ndarray:
    """Bytes of a file, laid out in memory as they are in the file with respect to `_ALIGNED`."""
    room = np.empty(end - begin + 2 * _ALIGNED, np.uint8)
    first = (begin - room.ctypes.data) % _ALIGNED
    data = room[first : first + end - begin]
    file.seek(begin)
    done = 0
    while done < len(data):
        count = file.readinto(data[done:].data)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        done += count
    data.flags.writeable = False
    return data


def _too_short(path: Path, end: int) -> str:
    return f"{shortened(path.name)} ends before byte {end}; is the file complete?"


def _memory() -> int | None:
    """Bytes of memory that the machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same bytes in order, none of them twice."""
    (begin, end), *others = sorted(spans)
    for low, high in others:
        if low > end:
            yield begin, end
            begin, end = low, high
        end = max(end, high)
    yield begin, end


def _stored_type(tensor: onnx.TensorProto, where: str) -> np.dtype:
    """Type of entries that lie in a file one after the other, each in bytes of its own."""
    names = {code: name for name, code in onnx.TensorProto.DataType.items()}
    name = names.get(tensor.data_type, "UNDEFINED")
    if name in ("STRING", "UNDEFINED") or name.endswith(("INT2", "INT4", "4E2M1")):
        raise ModelError(f"{where}: type {name} cannot be read from a file; keep the tensor inside the model")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _natural(value: str | int, where: str) -> int:
    digits = str(value)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS):  # int() takes '1_0' and ' 7' as well
        raise ModelError(f"{where}: {shortened(value)!r} is not a size")
    return int(digits)


_DIGITS = 40  # of the largest number that is read; no file has a byte there
