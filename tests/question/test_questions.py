"""What is asked of an output: target, rival, position and start, per example, of outputs and of values inside."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import Explainer, SettingError, explain
from tests.starts import started
from tests.tiny import COUNT, WIDTHS, TensorProto, convolutional, images, network, node, random
from tests.zoo import exported

CLASSES, HIDDEN = WIDTHS["classes"], (WIDTHS["hidden"], 3, 3)
LOGITS = random(COUNT, CLASSES, seed=7)
SEQUENCE = random(COUNT, 6, 4, seed=8)


def one_hot(indices, *shape):
    """Ones at an index into each example."""
    result = np.zeros((len(indices), *shape), np.float32)
    for i, index in enumerate(indices):
        result[i][index] = 1
    return result


def refuses(words, call, *arguments, **settings):
    with pytest.raises(SettingError) as caught:
        call(*arguments, **settings)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# targets, one for all or one per example


@pytest.mark.parametrize("target", [[4, 0, 2], np.array([4, 0, 2], np.int32), np.array([4, 0, 2], np.uint8)])
def test_a_target_per_example(target):
    found = started(LOGITS, target=target)
    np.testing.assert_array_equal(found.relevance, one_hot([4, 0, 2], CLASSES))
    np.testing.assert_array_equal(found.target, [4, 0, 2])


@pytest.mark.parametrize("target", [3, np.int64(3), (3,), [3, 3, 3]])
def test_one_target_for_all(target):
    np.testing.assert_array_equal(started(LOGITS, target=target).relevance, one_hot([3] * COUNT, CLASSES))


@pytest.mark.parametrize("task", ["multi-class classification", "bbox-regression"])
def test_a_tuple_indexes_the_axes_of_the_output(task):
    found = started(SEQUENCE, task, target=(4, 1))
    np.testing.assert_array_equal(found.relevance, one_hot([(4, 1)] * COUNT, 6, 4))
    np.testing.assert_array_equal(found.target, 4 * 4 + 1)


@pytest.mark.parametrize("task", ["next-token", "token-classification"])
def test_in_a_sequence_a_tuple_is_position_and_class(task):
    found, apart = started(SEQUENCE, task, target=(4, 1)), started(SEQUENCE, task, target=1, position=4)
    np.testing.assert_array_equal(found.relevance, one_hot([(4, 1)] * COUNT, 6, 4))
    np.testing.assert_array_equal(found.relevance, apart.relevance)
    np.testing.assert_array_equal(found.target, apart.target)


@pytest.mark.parametrize("task", ["next-token", "token-classification"])
def test_a_position_per_example(task):
    found = started(SEQUENCE, task, position=[0, -1, 2], target=[1, 2, 3])
    np.testing.assert_array_equal(found.relevance, one_hot([(0, 1), (5, 2), (2, 3)], 6, 4))


@pytest.mark.parametrize(
    ("task", "values", "target", "words"),
    [
        ("auto", LOGITS, 5, ["target 5", "from -5 to 4"]),
        ("auto", LOGITS, -6, ["target -6", "from -5 to 4"]),
        ("auto", LOGITS, [0, 9, 1], ["target 9", "'y'"]),
        ("auto", LOGITS, [0, 1], ["one integer per example (3)", "[0, 1]"]),
        ("auto", LOGITS, [[0], [1], [2]], ["one integer per example (3)"]),
        ("auto", LOGITS, [[0], [1, 2]], ["target has rows of unequal length"]),
        ("auto", LOGITS, 1.0, ["integer", "1.0"]),
        ("auto", LOGITS, True, ["integer", "True"]),
        ("auto", LOGITS, "cat", ["integer", "'cat'"]),
        ("auto", LOGITS, (0, 1, 2), ["target=(0, 1, 2)", "[5]", "a list, not a tuple"]),
        ("auto", LOGITS, (5,), ["target=(5,)", "[5]"]),
        ("auto", LOGITS, (1.5,), ["target=(1.5,)"]),
        ("binary-classification", LOGITS[:, :1], 2, ["target 2", "from -2 to 1"]),
        ("regression", LOGITS[:, :1], 1, ["target 1", "from -1 to 0"]),
        ("auto", SEQUENCE, None, ["[6, 4]", "no single class", "target=(0..5, 0..3)", "next-token"]),
        ("auto", SEQUENCE, 3, ["[6, 4]", "target=(0..5, 0..3)"]),
        ("regression", SEQUENCE, 3, ["[6, 4]", "target=(0..5, 0..3)"]),
        ("auto", SEQUENCE, (6, 0), ["target=(6, 0)", "[6, 4]"]),
        ("auto", SEQUENCE, (-7, 0), ["target=(-7, 0)", "[6, 4]"]),
        ("next-token", SEQUENCE, 4, ["target 4", "from -4 to 3"]),
        ("next-token", SEQUENCE, (6, 0), ["target=(6, 0)", "[6, 4]"]),
        ("binary-segmentation", SEQUENCE, 0, ["whole mask", "target="]),
        ("binary-segmentation", SEQUENCE, (0, 0), ["whole mask", "target="]),
        ("multi-class-segmentation", SEQUENCE, 6, ["target 6", "from -6 to 5"]),
        ("multi-class-segmentation", SEQUENCE, (1, 2), ["target=(1, 2)", "takes a class"]),
        ("span-qa", LOGITS, 5, ["target 5", "from -5 to 4"]),
        ("span-qa", SEQUENCE[:, :, :2], 3, ["target=(start, end)"]),
        ("span-qa", SEQUENCE[:, :, :2], (1, 6), ["target=(1, 6)", "[6, 6]"]),
    ],
)
def test_wrong_targets(task, values, target, words):
    refuses(words, started, values, task, target=target)


@pytest.mark.parametrize(
    ("task", "values", "position", "words"),
    [
        ("next-token", SEQUENCE, 6, ["position 6", "from -6 to 5"]),
        ("next-token", SEQUENCE, -7, ["position -7", "from -6 to 5"]),
        ("token-classification", SEQUENCE, [0, 1], ["position", "one integer per example (3)"]),
        ("token-classification", SEQUENCE, 0.5, ["position", "integer"]),
        ("auto", LOGITS, 3, ["position=", "'classification' has no positions"]),
        ("span-qa", LOGITS, 0, ["position=", "'span-qa' has no positions"]),
    ],
)
def test_wrong_positions(task, values, position, words):
    refuses(words, started, values, task, position=position)


def test_a_position_is_named_once():
    refuses(["(4, 1)", "leave position= out"], started, SEQUENCE, "next-token", target=(4, 1), position=4)


# rivals


@pytest.mark.parametrize("scaler", [1.0, 2.5, None])
@pytest.mark.parametrize(
    ("task", "values", "asked", "fors", "rivals"),
    [
        ("auto", LOGITS, {"target": 3, "against": 1}, [3] * 3, [1] * 3),
        ("auto", LOGITS, {"target": [3, 4, 0], "against": [0, 1, 4]}, [3, 4, 0], [0, 1, 4]),
        ("next-token", SEQUENCE, {"target": 2, "position": 1, "against": 0}, [(1, 2)] * 3, [(1, 0)] * 3),
        ("token-classification", SEQUENCE, {"target": (5, 2), "against": 3}, [(5, 2)] * 3, [(5, 3)] * 3),
        ("auto", SEQUENCE, {"target": (5, 2), "against": (0, 3)}, [(5, 2)] * 3, [(0, 3)] * 3),
        ("span-qa", LOGITS, {"target": 0, "against": 4}, [0] * 3, [4] * 3),
    ],
)
def test_why_this_rather_than_that(task, values, asked, fors, rivals, scaler):
    sizes = values if scaler is None else scaler
    speaking, against = (sizes * one_hot(units, *values.shape[1:]) for units in (fors, rivals))
    apart = started(values, task, scaler=scaler, **asked)
    np.testing.assert_array_equal(apart.relevance, speaking - against)
    assert not apart.task.nonnegative
    pairs = started(values, task, scaler=scaler, paired=True, **asked).relevance
    np.testing.assert_array_equal(pairs, np.stack([speaking, against], axis=1))


def test_a_rival_region_lies_at_the_same_pixels():
    values = np.array([[[3.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    apart = started(values, "multi-class-segmentation", against=2).relevance
    np.testing.assert_array_equal(apart, [[[0.5, 0, 0.5], [0, 0, 0], [-0.5, 0, -0.5]]])


def test_a_rival_label_is_the_same_everywhere():
    apart = started(SEQUENCE, "token-classification", target=0, against=3).relevance
    np.testing.assert_allclose(apart, np.broadcast_to(np.array([1, 0, 0, -1]) / 6, (COUNT, 6, 4)), rtol=1e-6)


@pytest.mark.parametrize(
    ("task", "values", "asked", "words"),
    [
        ("auto", LOGITS, {"against": 5}, ["against 5", "from -5 to 4"]),
        ("auto", LOGITS, {"against": [0, 1]}, ["against", "one integer per example (3)"]),
        ("auto", LOGITS, {"against": "dog"}, ["against", "integer", "'dog'"]),
        ("auto", LOGITS, {"target": 3, "against": 3}, ["against=3", "target itself"]),
        ("auto", LOGITS, {"target": [0, 1, 2], "against": [1, 2, 2]}, ["target itself"]),
        ("binary-classification", LOGITS[:, :1], {"against": 7}, ["against=", "several classes"]),
        ("bbox-regression", LOGITS, {"target": 1, "against": 0}, ["against=", "several classes", "regression"]),
        ("binary-segmentation", SEQUENCE, {"against": 0}, ["against=", "binary-segmentation"]),
        ("span-qa", SEQUENCE[:, :, :2], {"against": 2}, ["against=", "span-qa"]),
        ("auto", SEQUENCE, {"target": (5, 2), "against": 3}, ["[6, 4]", "against=(0..5, 0..3)"]),
        ("next-token", SEQUENCE, {"against": (5, 2)}, ["against=(5, 2)", "takes a class"]),
    ],
)
def test_wrong_rivals(task, values, asked, words):
    refuses(words, started, values, task, **asked)


# starts of one's own


def test_a_start_of_ones_own_travels_as_it_is():
    given = random(COUNT, 6, 4, seed=10)
    found = started(SEQUENCE, start=given, scaler=7.0)
    np.testing.assert_array_equal(found.relevance, given)
    assert found.task.name == "custom"
    assert not found.task.nonnegative


def test_in_pairs_its_negative_part_speaks_against():
    given = np.array([[1.5, -2.0, 0.0], [0.0, 0.0, -1.0]])
    found = started(np.zeros((2, 3)), start=given, paired=True)
    np.testing.assert_array_equal(found.relevance[:, 0], [[1.5, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.relevance[:, 1], [[0, 2.0, 0], [0, 0, 1.0]])
    assert found.task.nonnegative


@pytest.mark.parametrize("given", [lambda a: 2 * a, [[1, 2, 3]], np.array([[1, 2, 3]], np.int8)])
def test_a_start_may_be_a_function_or_of_another_type(given):
    values = np.array([[4.0, 5.0, 6.0]], np.float32)
    expected = given(values) if callable(given) else [[1, 2, 3]]
    np.testing.assert_array_equal(started(values, start=given).relevance, expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((COUNT, 4)), ["[3, 5]", "[3, 4]", "'y'"]),
        (np.zeros(CLASSES), ["[3, 5]", "[5]"]),
        (np.zeros((COUNT, 1, CLASSES)), ["[3, 5]", "[3, 1, 5]"]),
        (np.full((COUNT, CLASSES), np.inf), ["finite"]),
        (np.full((COUNT, CLASSES), 1e300), ["finite", "float64"]),
        ([[1, 2], [3]], ["start has rows of unequal length"]),
        (np.full((COUNT, CLASSES), "a"), ["finite array"]),
        (LOGITS > 0, ["finite array", "bool"]),
        (lambda outputs: outputs[0], ["[3, 5]", "found float32 [5]"]),
        (lambda outputs: None, ["[3, 5]", "object"]),
    ],
)
def test_wrong_starts(given, words):
    refuses(words, started, LOGITS, start=given)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": 3}, ["start=", "leave target= out"]),
        ({"against": 3}, ["against=", "custom"]),
        ({"position": 0}, ["position=", "custom"]),
    ],
)
def test_a_start_leaves_nothing_to_ask(asked, words):
    refuses(words, started, LOGITS, start=np.ones((COUNT, CLASSES)), **asked)


# values inside the model


def test_the_most_active_unit_of_an_inner_value():
    values = random(COUNT, 4, 3, 3, seed=9)
    found = started(values, inner=True)
    places = [np.unravel_index(a.argmax(), a.shape) for a in values]
    np.testing.assert_array_equal(found.relevance, one_hot(places, 4, 3, 3))
    np.testing.assert_array_equal(found.target, values.reshape(COUNT, -1).argmax(axis=1))


@pytest.mark.parametrize("values", [random(COUNT, 1), random(COUNT)])
def test_an_inner_value_of_one_unit_is_no_class(values):
    np.testing.assert_array_equal(started(values, last="sigmoid", inner=True).target, 0)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": 3}, ["[6, 4]", "target=(0..5, 0..3)"]),
        ({"target": (6, 0)}, ["target=(6, 0)", "[6, 4]"]),
        ({"target": [(0, 1), (1, 2)]}, ["target=(0..5, 0..3)"]),
    ],
)
def test_wrong_units_of_an_inner_value(asked, words):
    refuses(words, started, SEQUENCE, inner=True, **asked)


# the whole way


@pytest.fixture(scope="module")
def whole():
    """Explains the small convolutional network, and keeps the relevance of its output, which is the start."""
    return Explainer(convolutional(("y", "box")), layers=["y", "hidden"])


def check_books(explanation):
    ledgers = [channel.ledger for channel in explanation.channels.values()] or [explanation.ledger]
    for ledger in ledgers:
        assert ledger.error.max() <= 1e-6
        assert max(node.error.max() for node in ledger.by_node.values()) <= 1e-6


def test_a_rival_gives_the_difference_of_both(whole):
    apart = whole(images(), target=3, against=[0, 1, 2])
    np.testing.assert_array_equal(apart.layers["y"], one_hot([3] * 3, 5) - one_hot([0, 1, 2], 5))
    np.testing.assert_array_equal(apart.ledger.signed[:, 0], 0)
    np.testing.assert_array_equal(apart.ledger.absolute[:, 0], 2)
    check_books(apart)
    speaking, against = (whole(images(), target=target).relevance["x"] for target in (3, [0, 1, 2]))
    np.testing.assert_allclose(apart.relevance["x"], speaking - against, atol=1e-6)
    assert np.abs(apart.relevance["x"]).max() > 1e-3


def test_in_pairs_the_rival_speaks_against():
    explainer = Explainer(convolutional(), mode="contrastive", layers="y", scaler=2.0)
    pair = explainer(images(), target=3, against=[0, 1, 2])
    np.testing.assert_array_equal(pair.channels["positive"].layers["y"], 2 * one_hot([3] * 3, 5))
    np.testing.assert_array_equal(pair.channels["negative"].layers["y"], 2 * one_hot([0, 1, 2], 5))
    check_books(pair)
    np.testing.assert_allclose([pair.channels[key].ledger.start for key in pair.channels], 2)


def test_targets_one_after_the_other_are_separate_calls(whole):
    targets = [None, 2, [0, 1, 2], (4,)]
    together = whole.each(images(), targets=targets)
    for found, target in zip(together, targets, strict=True):
        alone = whole(images(), target=target)
        assert found.relevance["x"].tobytes() == alone.relevance["x"].tobytes()
        assert found.ledger.signed.tobytes() == alone.ledger.signed.tobytes()
        np.testing.assert_array_equal(found.target, alone.target)
    assert len({found.relevance["x"].tobytes() for found in together}) == len(targets)


def test_targets_one_after_the_other_share_what_else_is_asked(whole):
    (found,) = whole.each(images(), targets=[3], against=1)
    assert found.relevance["x"].tobytes() == whole(images(), target=3, against=1).relevance["x"].tobytes()


@pytest.mark.parametrize("name", ["box", 1])
def test_outputs_by_name_and_by_index(name):
    found = explain(convolutional(("y", "box")), images(), output=name, target=1)
    alone = explain(convolutional(("box",)), images(), target=1)
    assert found.output == "box"
    assert set(found.outputs) == {"y", "box"}
    np.testing.assert_allclose(found.relevance["x"], alone.relevance["x"], rtol=1e-5)
    first = explain(convolutional(("y", "box")), images(), target=1)
    assert np.abs(first.relevance["x"] - found.relevance["x"]).max() > 1e-3


@pytest.mark.parametrize("name", ["hidden", "features.conv"])
def test_relevance_of_a_neuron_is_that_of_a_model_that_ends_there(name):
    found = explain(convolutional(), images(), output=name, target=(2, 1, 0), layers="hidden")
    start = one_hot([(2, 1, 0)] * COUNT, *HIDDEN)
    np.testing.assert_array_equal(found.layers["hidden"], start)
    np.testing.assert_array_equal(found.target, np.ravel_multi_index((2, 1, 0), HIDDEN))
    check_books(found)
    ending = explain(convolutional(("hidden",)), images(), start=start)
    np.testing.assert_allclose(found.relevance["x"], ending.relevance["x"], rtol=1e-6)
    np.testing.assert_array_equal(found.outputs["hidden"], ending.outputs["hidden"])
    outside = np.ones((5, 5), bool)
    outside[1:4, 0:3] = False
    assert not found.relevance["x"][:, :, outside].any(), "beyond what the neuron sees"


def test_the_most_active_neuron_is_explained_unless_another_is_named():
    found = explain(convolutional(), images(), output="active", layers="active")
    most = found.outputs["active"].reshape(COUNT, -1).argmax(axis=1)
    np.testing.assert_array_equal(found.target, most)
    np.testing.assert_array_equal(found.layers["active"].reshape(COUNT, -1), one_hot(most, np.prod(HIDDEN)))


def test_a_module_of_an_exported_model():
    model = exported("lenet")
    found = explain(model.model, model.inputs, output="3", target=(15, 9, 9), layers="3")
    np.testing.assert_array_equal(found.layers["3"], one_hot([(15, 9, 9)] * 3, 16, 10, 10))
    assert (found.ledger.error <= 1e-6).all()


def test_positions_of_a_sequence_see_nothing_but_themselves():
    table, weight = random(7, 4, seed=3), random(4, 5, seed=4)
    nodes = [node("Gather", ["table", "ids"], ["rows"]), node("MatMul", ["rows", "weight"], ["y"])]
    model = network(nodes, {"ids": (TensorProto.INT64, ["batch", 6])}, table=table, weight=weight)
    ids = np.random.default_rng(0).integers(0, 7, (COUNT, 6))
    for task in ("next-token", "token-classification"):
        found = explain(model, ids, task=task, position=[0, 3, -1])
        np.testing.assert_allclose(found.relevance["ids"], one_hot([0, 3, 5], 6), rtol=1e-6)
    places = np.argmax(found.outputs["y"], axis=2)[range(COUNT), [0, 3, 5]]
    np.testing.assert_array_equal(found.target, np.array([0, 3, 5]) * 5 + places)


@pytest.mark.parametrize("output", ["hiden", "features.pool", 2, -1, "x.weight"])
def test_wrong_outputs(output):
    refuses([repr(output), "does not exist", "y, box"], explain, convolutional(("y", "box")), images(), output=output)
