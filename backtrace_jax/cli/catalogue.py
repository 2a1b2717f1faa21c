"""The catalogue of modes as text."""

from __future__ import annotations

import inspect
import textwrap
from itertools import zip_longest

from backtrace_jax.rules import MODES, Entry

WIDTH = 110


def catalogue() -> str:
    """Every mode by name, beside it its summary, its reference, and its options with their defaults."""
    indent = max(map(len, MODES)) + 2
    return "\n".join(_block(entry, indent) for entry in MODES.values())


def _block(entry: Entry, indent: int) -> str:
    parts = (entry.summary, entry.reference, _options(entry))
    lines = [line for part in parts for line in textwrap.wrap(part, WIDTH - indent, break_on_hyphens=False)]
    return "\n".join(f"{name:<{indent}}{line}" for name, line in zip_longest([entry.name], lines, fillvalue=""))


def _options(entry: Entry) -> str:
    given = [
        f"{name} (must be given)" if default is inspect.Parameter.empty else f"{name}={default}"
        for name, default in entry.defaults.items()
    ]
    return f"options: {', '.join(given)}" if given else ""
