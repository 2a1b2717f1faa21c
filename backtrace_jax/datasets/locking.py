"""One call at a time: the folder of a store is locked while it is written, and laid out whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import shown_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".partial"
"""How the names of files and folders end that are not complete."""

PATIENCE = 600.0
"""Seconds that a process waits for the store that another one lays out, adjustable."""

_PAUSE = 0.1  # s between two looks
_GRACE = 20.0  # s in which another process of the same call has laid out the store, or tidied it up


@contextmanager
def written(path: Path, lay_out: Callable[[Path], None], number: int = 0, count: int = 1) -> Iterator[None]:
    """Inside, a store lies at `path` and nobody else writes to it but, of several processes, those of the same call.

    A store that is not there is laid out in a folder beside it, which takes its name when it is complete. Nothing is
    left of the lock, whatever ends the process.

    Args:
        path: The folder.
        lay_out: Writes an empty store into a new folder.
        number: Of this process; the first one lays out, the others wait for it.
        count: Of the processes.

    Raises:
        SettingError: When the folder cannot be written, or somebody else writes to it.
    """
    with ExitStack() as held:
        with file_errors(path):
            if number:
                _wait_for(path)
            if _is_blank(path):
                handle = held.enter_context(_laid_out(path, lay_out))
            else:
                handle = held.enter_context(_locked(path, path, shared=count > 1))
            if count > 1:
                held.enter_context(_shared(handle, path))
            else:
                _remove_strays(path)
        yield


def _is_blank(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _wait_for(path: Path) -> None:
    """Wait until a store has been laid out.

    Raises:
        SettingError: When none is in sight.
    """
    until = time.monotonic() + PATIENCE
    while _is_blank(path):
        if time.monotonic() > until:
            raise SettingError(
                f"the first process has laid out no store in '{shown_path(path)}' for {PATIENCE:.0f} s; start it, too"
            )
        time.sleep(_PAUSE)


def _remove_strays(path: Path) -> None:
    for stray in path.rglob(f"*{UNFINISHED}"):
        stray.unlink(missing_ok=True)


@contextmanager
def _shared(handle: int, path: Path) -> Iterator[None]:
    """Inside, a folder is locked for several processes; whoever is alone with it, before or after, tidies up."""
    _tidy(handle, path)
    _lock(handle, path, shared=True)
    yield
    _tidy(handle, path)


def _tidy(handle: int, path: Path) -> None:
    try:
        _lock(handle, path, shared=False)
    except SettingError:
        return  # the last one will
    _remove_strays(path)


@contextmanager
def file_errors(path: Path, more: str = "") -> Iterator[None]:
    """Inside, what the file system refuses is said of this store.

    Raises:
        SettingError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = f"the disk is full ({error.strerror})" if full else error.strerror or error
        raise SettingError(f"cannot write '{shown_path(path)}': {reason}{more}") from error


@contextmanager
def _laid_out(path: Path, lay_out: Callable[[Path], None]) -> Iterator[int]:
    path = Path(os.path.realpath(path))
    if path == Path(os.path.realpath(os.curdir)):
        raise SettingError(f"'{shown_path(path)}' is the folder that this process works in; name one inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}{UNFINISHED}")
    beside.mkdir(exist_ok=True)
    with _locked(beside, path) as handle:
        for entry in beside.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        lay_out(beside)
        beside.rename(path)  # the lock is of the folder, whatever its name
        yield handle


@contextmanager
def _locked(folder: Path, path: Path, *, shared: bool = False) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, path, shared=shared)
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int, path: Path, *, shared: bool) -> None:
    """Lock a folder that is open, instead of as it was locked before.

    Raises:
        SettingError: When another process writes to it.
    """
    if fcntl is None:
        return
    until = time.monotonic() + (_GRACE if shared else 0.0)
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise SettingError(
                    f"another process is writing to '{shown_path(path)}'; wait for it, or choose another folder"
                ) from None
            time.sleep(_PAUSE)
        else:
            return
