"""One writer at a time: the folder of a store is locked while it is written, and laid out whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
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


@contextmanager
def written(path: Path, lay_out: Callable[[Path], None]) -> Iterator[None]:
    """Inside, a store lies at `path` and nobody else writes to it.

    A store that is not there is laid out in a folder beside it, which takes its name when it is complete. Nothing is
    left of the lock, whatever ends the process.

    Args:
        path: The folder.
        lay_out: Writes an empty store into a new folder.

    Raises:
        SettingError: When the folder cannot be written, or somebody else writes to it.
    """
    with ExitStack() as held:
        with file_errors(path):
            if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                held.enter_context(_laid_out(path, lay_out))
            else:
                held.enter_context(_locked(path, path))
                for stray in path.rglob(f"*{UNFINISHED}"):
                    stray.unlink(missing_ok=True)
        yield


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
def _laid_out(path: Path, lay_out: Callable[[Path], None]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}{UNFINISHED}")
    beside.mkdir(exist_ok=True)
    with _locked(beside, path):
        for entry in beside.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        lay_out(beside)
        beside.rename(path)  # the lock is of the folder, whatever its name
        yield


@contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SettingError(
                    f"another process is writing to '{shown_path(path)}'; wait for it, or choose another folder"
                ) from None
        yield
    finally:
        os.close(handle)
