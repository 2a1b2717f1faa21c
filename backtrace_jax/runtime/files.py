"""Writing a file whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from backtrace_jax.errors import SettingError


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the name `path` only once it is complete.

    The bytes go to a temporary file in the same folder, so that the last step is one atomic rename; when anything fails
    before it, or the process is asked to end, the temporary file is removed and whatever was at `path` stays as it was.
    The file that a link leads to is replaced, not the link; a file that was there keeps its mode; what is no plain file
    (a device, a pipe) is written to as it is.

    Raises:
        SettingError: The file system refuses; the message names the file.
    """
    try:
        with _opened(_resolved(path)) as file:
            yield file
    except OSError as error:
        reason = error.strerror or error
        raise SettingError(f"cannot write '{path}': {reason}; choose a file in a folder that can be written") from error


def _resolved(path: str | PathLike[str]) -> Path:
    """The file itself, behind all links."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:
        raise OSError(str(error)) from error


def _opened(target: Path) -> AbstractContextManager[BinaryIO]:
    mode = target.stat().st_mode if target.exists() else None
    if mode is None or stat.S_ISREG(mode):
        return _part_of(target, mode)
    return _through(target)


@contextmanager
def _through(target: Path) -> Iterator[BinaryIO]:
    """What is written to a device or pipe at the end, all at once: neither can be read or gone back in."""
    content = io.BytesIO()
    yield content
    with open(target, "wb") as file:
        file.write(content.getbuffer())


@contextmanager
def _part_of(target: Path, mode: int | None) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `target` at the end."""
    # Not tempfile: its files are private to the user (mode 0600), and would stay so under their final name.
    part = target.with_name(f".{target.name or 'unnamed'}.{secrets.token_hex(4)}.part")
    try:
        with _ended_in_order(), open(part, "xb") as file:
            if mode is not None:
                os.chmod(part, stat.S_IMODE(mode))  # first: a private file is never open to others, half written
            yield file
        part.replace(target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """While this lasts, SIGTERM unwinds the program instead of ending it at once, so that partial files are removed.

    Only where nobody else handles the signal, and where Python lets signals be handled: on the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
