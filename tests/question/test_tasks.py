"""Start relevance of every task (RULES section 10), row by row against the table written once more in NumPy."""

from __future__ import annotations

from itertools import product

import jax
import numpy as np
import pytest

from backtrace_jax import Explainer, SettingError, explain
from backtrace_jax.importers import read
from backtrace_jax.ir import Graph
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.question.words import ALL_UNITS, TASKS, canonical_task
from tests.starts import started, started_at
from tests.tiny import TensorProto, network, node
from tests.zoo import exported

BINARY, CLASSES = "binary-classification", "multi-class classification"
BOXES, MASK, REGIONS = "bbox-regression", "binary-segmentation", "multi-class-segmentation"
TOKEN, LABELS, SPAN = "next-token", "token-classification", "span-qa"
SCALERS = (1.0, 2.5, None)
PROBABILITIES = ("sigmoid", "softmax", "softmax, last")


# the table: which units share the start relevance of one example, by index


def one_class(a, target=None):
    return [np.unravel_index(a.argmax() if target is None else target, a.shape)]


def one_unit(a, target=None):
    return [(0,) * a.ndim]


def every_or_one(a, target=None):
    return list(np.ndindex(a.shape)) if target is None else [np.unravel_index(target, a.shape)]


def above(a, thresholding=0.5):
    return [index for index in np.ndindex(a.shape) if a[index] > thresholding]


def pixels_of_class(a, target=None):
    best = {pixel: int(a[:, *pixel].argmax()) for pixel in np.ndindex(a.shape[1:])}
    if target is None:
        target = max(range(len(a)), key=lambda k: sum(found == k for found in best.values()))
    return [(target, *pixel) for pixel, found in best.items() if found == target]


def token(a, target=None, position=-1):
    return [(position % len(a), a[position].argmax() if target is None else target)]


def labels(a, target=None, position=None):
    return [unit for p in (range(len(a)) if position is None else [position]) for unit in token(a, target, p)]


def span(a, target=None):
    if a.ndim == 1:
        return one_class(a, target)
    first, last = a.argmax(axis=0) if target is None else target
    return [(first, 0), (last, 1)]


CASES = {
    "a sigmoid unit": (BINARY, "sigmoid", (1,), one_unit, {}),
    "a sigmoid unit, class 1": (BINARY, "sigmoid", (1,), one_unit, {"target": 1}),
    "a sigmoid unit without an axis": (BINARY, "sigmoid", (), one_unit, {}),
    "a logit unit": (BINARY, "", (1,), one_unit, {}),
    "classes": (CLASSES, "", (5,), one_class, {}),
    "probabilities of classes": (CLASSES, "softmax", (5,), one_class, {}),
    "a class": (CLASSES, "", (5,), one_class, {"target": 3}),
    "classes along an odd axis": (CLASSES, "", (1, 5, 1), one_class, {}),
    "a box": (BOXES, "", (4,), every_or_one, {}),
    "a side of a box": (BOXES, "", (4,), every_or_one, {"target": 2}),
    "several boxes": (BOXES, "", (3, 4), every_or_one, {}),
    "one number": ("regression", "", (1,), every_or_one, {}),
    "a mask": (MASK, "sigmoid", (1, 3, 4), above, {}),
    "a large mask": (MASK, "sigmoid", (3, 4), above, {"thresholding": 0.2}),
    "a small mask": (MASK, "sigmoid", (2, 3, 2), above, {"thresholding": 0.7}),
    "a mask of other numbers": (MASK, "", (1, 3, 4), above, {"thresholding": 0.1}),
    "regions": (REGIONS, "", (3, 4, 5), pixels_of_class, {}),
    "regions of a class": (REGIONS, "softmax", (3, 4, 5), pixels_of_class, {"target": 1}),
    "regions along a line": (REGIONS, "", (3, 16), pixels_of_class, {}),
    "the last token": (TOKEN, "", (6, 9), token, {}),
    "a token": (TOKEN, "", (6, 9), token, {"position": 2}),
    "a token from the end": (TOKEN, "", (6, 9), token, {"position": -6}),
    "a token that was not predicted": (TOKEN, "", (6, 9), token, {"position": -2, "target": 7}),
    "the first token at the last position": (TOKEN, "", (6, 9), token, {"target": 0}),
    "every label": (LABELS, "", (6, 4), labels, {}),
    "one label everywhere": (LABELS, "softmax, last", (6, 4), labels, {"target": 2}),
    "a label": (LABELS, "", (6, 4), labels, {"position": 1}),
    "a label from the end": (LABELS, "", (6, 4), labels, {"position": -1, "target": 0}),
    "where an answer starts": (SPAN, "", (7,), span, {}),
    "a place": (SPAN, "", (7,), span, {"target": 5}),
    "where an answer starts and ends": (SPAN, "", (7, 2), span, {}),
    "a span": (SPAN, "", (7, 2), span, {"target": (1, 4)}),
}
RIVALLED = [name for name in CASES if CASES[name][0] not in (BINARY, BOXES, MASK, "regression")]
EVERY = {"argvalues": list(product(CASES, SCALERS)), "argnames": ("name", "scaler")}


