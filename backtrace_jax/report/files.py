"""Writing a file whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from backtrace_jax.errors import SettingError


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the name `path` only once it is complete.

    The bytes go to a temporary file in the same folder, so that the last step is one atomic rename; when anything fails
    before it, the temporary file is removed and whatever was at `path` stays as it was.

    Raises:
        SettingError: the file system refuses; the message names the file.
    """
    path = Path(path)
    # Not tempfile: its files are private to the user (mode 0600), and would stay so under their final name.
    part = path.with_name(f".{path.name or 'unnamed'}.{secrets.token_hex(4)}.part")
    try:
        try:
            with open(part, "xb") as file:
                yield file
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SettingError(f"cannot write '{path}': {reason}; choose a file in a folder that can be written") from error
