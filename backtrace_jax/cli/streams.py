"""What goes to stdout and stderr: results there, notes, errors and progress here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec

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


@contextmanager
def long_progress(before: int) -> Iterator[Callable[[int, int | None], None]]:
    """Progress of what takes minutes or hours, with rate and time left: a bar on a terminal, when tqdm is installed;
    elsewhere a line from time to time.

    Args:
        before: Examples that were done when it began.
    """
    if not sys.stderr.isatty() or find_spec("tqdm") is None:
        yield _Lines(before)
        return
    from tqdm import tqdm

    with tqdm(desc="explaining", unit=" examples", initial=before, leave=False) as bar:

        def advance(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


EVERY = 30.0
"""Seconds between two lines of progress, adjustable."""


class _Lines:
    """Lines of progress: how many examples, how fast, how long still."""

    def __init__(self, before: int) -> None:
        self._before, self._begun = before, time.monotonic()
        self._told = self._begun

    def __call__(self, done: int, total: int | None) -> None:
        """Say it, unless that was done a moment ago."""
        now = time.monotonic()
        if done > self._before and (now - self._told >= EVERY or done == total):
            tell(progress_line(done, total, (done - self._before) / max(now - self._begun, 1e-9)))
            self._told = now


def progress_line(done: int, total: int | None, rate: float) -> str:
    """`explained 4,096 of 100,000 (512/s, 3:07 left)`, the rate in examples per second."""
    many = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    left = "" if total is None else f", {_clock((total - done) / rate)} left"
    return f"explained {many} ({rate:.3g}/s{left})"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def say(text: str) -> None:
    """Text on stdout, whatever it can encode."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "\n".join(map(printable, text.split("\n")))
    print(shown.encode(encoding, "backslashreplace").decode(encoding))