def outputs(name, dtype=np.float64, count=4):
    """Random outputs for a case, between 0 and 1 where they are probabilities."""
    _, last, shape, _, _ = CASES[name]
    generator = np.random.default_rng(sum(map(ord, name)))
    low = 0.0 if last in PROBABILITIES else -1.0
    return generator.uniform(low, 1.0, (count, *shape)).astype(dtype)


def explained(name, a):
    units, asked = CASES[name][3:]
    return units(a, **asked)


def shared(a, units, scaler):
    """Equal parts of the scaler, or the outputs' own values."""
    relevance = np.zeros_like(a)
    for unit in units:
        relevance[unit] = a[unit] if scaler is None else scaler / len(units)
    return relevance


def start(name, values, scaler, **settings):
    task, last, _, _, asked = CASES[name]
    return started(values, task, last, scaler=scaler, **{**asked, **settings})


@pytest.mark.parametrize(**EVERY)
def test_every_row_of_the_table(name, scaler):
    values = outputs(name)
    assert all(explained(name, a) for a in values), "no mask may be empty here"
    expected = [shared(a, explained(name, a), scaler) for a in values]
    found = start(name, values, scaler)
    np.testing.assert_allclose(found.relevance, expected, rtol=1e-14, atol=0)
    if scaler is not None:
        np.testing.assert_allclose(found.relevance.reshape(len(values), -1).sum(axis=1), scaler, rtol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_single_precision_starts_alike(name):
    values = outputs(name, np.float32)
    found = start(name, values, 2.5)
    expected = np.array([shared(a, explained(name, a), 2.5) for a in values])
    assert found.relevance.dtype == np.float32
    np.testing.assert_allclose(found.relevance, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_negative_scaler_turns_every_sign(name):
    values = outputs(name)
    np.testing.assert_array_equal(start(name, values, -1.5).relevance, -start(name, values, 1.5).relevance)


# what speaks against


def class_axis(name, a):
    """The axis along which the other classes lie."""
    return {REGIONS: 0, SPAN: 0}.get(CASES[name][0], int(np.argmax(a.shape)) if a.ndim == 3 else a.ndim - 1)


def others(unit, axis, size):
    return [(*unit[:axis], k, *unit[axis + 1 :]) for k in range(size) if k != unit[axis]]


def opposing(name, a, scaler):
    """The other classes at the same positions, by probability, rescaled to the scaler."""
    axis, units, sizes = class_axis(name, a), explained(name, a), a
    if CASES[name][1] not in PROBABILITIES:
        sizes = np.exp(a) / np.exp(a).sum(axis=axis, keepdims=True)
    relevance = np.zeros_like(a)
    for unit in units:
        for rival in others(unit, axis, a.shape[axis]):
            relevance[rival] = sizes[rival]
    return relevance if scaler is None else relevance * scaler / relevance.sum()


@pytest.mark.parametrize(("name", "scaler"), list(product(RIVALLED, SCALERS)))
def test_all_other_classes_speak_against(name, scaler):
    values = outputs(name)
    pairs = start(name, values, scaler, paired=True).relevance
    speaking, against = pairs[:, 0], pairs[:, 1]
    np.testing.assert_array_equal(speaking, start(name, values, scaler).relevance)
    np.testing.assert_allclose(against, [opposing(name, a, scaler) for a in values], rtol=1e-13, atol=0)
    assert (against >= 0).all()
    assert not (against[speaking != 0]).any()


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize(
    ("task", "last", "other"),
    [
        (BINARY, "sigmoid", lambda a: 1 - a),
        (BINARY, "", lambda a: 1 - 1 / (1 + np.exp(-a))),
        ("auto", "sigmoid", lambda a: 1 - a),
        ("auto", "", lambda a: 0 * a),
        ("regression", "", lambda a: 0 * a),
    ],
)
def test_one_unit_answers_for_both_classes(task, last, other, scaler):
    values = np.array([[0.1], [0.5], [0.8]])
    pairs = started(values, task, last, scaler=scaler, paired=True).relevance
    np.testing.assert_array_equal(pairs[:, 0], values if scaler is None else np.full((3, 1), scaler))
    expected = other(values) * (1 if scaler is None else scaler)
    np.testing.assert_allclose(pairs[:, 1], expected, rtol=1e-14)


@pytest.mark.parametrize("scaler", SCALERS)
def test_against_a_mask_speak_the_complements_of_its_pixels(scaler):
    values = np.array([[[0.9, 0.2], [0.6, 0.75]], [[0.1, 0.2], [0.3, 0.95]]])
    pairs = started(values, MASK, "sigmoid", scaler=scaler, paired=True).relevance
    chosen = values > 0.5
    parts = chosen if scaler is None else scaler * chosen / chosen.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(pairs[:, 1], (1 - values) * parts, rtol=1e-14)


@pytest.mark.parametrize("target", [None, 2])
def test_no_number_of_all_speaks_against_a_box(target):
    pairs = started(np.ones((2, 4)), BOXES, paired=True, target=target).relevance
    assert not pairs[:, 1][pairs[:, 0] != 0].any()
    assert pairs[:, 1].any() == (target is not None)


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "sigmoid, reshaped", "softmax, sliced"])
def test_probabilities_are_not_made_probabilities_again(last):
    values = np.array([[0.6, 0.3, 0.1]])
    against = started(values, CLASSES, last, scaler=None, paired=True).relevance[0, 1]
    np.testing.assert_array_equal(against, [0, 0.3, 0.1])


