"""What kind of answer an output is: read from the graph for task "auto", and refused where a task does not fit it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax import BacktraceError, Explainer, SettingError, explain
from backtrace_jax.question.answers import read_answer, task_of
from backtrace_jax.question.tasks import QuestionForm, resolve_task
from backtrace_jax.question.words import ALL_UNITS, canonical_task
from tests.engine.graphs import program
from tests.tiny import TensorProto, convolutional, images, network, node, random

SINGLE = np.dtype(np.float32)


def dense(b, x, units):
    return b.emit("matmul", x, random(x.shape[-1], units))


def conv(b, x, channels, *, window=1, strides=1):
    rank = len(x.shape) - 2
    kernel = random(channels, x.shape[1], *(window,) * rank)
    pads = ((window // 2, window // 2),) * rank
    return b.emit("conv", x, kernel, strides=(strides,) * rank, padding=pads, dilation=(1,) * rank, groups=1)


def last(b, x):
    return b.emit("transpose", x, perm=(0, *range(2, len(x.shape)), 1))


def turned(b, x):
    return b.emit("transpose", x, perm=(0, 2, 1))


def softmax(b, x, axis):
    return b.emit("softmax", x, axis=axis)


def rows(b, ids, tokens=11, width=4):
    return b.emit("gather", random(tokens, width), ids, axis=0)


def first(b, x, count):
    """The first channels."""
    return b.emit("slice", x, start=(0,) * len(x.shape), limit=(1, count, *x.shape[2:]), stride=(1,) * len(x.shape))


def placed(b, x, shape):
    """A picture made by a dense layer."""
    size = int(np.prod(x.shape))
    return b.emit("reshape", dense(b, b.emit("reshape", x, shape=(1, size)), int(np.prod(shape))), shape=(1, *shape))


PICTURE, SERIES, FEATURES, IDS = (1, 2, 6, 8), (1, 9, 3), (1, 6), (1, 7)
MASK, REGIONS = "binary-segmentation", "multi-class-segmentation"

KINDS = {
    "logits": (FEATURES, lambda b, x: dense(b, x, 4), "classification"),
    "as many logits as features": (
        FEATURES,
        lambda b, x: dense(b, b.emit("relu", dense(b, x, 9)), 6),
        "classification",
    ),
    "probabilities": (FEATURES, lambda b, x: softmax(b, dense(b, x, 6), 1), "classification"),
    "probabilities of narrowed features": (
        FEATURES,
        lambda b, x: softmax(b, dense(b, dense(b, x, 2), 6), 1),
        "classification",
    ),
    "labels": (FEATURES, lambda b, x: b.emit("sigmoid", dense(b, x, 4)), "classification"),
    "a probability": (FEATURES, lambda b, x: b.emit("sigmoid", dense(b, x, 1)), "classification"),
    "a number": (FEATURES, lambda b, x: dense(b, x, 1), "regression"),
    "an autoencoder": (FEATURES, lambda b, x: dense(b, b.emit("relu", dense(b, x, 2)), 6), "regression"),
    "one of values from 0 to 1": (FEATURES, lambda b, x: b.emit("sigmoid", dense(b, dense(b, x, 2), 6)), "regression"),
    "one of pictures": (
        PICTURE,
        lambda b, x: b.emit("reshape", dense(b, dense(b, b.emit("reshape", x, shape=(1, 96)), 5), 96), shape=PICTURE),
        "regression",
    ),
    "regions": (PICTURE, lambda b, x: softmax(b, conv(b, x, 3), 1), REGIONS),
    "regions, channels last": (PICTURE, lambda b, x: softmax(b, last(b, conv(b, x, 3)), 3), REGIONS),
    "a mask": (PICTURE, lambda b, x: b.emit("sigmoid", conv(b, x, 1)), MASK),
    "a mask, channels last": (PICTURE, lambda b, x: last(b, b.emit("sigmoid", conv(b, x, 1))), MASK),
    "a mask without channels": (
        PICTURE,
        lambda b, x: b.emit("reshape", b.emit("sigmoid", conv(b, x, 1)), shape=(1, 6, 8)),
        MASK,
    ),
    "labels of places": (SERIES, lambda b, x: softmax(b, dense(b, x, 5), 2), "token-classification"),
    "characters": (
        SERIES,
        lambda b, x: turned(b, b.emit("log_softmax", conv(b, turned(b, x), 5), axis=1)),
        "token-classification",
    ),
    "regions of a line": (SERIES, lambda b, x: softmax(b, conv(b, turned(b, x), 5), 1), REGIONS),
    "next tokens": (IDS, lambda b, x: dense(b, rows(b, x), 11), "next-token"),
    "the next token": (
        IDS,
        lambda b, x: dense(b, b.emit("reduce_mean", rows(b, x), axes=(1,), keepdims=False), 11),
        "next-token",
    ),
    "a class of a text": (
        IDS,
        lambda b, x: dense(b, b.emit("reduce_mean", rows(b, x), axes=(1,), keepdims=False), 3),
        "classification",
    ),
    "labels of tokens": (IDS, lambda b, x: softmax(b, dense(b, rows(b, x), 3), 2), "token-classification"),
    "features of tokens": (IDS, lambda b, x: dense(b, rows(b, x), 3), None),
    "boxes": (PICTURE, lambda b, x: b.emit("reshape", conv(b, x, 5), shape=(1, 48, 5)), None),
    "several masks": (PICTURE, lambda b, x: b.emit("sigmoid", conv(b, x, 3)), None),
    "numbers of places": (PICTURE, lambda b, x: conv(b, x, 1), None),
    "a picture with skips": (
        PICTURE,
        lambda b, x: b.emit("add", x, conv(b, b.emit("relu", conv(b, x, 1)), 2)),
        None,
    ),
    "places of features": (FEATURES, lambda b, x: b.emit("reshape", dense(b, x, 24), shape=(1, 2, 3, 4)), None),
    "steps of features": (FEATURES, lambda b, x: b.emit("reshape", dense(b, x, 24), shape=(1, 8, 3)), None),
    "places of a picture": (PICTURE, lambda b, x: placed(b, x, (3, 6, 8)), None),
    "places of a picture, channels last": (PICTURE, lambda b, x: placed(b, x, (6, 8, 3)), None),
    "places of a square": ((1, 3, 3, 3), lambda b, x: placed(b, x, (3, 3, 3)), None),
    "regions less one": (PICTURE, lambda b, x: first(b, conv(b, x, 4, strides=2), 3), None),
    "regions joined": (PICTURE, lambda b, x: b.emit("concat", conv(b, x, 1), conv(b, x, 2), axis=1), None),
    "next tokens of a padded table": (
        IDS,
        lambda b, x: last(b, first(b, last(b, dense(b, rows(b, x), 12)), 11)),
        "next-token",
    ),
}


def answer(name):
    shape, build, _ = KINDS[name]
    dtype = np.dtype(np.int64) if shape == IDS else SINGLE
    graph = program(lambda b, x: {"y": build(b, x)}, x=(shape, dtype)).graph
    return read_answer(graph, graph.outputs[0])


@pytest.mark.parametrize("name", KINDS)
def test_auto_reads_what_the_output_is(name):
    found = answer(name)
    assert task_of(found) == KINDS[name][2]
    if task_of(found):
        assert resolve_task("auto", found).name == KINDS[name][2]


@pytest.mark.parametrize(
    ("task", "name", "reason"),
    [
        ("next-token", "logits", "no positions"),
        ("next-token", "probabilities", "no positions"),
        ("token-classification", "labels", "no positions"),
        ("token-classification", "regions", "no positions"),
        ("binary-segmentation", "logits", "no mask"),
        ("binary-segmentation", "a number", "no mask"),
        ("binary-segmentation", "regions", "exclude each other"),
        ("multi-class-segmentation", "probabilities", "no classes at every place"),
        ("multi-class-segmentation", "a mask", "no classes at every place"),
        ("bbox-regression", "probabilities", "class probabilities"),
        ("regression", "characters", "class probabilities"),
        ("span-qa", "logits", "no span"),
        ("span-qa", "features of tokens", "no span"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(task, name, reason):
    with pytest.raises(SettingError, match=f"task '{canonical_task(task)}' does not fit output .*{reason}") as caught:
        resolve_task(task, answer(name))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("task", "name", "axis"),
    [
        (REGIONS, "regions", 0),
        (REGIONS, "regions, channels last", 2),
        ("token-classification", "characters", 1),
        ("token-classification", "regions of a line", 0),
        ("token-classification", "features of tokens", 1),
        ("next-token", "next tokens", 1),
        (REGIONS, "places of a picture", 0),
        (REGIONS, "places of a picture, channels last", 2),
        (REGIONS, "regions less one", 0),
        (REGIONS, "regions joined", 0),
        ("next-token", "next tokens of a padded table", 1),
    ],
)
def test_classes_lie_where_the_graph_says(task, name, axis):
    found = answer(name)
    place = resolve_task(task, found).place
    assert place.axis == axis
    assert place.classes == found.shape[axis]
    value = jnp.arange(found.units).reshape(1, *found.shape)
    matrix = np.asarray(place.matrix(value))
    np.testing.assert_array_equal(matrix, np.moveaxis(value[0], axis, -1).reshape(matrix.shape))
    np.testing.assert_array_equal(place.back(jnp.stack([matrix, -matrix]), value.shape), np.stack([value, -value]))
    if len(found.shape) == 2:
        flat = jnp.arange(found.units)
        np.testing.assert_array_equal(value.reshape(-1)[np.asarray(place.flat(flat))], matrix.reshape(-1))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (REGIONS, "places of features"),
        (REGIONS, "places of a square"),
        (REGIONS, "steps of features"),
        ("token-classification", "steps of features"),
        ("next-token", "steps of features"),
    ],
)
def test_an_axis_of_classes_that_nothing_tells_is_asked_back(task, name):
    found = answer(name)
    with pytest.raises(SettingError, match=r"does not tell which axis .* class_axis=1 .*class_axis=-1 ") as caught:
        resolve_task(task, found)
    assert len(str(caught.value)) <= 300
    for axis in (1, -1):
        assert resolve_task(task, found, class_axis=axis).place.axis == axis % (len(found.shape) + 1) - 1


@pytest.mark.parametrize(
    ("name", "axis", "task"),
    [
        ("places of features", -1, REGIONS),
        ("places of features", 1, REGIONS),
        ("steps of features", 2, "token-classification"),
        ("steps of features", 1, REGIONS),
        ("several masks", 1, REGIONS),
    ],
)
def test_the_axis_of_the_classes_says_what_the_answer_is(name, axis, task):
    assert resolve_task("auto", answer(name), class_axis=axis).name == task


@pytest.mark.parametrize(
    ("task", "name", "axis", "words"),
    [
        ("auto", "logits", 1, "task 'classification' has no classes along that axis"),
        (MASK, "several masks", 1, "'binary-segmentation' has no classes along that axis"),
        ("regression", "places of features", -1, "'regression' has no classes along that axis"),
        (REGIONS, "regions", 0, "there are 1 to 3"),
        (REGIONS, "regions", 4, "there are 1 to 3"),
        (REGIONS, "regions", -4, "there are 1 to 3"),
        (REGIONS, "a mask", 1, "no classes at every place"),
    ],
)
def test_an_axis_that_holds_no_classes_is_refused(task, name, axis, words):
    with pytest.raises(SettingError, match=words) as caught:
        resolve_task(task, answer(name), class_axis=axis)
    assert len(str(caught.value)) <= 300


def test_questions_without_classes_are_asked_beside_the_axis():
    found = answer("places of features")
    for form in (QuestionForm(unit=True), QuestionForm(custom=True)):
        assert resolve_task("auto", found, form, class_axis=-1).place.axis is None


def test_a_named_unit_needs_no_task():
    for name in ("regions", "a mask", "boxes"):
        assert resolve_task("auto", answer(name), QuestionForm(unit=True)).name == "classification"


# the whole way


def recogniser():
    """Classes at every step of a line, classes last, as recognisers of text end."""
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("LogSoftmax", ["z"], ["y"], axis=-1)]
    return network(nodes, {"x": (TensorProto.FLOAT, ["batch", 5, 3])}, w=random(3, 4, seed=2))


def test_a_character_takes_one_argument():
    x = random(2, 5, 3, seed=1)
    found = explain(recogniser(), x, position=3)
    assert found.fingerprint["task"] == "token-classification"
    assert "task='token-classification'" in repr(found)
    assert found.relevance["x"][:, 3].any()
    assert not np.delete(found.relevance["x"], 3, axis=1).any()
    np.testing.assert_array_equal(found.target, 3 * 4 + found.outputs["y"][:, 3].argmax(axis=1))


def segmenter(weight):
    """Features to [2, 3, 4] by a dense layer and a Reshape, behind which nothing tells which axis holds the classes."""
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Reshape", ["z", "shape"], ["y"])]
    return network(nodes, {"x": (TensorProto.FLOAT, ["batch", 6])}, w=weight, shape=np.array([0, 2, 3, 4]))


@pytest.mark.parametrize(("class_axis", "axis"), [(1, 1), (2, 2), (-1, 3)])
@pytest.mark.parametrize("target", [None, 1])
def test_regions_are_explained_along_the_axis_that_is_named(class_axis, axis, target):
    weight, x = random(6, 24, seed=21), random(3, 6, seed=22)
    call = Explainer(segmenter(weight), task=REGIONS, class_axis=class_axis, mode="lrp-epsilon", dtype="float64")
    found = call(x, target=target)
    assert f"task='multi-class-segmentation', class_axis={axis}," in repr(found)
    for i, row in enumerate(x.astype(float)):
        contributions = (row[:, None] * weight).reshape(6, 2, 3, 4)
        winners = contributions.sum(axis=0).argmax(axis=axis - 1)
        wanted = np.bincount(winners.reshape(-1)).argmax() if target is None else target
        start = np.expand_dims(winners == wanted, axis - 1) * (np.indices((2, 3, 4))[axis - 1] == wanted)
        expected = (contributions / contributions.sum(axis=0) * start / start.sum()).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(found.relevance["x"][i], expected, rtol=1e-6)
        assert found.target[i] == wanted


def test_regions_without_an_axis_are_refused_before_anything_is_compiled():
    call = Explainer(segmenter(random(6, 24)), task=REGIONS)
    with pytest.raises(SettingError, match="class_axis="):
        call(random(3, 6))
    assert not call._stages.compiled.cache_info().misses


def detector():
    """Boxes and scores of four places, [batch, anchors, values], without a softmax."""
    nodes = [
        node("Conv", ["x", "w"], ["z"], strides=[2, 2]),
        node("Reshape", ["z", "shape"], ["flat"]),
        node("Transpose", ["flat"], ["y"], perm=[0, 2, 1]),
    ]
    shape = np.array([0, 6, -1])
    return network(nodes, {"x": (TensorProto.FLOAT, ["batch", 1, 4, 4])}, w=random(6, 1, 2, 2), shape=shape)


def test_what_is_open_is_asked_back_with_the_one_argument_that_helps():
    x, call = random(1, 1, 4, 4), Explainer(detector())
    for asked in ({}, {"target": 4}):
        with pytest.raises(SettingError, match=r"target=\(0\.\.3, 0\.\.5\)") as caught:
            call(x, **asked)
        assert len(str(caught.value)) <= 300
    assert not call._stages.compiled.cache_info().misses, "said before anything was compiled"
    found = call(x, target=(2, 4)).relevance["x"]
    assert found[..., 2:, :2].any()
    assert not found[..., :2, :].any()
    assert not found[..., 2:, 2:].any()


@pytest.mark.parametrize(
    "asked",
    [
        {"target": 1, "against": 1},
        {"target": 7},
        {"position": 50},
        {"start": np.zeros((3, 9))},
        {"start": np.full((3, 5), np.nan)},
    ],
)
def test_mistakes_in_a_question_are_said_before_anything_is_compiled(asked):
    call = Explainer(convolutional())
    with pytest.raises(BacktraceError) as caught:
        call(images(), **asked)
    assert len(str(caught.value)) <= 300
    assert not call._stages.compiled.cache_info().misses


@pytest.mark.parametrize("task", ["next-token", "binary-segmentation"])
def test_a_wrong_task_is_said_before_anything_is_compiled(task):
    call = Explainer(convolutional(), task=task)
    with pytest.raises(SettingError, match="does not fit"):
        call(images())
    assert not call._stages.compiled.cache_info().misses


# class 0 of a single unit


def binary(last="Sigmoid"):
    """One unit, after a hidden layer."""
    nodes = [
        node("Gemm", ["x", "w", "b"], ["z"]),
        node("Relu", ["z"], ["h"]),
        node("Gemm", ["h", "v", "c"], ["a"]),
        node(last, ["a"], ["y"]),
    ]
    weights = {"w": random(6, 8, seed=3), "b": random(8, seed=4), "v": random(8, 1, seed=5), "c": random(1, seed=6)}
    return network(nodes, {"x": (TensorProto.FLOAT, ["batch", 6])}, **weights)


ROWS = random(4, 6, seed=7)


@pytest.mark.parametrize("scaler", [1.0, 2.5, None])
@pytest.mark.parametrize(
    "mode", ["default", "lrp-epsilon", "lrp-epsilon-plus", "attnlrp", "gradient", "gradient-x-input", "deeplift"]
)
def test_class_0_is_the_reverse_of_class_1(mode, scaler):
    call = Explainer(binary(), mode=mode, scaler=scaler)
    zero, one = (call(ROWS, target=k) for k in (0, 1))
    assert np.abs(one.relevance["x"]).max() > 1e-4
    np.testing.assert_array_equal(zero.relevance["x"], -one.relevance["x"])
    assert zero.target.tolist() == [0] * 4
    if zero.ledger is not None:
        value = one.outputs["y"][:, 0] if scaler is None else scaler
        np.testing.assert_allclose(zero.ledger.start, np.full(4, -1.0) * value, rtol=1e-6)
        assert zero.ledger.error.max() < 1e-6


def test_class_0_changes_places_in_pairs():
    call = Explainer(binary(), mode="contrastive", dtype="float64")
    zero, one = (call(ROWS, target=k) for k in (0, 1))
    np.testing.assert_allclose(zero.positive["x"], one.negative["x"], rtol=1e-12)
    np.testing.assert_allclose(zero.negative["x"], one.positive["x"], rtol=1e-12)
    np.testing.assert_allclose(zero.channels["negative"].ledger.start, 1)
    np.testing.assert_allclose(zero.channels["positive"].ledger.start, 1 - one.outputs["y"][:, 0], rtol=1e-12)


@pytest.mark.parametrize("mode", ["default", "gradient-x-input", "contrastive"])
def test_the_target_reported_is_the_one_explained(mode):
    """Whatever names the unit starts at it, as no target does; what is reported, asked again, gives the same bytes."""
    call = Explainer(binary(), mode=mode)
    open_, zero = call(ROWS), call(ROWS, target=0)
    for target in (1, -1, (0,), (-1,), open_.target, [1, -1, 1, -1]):
        found = call(ROWS, target=target)
        np.testing.assert_array_equal(found.relevance["x"], open_.relevance["x"])
        assert found.target.tolist() == [1] * 4
    again = call(ROWS, target=zero.target)
    np.testing.assert_array_equal(again.relevance["x"], zero.relevance["x"])


def test_magnitudes_of_a_reversed_start_are_not_negative():
    for target in (-2, [0, -2, 1, -1], np.array([-2, 0, 1, 1], np.int8)):
        found = explain(binary(), ROWS, target=target)
        reversed_ = np.isin(np.broadcast_to(target, 4), (0, -2))
        np.testing.assert_allclose(found.ledger.signed[:, 0], np.where(reversed_, -1.0, 1.0))
        np.testing.assert_allclose(found.ledger.absolute[:, 0], 1)


def test_class_0_gets_its_own_rectified_gradient():
    """Guided backpropagation is not odd in what it starts with: class 0 is walked, not class 1 turned around."""
    call = Explainer(binary(), mode="guided-backprop", dtype="float64")
    w, v, c = (random(*shape, seed=seed).astype(float) for shape, seed in (((6, 8), 3), ((8, 1), 5), ((1,), 6)))
    z = ROWS.astype(float) @ w + random(8, seed=4)
    p = 1 / (1 + np.exp(-(np.maximum(z, 0) @ v + c)))
    for k, sign in ((0, -1), (1, 1)):
        back = np.where(z > 0, np.maximum(sign * p * (1 - p) * v.T, 0), 0)
        np.testing.assert_allclose(call(ROWS, target=k).relevance["x"], back @ w.T, rtol=1e-6, atol=1e-12)


def test_a_class_per_example_and_the_predicted_one():
    call = Explainer(binary(), mode="lrp-epsilon")
    mixed, one, left_open = call(ROWS, target=[0, 1, 1, 0]), call(ROWS, target=1), call(ROWS)
    np.testing.assert_array_equal(mixed.relevance["x"], one.relevance["x"] * np.array([[-1], [1], [1], [-1]]))
    np.testing.assert_array_equal(left_open.relevance["x"], one.relevance["x"])
    np.testing.assert_array_equal(left_open.target, [1] * 4)
    assert (one.outputs["y"] < 0.5).any()


def test_class_0_of_several_compiles_nothing_new():
    call = Explainer(convolutional())
    for target in (None, 3, 0, -5, [0, 1, 2]):
        call(images(), target=target)
    assert call._stages.compiled.cache_info().misses == 1
    np.testing.assert_array_equal(call(images(), target=-5).target, 0)


# no scaler: the output's own value, or the derivative itself


@pytest.mark.parametrize("mode", ["gradient", "gradient-x-input", "integrated-gradients", "deeplift", "smoothgrad"])
def test_without_a_scaler_derivatives_are_plain(mode):
    plain, one = (explain(convolutional(), images(), mode=mode, scaler=scaler, target=2) for scaler in (None, 1.0))
    np.testing.assert_array_equal(plain.relevance["x"], one.relevance["x"])


@pytest.mark.parametrize("mode", ["integrated-gradients", "deeplift"])
def test_completeness_is_judged_against_the_true_change(mode):
    found = explain(convolutional(), images(), mode=mode, scaler=None, target=2, dtype="float64")
    there = explain(convolutional(), 0 * images(), dtype="float64").outputs["y"][:, 2]
    change = found.outputs["y"][:, 2] - there
    total = found.relevance["x"].sum(axis=(1, 2, 3))
    np.testing.assert_allclose(total, change, rtol=1e-3)
    np.testing.assert_allclose(found.completeness_error, np.abs(total - change) / np.abs(change), atol=1e-9)


def test_without_a_scaler_every_quantity_has_its_own_derivative():
    found = explain(convolutional(("box",)), images(), task="regression", scaler=None, mode="gradient")
    each = [explain(convolutional(("box",)), images(), mode="gradient", target=k).relevance["x"] for k in (0, 1)]
    np.testing.assert_allclose(found.relevance["x"], each[0] + each[1], atol=1e-5)
    assert (found.target == ALL_UNITS).all()


def test_without_a_scaler_relevance_modes_hand_out_the_output():
    found = explain(convolutional(), images(), scaler=None, target=2)
    np.testing.assert_allclose(found.ledger.start, found.outputs["y"][:, 2], rtol=1e-6)
