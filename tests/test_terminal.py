"""Explanations as plain text."""

from __future__ import annotations

import re

import numpy as np
import pytest

from backtrace_jax.errors import SettingError
from backtrace_jax.report import describe, terminal
from tests.handmade import explanation


def signed(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)


def test_summary_names_prediction_label_inputs_and_books():
    relevance = np.array([[0.1, -0.5, 0.3], [1.0, 2.0, -3.0]])
    found = explanation(np.array([[1.0, 2.0, 3.0]] * 2), relevance)
    text = terminal.summary(
        found, 0, count=2, feature_names=["age", "height", "weight"], class_names=["a", "b", "c", "d"], label=2
    )
    assert "prediction   class 3 (d), score 3" in text
    assert "label        class 2 (c)" in text
    assert "explained    logits[1] = 1" in text
    assert re.findall(r"^  (height|weight|age)\b", text, re.MULTILINE) == ["height", "weight"]
    assert re.search(r"height +2 +-0.500000  -{20}$", text, re.MULTILINE)
    assert re.search(r"weight +3 +\+0.300000  \+{12}$", text, re.MULTILINE)
    assert f"bias          {describe.number(found.ledger.bias[0]):>12}" in text
    assert text.isascii()


def test_ledger_text_has_a_line_per_column_and_the_error():
    lines = terminal.ledger(explanation(signed(3), signed(3)), 0).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("ledger", "start", "inputs", "bias", "constant", "stabiliser", "dead", "error")
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": np.array([-1, -1])}, "all of logits"),
        ({"target": None}, "the given start at logits"),
        ({"outputs": {"logits": signed(3, 5)}, "target": np.array([7, 0])}, "logits[1, 2]"),
        ({"outputs": {"logits": signed()}, "target": np.array([0, 0])}, "logits"),
        ({"outputs": {"logits": signed(1)}, "target": np.array([0, 0])}, "logits[0]"),
        (
            {
                "outputs": {"logits": signed(1)},
                "target": np.array([1, 0]),
                "fingerprint": {"task": "classification"},
            },
            "logits[0] (class 1)",
        ),
    ],
)
def test_explained_units_are_named(changes, words):
    found = explanation(signed(3), signed(3), **changes)
    assert describe.unit(found, 0) == words
    assert words in terminal.summary(found)


def test_top_inputs_compare_across_inputs():
    relevance = {"a": np.array([[1.0, -5.0]] * 2), "b": np.array([[[3.0], [0.0]]] * 2)}
    inputs = {"a": np.array([[1, 2]] * 2), "b": np.array([[[7.0], [8.0]]] * 2)}
    text = terminal.top_inputs(explanation(signed(2), signed(2), relevance=relevance, inputs=inputs), 0, count=3)
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["a[1]", "b[0,", "a[0]"]


def test_layers_are_listed_with_totals():
    layers = {"conv/1": np.ones((2, 4, 3)), "fc": np.zeros((2, 5))}
    text = terminal.layers(explanation(signed(3), signed(3), layers=layers), 0)
    assert re.search(r"conv/1 +\+12.000000  \[4, 3\]", text)
    assert re.search(r"fc +\+0.000000  \[5\]", text)


def test_summary_of_a_missing_example_is_refused():
    with pytest.raises(SettingError, match="no example 5"):
        terminal.summary(explanation(signed(3), signed(3)), 5)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "+0.000000"), (-0.25, "-0.250000"), (1e-9, "+1.000e-09"), (-2e7, "-2.000e+07")]
)
def test_numbers_keep_their_digits(value, text):
    assert describe.number(value) == text