@pytest.mark.parametrize("last", ["", "log_softmax", "softmax, doubled"])
def test_anything_else_is_made_probabilities_first(last):
    values = np.array([[0.6, 0.3, 0.1]])
    against = started(values, CLASSES, last, scaler=None, paired=True).relevance[0, 1]
    np.testing.assert_allclose(against, [0, *np.exp([0.3, 0.1]) / np.exp([0.6, 0.3, 0.1]).sum()], rtol=1e-14)


def test_rivals_of_a_certain_answer_do_not_vanish():
    values = np.array([[500.0, 1.0, 0.0], [90.0, -900.0, -900.0]], np.float32)
    against = started(values, CLASSES, paired=True).relevance[:, 1]
    e = np.e / (np.e + 1)
    np.testing.assert_allclose(against, [[0, e, 1 - e], [0, 0.5, 0.5]], rtol=1e-6)


def test_nothing_speaks_against_where_no_probability_is_left():
    values = np.array([[1.0, 0.0, 0.0]])
    assert not started(values, CLASSES, "softmax", paired=True).relevance[:, 1].any()


# which unit it was


@pytest.mark.parametrize(
    ("values", "task", "last", "asked", "target"),
    [
        ([[0.3], [0.5], [0.9]], BINARY, "sigmoid", {}, [1, 1, 1]),
        ([[0.3], [0.5], [0.9]], BINARY, "sigmoid, reshaped", {}, [1, 1, 1]),
        ([[-0.1], [0.0], [0.1]], BINARY, "", {}, [1, 1, 1]),
        ([0.2, 0.7], "auto", "sigmoid", {}, [1, 1]),
        ([0.2, 0.7], "auto", "sigmoid", {"target": -2}, [0, 0]),
        ([0.2, 0.7], "auto", "sigmoid", {"target": ()}, [1, 1]),
        ([[0.2], [0.7]], "auto", "sigmoid", {"target": (0,)}, [1, 1]),
        ([[0.2], [0.7]], "auto", "sigmoid", {"target": (-1,)}, [1, 1]),
        ([[0.3], [0.9]], BINARY, "sigmoid", {"target": 1}, [1, 1]),
        ([[1.0, 3.0, 2.0]], CLASSES, "", {}, [1]),
        ([[1.0, 3.0, 2.0]], "auto", "", {}, [1]),
        ([[7.0]], "auto", "", {}, [ALL_UNITS]),
        ([[1.0, 3.0]], BOXES, "", {}, [ALL_UNITS]),
        ([[1.0, 3.0]], BOXES, "", {"target": 1}, [1]),
        ([[[0.7, 0.3]]], MASK, "", {}, [ALL_UNITS]),
        ([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]], REGIONS, "", {}, [0]),
        ([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]], REGIONS, "", {"target": 1}, [1]),
        ([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], TOKEN, "", {}, [3 + 1]),
        ([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], TOKEN, "", {"position": -2, "target": 2}, [2]),
        ([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]], LABELS, "", {}, [ALL_UNITS]),
        ([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]], LABELS, "", {"position": -1}, [2 * 2 + 1]),
        ([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]], LABELS, "", {"position": 1, "target": 0}, [2]),
        ([[1.0, 5.0, 0.0]], SPAN, "", {}, [1]),
        ([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]], SPAN, "", {}, [1 * 3 + 2]),
        ([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]], SPAN, "", {"target": (0, 1)}, [1]),
    ],
)
def test_the_target_says_what_was_explained(values, task, last, asked, target):
    np.testing.assert_array_equal(started(np.array(values), task, last, **asked).target, target)


