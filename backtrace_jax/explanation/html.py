"""Explanations in notebooks: one self-contained piece of HTML, every text escaped, the picture embedded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from backtrace_jax.errors import BacktraceError
from backtrace_jax.errors.texts import printable

from .describe import SIDES, arrived, no_books, number, unit
from .ledger import COLUMNS, Ledger
from .record import Record

MOST_ROWS = 10

_TABLE = "border-collapse:collapse;margin:0.5em 0;font-variant-numeric:tabular-nums"
_CELL = "text-align:right;padding:0.15em 0.7em;border-bottom:1px solid rgba(128,128,128,0.3)"


def render(explanation: Record) -> str:
    """The explanation as HTML: a row per example (the first ten), and a picture of the first example."""
    mode = explanation.fingerprint.get("mode", "unknown")
    shown = min(len(explanation), MOST_ROWS)
    parts = [
        f"<div><b>Explanation</b> of {_escaped(explanation.output)}, mode {_escaped(mode)}, "
        f"{len(explanation)} examples{'' if shown == len(explanation) else f', the first {shown} shown'}</div>",
        _table(*_totals(explanation, shown)),
        _books(explanation, shown),
        *(f"<div><b>warning:</b> {_escaped(line)}</div>" for line in explanation.warnings),
        _picture(explanation),
    ]
    return f"<div>{''.join(parts)}</div>"


def _escaped(text: object) -> str:
    """Text as HTML shows it, whatever is in it."""
    return escape(printable(text))


def _totals(explanation: Record, shown: int) -> tuple[list[str], list[list[str]]]:
    """Heads and rows, per example: the explained unit, the total relevance of every input and that of every channel."""
    sides = SIDES if explanation.channels else {}
    rows = [
        [str(example), unit(explanation, example)]
        + [number(float(np.sum(array[example], dtype=np.float64))) for array in explanation.relevance.values()]
        + [number(arrived(explanation.channels[channel], example)) for channel in sides.values()]
        for example in range(shown)
    ]
    return ["example", "explained", *explanation.relevance, *sides], rows


def _books(explanation: Record, shown: int) -> str:
    """The ledger; without one the completeness error, or a line that there is neither."""
    ledger, errors = explanation.ledger, explanation.completeness_error
    if ledger is not None:
        return _table(["ledger", *COLUMNS, "error"], _ledger(ledger, shown))
    if errors is not None:
        rows = [[str(example), f"{errors[example]:.1e}"] for example in range(shown)]
        return _table(["example", "completeness error"], rows)
    return f"<div>{no_books(explanation)}</div>"


def _ledger(ledger: Ledger, shown: int) -> list[list[str]]:
    error = ledger.error
    return [
        [str(example), *(number(total) for total in ledger.signed[example]), f"{error[example]:.1e}"]
        for example in range(shown)
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th style="{_CELL}">{_escaped(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{_escaped(text)}</td>' for text in row) + "</tr>" for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _picture(explanation: Record) -> str:
    """The first example as an embedded PNG; nothing where matplotlib is missing or no form of picture fits."""
    from . import pictures

    try:
        data = base64.b64encode(pictures.png(pictures.draw(explanation))).decode("ascii")
    except BacktraceError:
        return ""
    return f'<img alt="relevance of the first example" src="data:image/png;base64,{data}">'
