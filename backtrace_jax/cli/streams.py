"""What goes to stdout and stderr: results there, notes, errors and progress here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress

from backtrace_jax.errors.texts import printable


@contextmanager
def open_streams() -> Iterator[None]:
    """Let streams that the caller has closed (`>&-`) lead nowhere; the first file opened would take their place."""
    with ExitStack() as stack:
        for name, redirect in (("stdout", redirect_stdout), ("stderr", redirect_stderr)):
            if getattr(sys, name) is None:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect(nowhere))
        yield


def drop_output() -> None:
    """Send what is still to be written nowhere: Python would complain once more when it flushes stdout at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(line: str) -> None:
    """A line on stderr, if there is anybody to read it."""
    with suppress(OSError):
        print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, when tqdm is installed, for batches that take more than a second."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc="explaining", unit=" examples", delay=1.0, leave=False, disable=not sys.stderr.isatty()) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def say(text: str) -> None:
    """Text on stdout, whatever it can encode."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "\n".join(map(printable, text.split("\n")))
    print(shown.encode(encoding, "backslashreplace").decode(encoding))