@pytest.mark.parametrize(("name", "scaler"), [("classes", 1.0), ("a mask", 1.0), ("every label", 2.5)])
def test_nonnegative_starts_are_known_as_such(name, scaler):
    assert start(name, outputs(name), scaler).task.nonnegative
    assert not start(name, outputs(name), None).task.nonnegative


@pytest.mark.parametrize(("thresholding", "mask"), [(0.25, [1, 1, 0]), (0.5, [1, 0, 0]), (0.7, [1, 0, 0])])
def test_a_mask_begins_above_its_threshold(thresholding, mask):
    found = started(np.array([[[0.75, 0.5, 0.25]]]), MASK, "sigmoid", thresholding=thresholding)
    np.testing.assert_array_equal(found.relevance, [[np.array(mask) / sum(mask)]])


# names of tasks


@pytest.mark.parametrize("name", TASKS)
def test_names_of_tasks_are_read_kindly(name):
    assert canonical_task(name) == canonical_task(f" {name.replace('-', '_').upper()} ")


@pytest.mark.parametrize("name", ["", "segmentation", "custom", "unit", "next token please"])
def test_other_names_are_refused_with_the_list(name):
    with pytest.raises(SettingError, match=r"does not exist; there are: auto, .*multi-class-segmentation.*span-qa"):
        canonical_task(name)


@pytest.mark.parametrize("shape", [(), (3, 4), (2, 7), (7, 2, 2)])
def test_spans_need_an_output_of_spans(shape):
    with pytest.raises(SettingError, match=r"\[batch, length, 2\]"):
        started(np.zeros((1, *shape)), SPAN)


