"""A folder of the user's own, in which what takes long to make is kept for the next process.

What lies there is run as code, so it may come from nobody else: folder and files belong to the user, and nobody else
may write to them (they are made with modes 0700 and 0600); others are not used. A file is written beside its place and
then renamed, so that any number of processes share the folder. It begins with a digest of its name and its content;
what is damaged is removed and made anew. Whatever else fails (a full disk, a folder that cannot be written to) only
costs time: then nothing is kept.

The variable BACKTRACE_JAX_CACHE moves the folder; "off" keeps nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from backtrace_jax.errors import SettingError

VARIABLE = "BACKTRACE_JAX_CACHE"
OFF = ("", "0", "off")

LARGEST = 5 * 2**30
"""Bytes of all files, adjustable; where there are more, those that were not read for longest are removed."""

_LEFT = 0.8  # of `LARGEST`, once some are removed
_ABANDONED = 3600  # s after which a file that nobody has finished is removed
_PART = ".part"
_DIGEST = hashlib.sha256().digest_size
_SAFELY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_SUPPORTED = hasattr(os, "geteuid") and hasattr(os, "O_DIRECTORY") and os.open in os.supports_dir_fd


class Cache:
    """The files of a folder, by names that say what they hold."""

    def __init__(self, path: Path) -> None:
        """Name the folder, which is made when something is kept in it."""
        self._path = path
        self._size: int | None = None  # bytes of its files as far as this process knows; None before it has looked

    def read(self, name: str) -> bytes | None:
        """What is kept under a name; None where nothing is."""
        with suppress(OSError), _folder(self._path) as folder:
            with _file(name, os.O_RDONLY, folder) as file:
                content = file.read()
                os.utime(file.fileno())  # it was of use
            if content[:_DIGEST] == _digest(name, content[_DIGEST:]):
                return content[_DIGEST:]
            _remove(name, folder)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Keep something under a name, where that is possible."""
        if len(content) > LARGEST:
            return
        with suppress(OSError):
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _folder(self._path) as folder:
                _place(name, _digest(name, content) + content, folder)
                self._bound(len(content), folder)

    def remove(self, name: str) -> None:
        """Keep nothing under a name any longer."""
        with suppress(OSError), _folder(self._path) as folder:
            _remove(name, folder)

    def refusal(self) -> str | None:
        """Why the folder cannot be used; None where it can, or could be made."""
        try:
            with suppress(FileNotFoundError), _folder(self._path):
                pass
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _bound(self, added: int, folder: int) -> None:
        """Remove what was abandoned, and what was not read for longest where there is too much."""
        if self._size is not None and self._size + added <= LARGEST:
            self._size += added
            return
        files = sorted(_files(folder))
        self._size = sum(size for _, size, _ in files)
        allowed, now = LARGEST if self._size <= LARGEST else _LEFT * LARGEST, time.time()
        for used, size, name in files:
            if self._size > allowed or (name.endswith(_PART) and used < now - _ABANDONED):
                _remove(name, folder)
                self._size -= size


def _digest(name: str, content: bytes) -> bytes:
    found = hashlib.sha256(f"{name}\n".encode())
    found.update(content)
    return found.digest()


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """The folder itself, wherever its path leads to later.

    Raises:
        OSError: When there is none, or it is not the user's alone.
    """
    folder = os.open(os.path.realpath(path), os.O_RDONLY | os.O_DIRECTORY | _SAFELY)
    try:
        _check_own(folder)
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _file(name: str, how: int, folder: int) -> Iterator[Any]:
    """A plain file of the folder that is the user's alone."""
    with open(os.open(name, how | _SAFELY, 0o600, dir_fd=folder), "rb" if how == os.O_RDONLY else "wb") as file:
        _check_own(file.fileno())
        yield file


def _check_own(descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, "others may write to it")


def _place(name: str, content: bytes, folder: int) -> None:
    """Write a file whole or not at all."""
    part = f".{secrets.token_hex(8)}{_PART}"
    try:
        with _file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder) as file:
            file.write(content)
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _remove(part, folder)
        raise


def _remove(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):  # another process was faster
        os.unlink(name, dir_fd=folder)


def _files(folder: int) -> Iterator[tuple[float, int, str]]:
    """When each file was last used, its size and its name."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield found.st_mtime, found.st_size, entry.name


def cache_of_user() -> Cache | None:
    """The cache that this process uses; None where nothing is kept.

    Raises:
        SettingError: When BACKTRACE_JAX_CACHE names a folder that cannot be trusted.
    """
    given = os.environ.get(VARIABLE)
    if not _SUPPORTED or (given is not None and given.strip().lower() in OFF):
        return None
    return _cache_in(_usual() if given is None else given, chosen=given is not None)


@cache
def _cache_in(path: str | None, *, chosen: bool) -> Cache | None:
    """The cache in a folder; where it is not the user's own choice, and cannot be used, there is none."""
    if path is None:
        return None
    found = Cache(Path(path).expanduser())
    refusal = found.refusal()
    if refusal is None:
        return found
    if not chosen:
        return None
    raise SettingError(
        f"{VARIABLE}={path!r} cannot be used, for what lies there is run as code: {refusal}; name a folder of your own "
        f"that nobody else may write to, or {VARIABLE}=off"
    )


def _usual() -> str | None:
    """The folder in which systems expect what can be made again; None where the user has no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    path = os.path.join(given if os.path.isabs(given) else os.path.expanduser(caches), "backtrace-jax", "compiled")
    return path if os.path.isabs(path) else None
