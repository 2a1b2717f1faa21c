"""What is loaded is checked: damaged explanations are refused by name, or everything can be done with them."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
from matplotlib import pyplot

from backtrace_jax.errors import InputError
from backtrace_jax.explanation import terminal
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import CHANNELS, Channel
from tests.damage import damaged, use
from tests.handmade import explanation, ledger

MUTANTS = 200
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
PICTURES = np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4)
SERIES = PICTURES[:, 0]
SPAN = {"mode": "gradient", "task": "span-qa"}
CLASSIFIED = {"mode": "default", "task": "classification", "mode_options": {"bias": "keep"}}

HOSTILE = {
    "escape": "\x1b[31mred",
    "line": "one\ntwo\r",
    "override": "\u202eevil\u2066",
    "nul": "a\0b",
    "surrogate": "\ud800x",
    "tag": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "formula": "$\\frac{$",
}


def everything() -> tuple[Explanation, ...]:
    """Explanations that have every part there is among them."""
    sides = {name: Channel({"x": PICTURES}, {"h": ROWS}, ledger()) for name in CHANNELS}
    inputs = {"ids": np.arange(6).reshape(2, 3), "series": SERIES, "none": ROWS[:, :0]}
    span = {"y": np.zeros((2, 5, 2), np.float32), "ids": inputs["ids"]}
    return (
        explanation(
            ROWS,
            -ROWS,
            ledger=ledger(nodes=("a", "b")),
            layers={"h": ROWS},
            fingerprint=CLASSIFIED,
            completeness_error=np.zeros(2),
            warnings=("be careful",),
        ),
        explanation(PICTURES, PICTURES, channels=sides, layers={"h": ROWS}, fingerprint=CLASSIFIED),
        Explanation(inputs | {"ids": ROWS}, inputs, span, "y", np.array([3, 7]), {}, None, SPAN),
    )


@cache
def saved(folder: Path) -> list[bytes]:
    for number, each in enumerate(everything()):
        each.save(folder / f"{number}.npz")
    return [(folder / f"{number}.npz").read_bytes() for number in range(len(everything()))]


def test_damaged_files_are_refused_or_work(tmp_path):
    wholes, path, refused = saved(tmp_path), tmp_path / "damaged.npz", 0
    for seed in range(MUTANTS):
        path.write_bytes(damaged(Random(seed), wholes[seed % len(wholes)]))
        try:
            found = Explanation.load(path)
        except InputError as error:
            refused += 1
            assert len(str(error)) < 1000, seed  # noqa: PT017
            continue
        use(found, tmp_path)
    assert MUTANTS // 2 < refused < MUTANTS - 10


def test_whole_files_work(tmp_path):
    for number, _ in enumerate(saved(tmp_path)):
        use(Explanation.load(tmp_path / f"{number}.npz"), tmp_path)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_are_text_wherever_they_are_shown(tmp_path, name):
    books, shown = ledger(nodes=(name,)), {"outputs": {name: ROWS}, "output": name, "layers": {name: ROWS}}
    before = explanation(
        ROWS, ROWS, name=name, ledger=books, fingerprint={"mode": name, "task": name}, warnings=(name,), **shown
    )
    before.save(tmp_path / "e.npz")
    found = Explanation.load(tmp_path / "e.npz")
    lines = [repr(found), terminal.summary(found, feature_names=[name] * 3), terminal.layers(found, 0)]
    page = found._repr_html_()
    for text in ("".join(lines), page, drawn(found, feature_names=[name] * 3), drawn(found, tokens=[name] * 3)):
        assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert len(repr(found).split("\n")) == 2
    assert "<script" not in page
    assert page.count("<img") == 1  # the picture's own


def drawn(found: Explanation, **names) -> str:
    """The picture as SVG, its text as text."""
    file = io.StringIO()
    with pyplot.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        found.plot(**names).savefig(file, format="svg")
    return file.getvalue()