@pytest.mark.parametrize("task", [TOKEN, LABELS, REGIONS, MASK])
def test_a_lone_number_is_no_answer_to_a_task_with_places(task):
    with pytest.raises(SettingError, match=rf"task '{task}' does not fit output 'y' \[batch\]"):
        started(np.array([0.7]), task)


# outputs of real models, and the whole way


def simplified(name) -> Graph:
    """The graph of a zoo model, from which the task reads what its output is."""
    model = exported(name)
    lowered = read(model.model).lower({key: (1, *x.shape[1:]) for key, x in model.inputs.items()})
    return simplify(with_float_type(lowered, np.dtype(np.float32))).graph


@pytest.mark.parametrize(
    ("name", "task", "asked", "units"),
    [
        ("lenet", "auto", {}, one_class),
        ("unet", MASK, {"thresholding": 0.6}, above),
        ("unet_classes", REGIONS, {}, pixels_of_class),
        ("bbox_cnn", BOXES, {}, every_or_one),
        ("bert_qa", SPAN, {"target": 4}, span),
        ("bert_tokens", LABELS, {}, labels),
        ("bert_tokens", LABELS, {"position": 3}, labels),
        ("llama", TOKEN, {"position": -3}, token),
        ("gpt", TOKEN, {"target": 5}, lambda a, target: one_class(a, target)),
    ],
)
def test_outputs_of_exported_models(name, task, asked, units):
    graph = simplified(name)
    values = exported(name).torch_outputs[graph.output_names[0]]
    found = started_at(graph, graph.outputs[0], values, task, **asked)
    expected = [shared(a, units(a, **asked), 1.0) for a in values]
    np.testing.assert_allclose(found.relevance, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "probability"), [("unet", True), ("unet_classes", False)])
def test_a_mask_of_probabilities_is_told_from_logits(name, probability):
    graph = simplified(name)
    values = exported(name).torch_outputs[graph.output_names[0]]
    task = MASK if probability else REGIONS
    pairs = started_at(graph, graph.outputs[0], values, task, scaler=None, paired=True).relevance
    sizes = 1 - values if probability else np.asarray(jax.nn.softmax(values, axis=1))
    shown = pairs[:, 1] != 0
    assert shown.any()
    np.testing.assert_allclose(pairs[:, 1][shown], sizes[shown], rtol=1e-5)


@pytest.fixture(scope="module")
def pixels():
    """A model whose output is a picture of two channels: its input, between 0 and 1."""
    return network([node("Sigmoid", ["x"], ["y"])], {"x": (TensorProto.FLOAT, ["batch", 2, 2, 2])})


def test_a_mask_starts_in_equal_parts_all_the_way(pixels):
    x = np.array([[[[1, -1], [-1, -1]], [[2, 3], [-4, 1]]]], np.float32)
    explanation = explain(pixels, x, task=MASK, scaler=2.0)
    np.testing.assert_array_equal(explanation.relevance["x"], np.where(x > 0, 0.5, 0))
    assert explanation.target.tolist() == [ALL_UNITS]


@pytest.mark.parametrize("mode", ["default", "contrastive"])
@pytest.mark.parametrize(
    ("settings", "asked"),
    [({"task": MASK, "thresholding": 0.9}, {}), ({"task": REGIONS, "class_axis": 1}, {"target": 1})],
)
def test_an_empty_mask_names_the_examples(pixels, mode, settings, asked):
    x = np.zeros((4, 2, 2, 2), np.float32)
    x[:, 0] = 1
    x[[0, 2], 1, 0, 0] = 5
    call = Explainer(pixels, mode=mode, **settings)
    with pytest.raises(SettingError, match=r"mask of examples \[1, 3\] is empty.*'y'.*(thresholding|target)"):
        call(x, **asked)
    assert len(call(x[[0, 2]], **asked)) == 2
