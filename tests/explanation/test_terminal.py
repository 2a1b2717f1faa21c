"""Explanations as plain text."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import helper

from backtrace_jax import explain
from backtrace_jax.errors import SettingError
from backtrace_jax.explanation import describe, terminal
from tests.handmade import digits, explanation, ledger, model


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


@pytest.mark.parametrize(
    ("task", "shape", "asked", "words"),
    [
        ("regression", (4,), {}, "all of y"),
        ("regression", (4,), {"target": 2}, "y[2] = 3"),
        ("classification", (4,), {}, "y[3] = 4"),
        ("binary-segmentation", (1, 2, 2), {}, "the mask of y"),
        ("multi-class-segmentation", (3, 2, 2), {"target": 2, "class_axis": 1}, "class 2 of y"),
        ("next-token", (3, 6), {"target": 5, "class_axis": -1}, "y[2, 5] = 18"),
        ("next-token", (3, 6), {"target": 5, "position": 0, "class_axis": -1}, "y[0, 5] = 6"),
        ("token-classification", (3, 6), {"class_axis": -1}, "every position of y"),
        ("token-classification", (3, 6), {"target": 1, "position": 1, "class_axis": -1}, "y[1, 1] = 8"),
        ("span-qa", (5,), {"target": 4}, "y[4] = 5"),
        ("span-qa", (5, 2), {"target": (3, 4)}, "span 3 to 4 of y = 7, 10"),
        ("auto", (2, 2), {"start": np.ones((1, 2, 2))}, "the given start at y"),
    ],
)
def test_every_task_says_what_it_explains(task, shape, asked, words):
    x = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(1, *shape)
    found = explain(model(helper.make_node("Relu", ["x"], ["y"]), shape=("batch", *shape)), x, task=task, **asked)
    assert f"explained    {words}\n" in terminal.summary(found)


@pytest.mark.parametrize("task", ["regression", "binary-segmentation", "span-qa"])
def test_only_classes_are_predicted(task):
    found = explanation(signed(3), signed(3), fingerprint={"task": task})
    assert "prediction" not in terminal.prediction(found, 0)


# What closes, and what does not


def test_contrastive_reports_both_sides_and_ranks_by_the_difference():
    found = digits("contrastive")
    text = terminal.summary(found, 1, count=1)
    for side, relevance in (("for", found.positive["image"][1]), ("against", found.negative["image"][1])):
        total = describe.number(float(relevance.sum(dtype=np.float64)))
        assert re.search(rf"^  {side} +\+1\.000000 +{re.escape(total)} ", text, re.MULTILINE)
    difference = found.positive["image"][1] - found.negative["image"][1]
    first = describe.position("image", int(np.abs(difference).argmax()), difference.shape)
    assert re.search(rf"difference\n  {re.escape(first)} ", text)


@pytest.mark.parametrize(
    ("mode", "line", "batch"),
    [
        ("gradient", "no ledger: gradients are not conserved", r"examples     2"),
        (
            "integrated-gradients",
            "completeness error",
            r"examples     2, largest completeness error \d\.\de-\d\d \(example [01]\)",
        ),
    ],
)
def test_without_a_ledger_there_is_one_line(mode, line, batch):
    found = digits(mode)
    assert terminal.summary(found, 1).splitlines()[-1].startswith(line)
    assert re.fullmatch(batch, terminal.batch(found))


def test_the_worst_example_is_named():
    without = {"ledger": None, "completeness_error": np.array([1e-9, 0.25])}
    found = explanation(signed(3), signed(3), **without)
    assert terminal.batch(found) == "examples     2, largest completeness error 2.5e-01 (example 1)"
    assert "completeness error  1.0e-09 of" in terminal.summary(found, 0)
    assert "completeness" not in terminal.summary(explanation(signed(3), signed(3), ledger=ledger()))


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
