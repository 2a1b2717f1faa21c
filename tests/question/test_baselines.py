"""Reference inputs, and what attributions against them must be; for linear models they are known exactly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from backtrace_jax import MODES, Explainer, SettingError, explain, mode
from backtrace_jax.question.constants import read_baseline
from backtrace_jax.rules import find_mode
from tests.tiny import COUNT, TensorProto, convolutional, images, network, node, random
from tests.zoo.runtime import onnxruntime_outputs

COMPARING = ("deeplift", "integrated-gradients")
WEIGHT, OTHER, TABLE = random(4, 3, seed=1), random(2, 3, seed=2), random(7, 4, seed=3)
X, Z = random(COUNT, 4, seed=4), random(COUNT, 2, seed=5)
IDS = np.random.default_rng(6).integers(0, 7, (COUNT, 5))
BACKGROUND = random(6, 4, seed=7)
TARGET = [2, 0, 1]


@cache
def linear(mode):
    """Y = x WEIGHT + z OTHER, of two inputs."""
    nodes = [
        node("MatMul", ["x", "weight"], ["left"]),
        node("MatMul", ["z", "other"], ["right"]),
        node("Add", ["left", "right"], ["y"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["batch", 4]), "z": (TensorProto.FLOAT, ["batch", 2])}
    return Explainer(network(nodes, inputs, weight=WEIGHT, other=OTHER), mode=mode)


@cache
def alone(mode):
    """Y = x WEIGHT, of one input."""
    inputs = {"x": (TensorProto.FLOAT, ["batch", 4])}
    return Explainer(network([node("MatMul", ["x", "weight"], ["y"])], inputs, weight=WEIGHT), mode=mode)


@cache
def reading(mode):
    """The mean of looked-up rows, times WEIGHT."""
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("ReduceMean", ["rows", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "weight"], ["y"]),
    ]
    inputs = {"ids": (TensorProto.INT64, ["batch", 5])}
    return Explainer(network(nodes, inputs, table=TABLE, weight=WEIGHT, axes=np.array([1])), mode=mode)


def attributed(change, weight):
    """What each entry of a change adds to the target of a linear model."""
    return change * weight.T[TARGET]


@pytest.mark.parametrize("mode", COMPARING)
@pytest.mark.parametrize(
    ("baseline", "reference"),
    [
        (None, 0),
        ("zero", 0),
        ({"x": "zero"}, 0),
        ({"x": None}, 0),
        ({}, 0),
        (BACKGROUND[0], BACKGROUND[0]),
        (BACKGROUND[:1], BACKGROUND[0]),
        (BACKGROUND, BACKGROUND.mean(axis=0)),
        (BACKGROUND[0].tolist(), BACKGROUND[0]),
        ({"x": BACKGROUND.astype(np.float64)}, BACKGROUND.mean(axis=0)),
        (np.arange(4), np.arange(4)),
    ],
)
def test_attributions_of_a_linear_model(mode, baseline, reference):
    found = alone(mode)(X, target=TARGET, baseline=baseline)
    np.testing.assert_allclose(found.relevance["x"], attributed(X - reference, WEIGHT), rtol=1e-5, atol=1e-6)
    assert found.completeness_error.max() <= 1e-5
    assert found.ledger is None


@pytest.mark.parametrize("mode", COMPARING)
@pytest.mark.parametrize(
    ("baseline", "x", "z"),
    [
        ("zero", 0, 0),
        ({"x": BACKGROUND}, BACKGROUND.mean(axis=0), 0),
        ({"z": [0.5, -0.25], "x": BACKGROUND[2]}, BACKGROUND[2], [0.5, -0.25]),
    ],
)
def test_every_input_has_a_reference_of_its_own(mode, baseline, x, z):
    found = linear(mode)((X, Z), target=TARGET, baseline=baseline)
    np.testing.assert_allclose(found.relevance["x"], attributed(X - x, WEIGHT), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.relevance["z"], attributed(Z - z, OTHER), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", COMPARING)
@pytest.mark.parametrize(
    ("baseline", "rows"),
    [
        (None, np.zeros((5, 4))),
        ("zero", np.zeros((5, 4))),
        (np.arange(5), TABLE[:5]),
        ([6, 6, 6, 6, 6], TABLE[[6] * 5]),
        ({"ids": np.full((1, 5), 3, np.uint8)}, TABLE[[3] * 5]),
    ],
)
def test_tokens_compare_with_rows_of_zeros_or_of_a_reference_text(mode, baseline, rows):
    found = reading(mode)(IDS, target=TARGET, baseline=baseline)
    change = (TABLE[IDS] - rows) @ WEIGHT / 5
    expected = change[np.arange(COUNT)[:, None], np.arange(5), np.array(TARGET)[:, None]]
    np.testing.assert_allclose(found.relevance["ids"], expected, rtol=1e-5, atol=1e-6)
    assert found.completeness_error.max() <= 1e-5


@pytest.mark.parametrize("mode", COMPARING)
def test_an_input_compared_with_itself_has_done_nothing(mode):
    x = images()
    found = explain(convolutional(), x[:1], mode=mode, baseline=x[0])
    assert not found.relevance["x"].any()
    np.testing.assert_array_equal(found.completeness_error, 0)
    (text,) = IDS[:1]
    assert not reading(mode)(IDS[:1], target=0, baseline=text).relevance["ids"].any()


@pytest.mark.parametrize("scaler", [1.0, 3.0])
@pytest.mark.parametrize("chosen", ["deeplift", mode("integrated-gradients", steps=2)])
def test_the_completeness_error_is_relative_to_the_change(chosen, scaler):
    """Of a curve, which two steps do not integrate exactly."""
    nodes = [node("Mul", ["x", "x"], ["square"]), node("Mul", ["square", "x"], ["cube"])]
    nodes += [node("Tanh", ["cube"], ["bent"]), node("MatMul", ["bent", "weight"], ["y"])]
    model = network(nodes, {"x": (TensorProto.FLOAT, ["batch", 4])}, weight=WEIGHT)
    found = explain(model, X, mode=chosen, target=TARGET, baseline=BACKGROUND[0], scaler=scaler)
    (there,), (here,) = (onnxruntime_outputs(model, {"x": x}) for x in (X, BACKGROUND[:1]))
    change = scaler * (there - here)[np.arange(COUNT), TARGET]
    expected = np.abs(found.relevance["x"].sum(axis=1) - change) / np.abs(change)
    np.testing.assert_allclose(found.completeness_error, expected, rtol=1e-3, atol=2e-6)
    assert chosen == "deeplift" or found.completeness_error.max() > 1e-2


def test_other_references_of_the_same_kind_compile_nothing():
    call = alone("deeplift")
    call(X, baseline=BACKGROUND)
    before = call._stages.compiled.cache_info().misses
    for baseline in (BACKGROUND[0], BACKGROUND[:2], {"x": BACKGROUND[1]}):
        call(X, baseline=baseline)
    assert call._stages.compiled.cache_info().misses == before


def test_the_reference_does_not_depend_on_the_batch():
    together = alone("integrated-gradients")(X, target=TARGET, baseline=BACKGROUND)
    for i, target in enumerate(TARGET):
        single = alone("integrated-gradients")(X[i : i + 1], target=target, baseline=BACKGROUND)
        assert single.relevance["x"].tobytes() == together.relevance["x"][i : i + 1].tobytes()


# mistakes


@pytest.mark.parametrize("name", [name for name in MODES if name not in COMPARING])
def test_modes_that_compare_with_nothing_take_no_baseline(name):
    chosen = mode(name, low=-1.0, high=1.0) if "low" in MODES[name].defaults else find_mode(name)
    assert read_baseline(None, {"x": X}, chosen) == {}
    with pytest.raises(SettingError, match=f"'{name}' compares with no baseline"):
        read_baseline("zero", {"x": X}, chosen)


@pytest.mark.parametrize(
    ("baseline", "feeds", "words"),
    [
        ({"image": BACKGROUND[0]}, {"x": X}, ["no input is called image", "x"]),
        ({"X": "zero", 3: "zero"}, {"x": X}, ["no input is called X, 3", "there are: x"]),
        (BACKGROUND[0], {"x": X, "z": Z}, ["several inputs", "dict by name (x, z)"]),
        (BACKGROUND[0, :3], {"x": X}, ["'x'", "one example [4]", "[count, 4]"]),
        (BACKGROUND[:, :3], {"x": X}, ["'x'", "one example [4]"]),
        (BACKGROUND[:0], {"x": X}, ["'x'", "one example [4]"]),
        (0.5, {"x": X}, ["'x'", "one example [4]", "0.5"]),
        ("black", {"x": X}, ["'x'", "'zero'", "'black'"]),
        (X > 0, {"x": X}, ["'x'", "one example [4]"]),
        ([[1, 2], [3]], {"x": X}, ["baseline of input 'x' has rows of unequal length"]),
        (np.full(4, np.nan), {"x": X}, ["'x'", "NaN or Inf"]),
        (np.array([BACKGROUND[0], np.full(4, np.inf)]), {"x": X}, ["'x'", "NaN or Inf"]),
        (np.full(4, 1e300), {"x": X}, ["'x'", "does not fit float32"]),
        (IDS, {"ids": IDS}, ["'ids'", "no mean", "one reference text"]),
        (IDS[0] + 0.5, {"ids": IDS}, ["'ids'", "integers of one reference text"]),
        (IDS[0, :3], {"ids": IDS}, ["'ids'", "one example [5]"]),
    ],
)
def test_wrong_baselines(baseline, feeds, words):
    with pytest.raises(SettingError) as caught:
        read_baseline(baseline, feeds, find_mode("deeplift"))
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_a_wrong_baseline_is_named_on_the_way():
    with pytest.raises(SettingError, match=r"baseline of input 'x' must be 'zero', one example \[4\]"):
        alone("deeplift")(X, baseline=X[:, :2])
