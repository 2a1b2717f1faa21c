"""Every operand that follows from the inputs counts: derivatives against differences, relevance or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator

from backtrace_jax import explain
from backtrace_jax.errors import UnsupportedError
from tests.importers.explaining import network

X = np.array([[0.7, -1.3, 2.2, 0.45]])


def node(op_type, operands, result, **settings):
    return helper.make_node(op_type, operands, [result], **settings)


CASES = {
    "2**x": ([node("Pow", ["two", "x"], "p"), node("Add", ["p", "x"], "y")], X, True),
    "x**x": ([node("Pow", ["x", "x"], "y")], np.abs(X), False),
    "|x|**(x W)": ([node("Abs", ["x"], "a"), node("MatMul", ["x", "W"], "e"), node("Pow", ["a", "e"], "y")], X, False),
    "fmod": ([node("Mod", ["x", "two"], "m", fmod=1), node("Add", ["m", "x"], "y")], X * 3, True),
    "fmod by x": ([node("Mod", ["c", "x"], "y", fmod=1)], X, True),
    "determinant": (
        [node("Reshape", ["x", "square"], "r"), node("Det", ["r"], "d"), node("Add", ["d", "x"], "y")], X, False
    ),
    "computed slope": ([node("MatMul", ["x", "W"], "s"), node("PRelu", ["x", "s"], "y")], X, False),
    "computed norm": (
        [node("MatMul", ["x", "W"], "s"), node("ReduceSum", ["s", "first"], "t", keepdims=0),
         node("LayerNormalization", ["x", "t"], "y")], X, True
    ),
}  # fmt: skip
KNOWN = {
    "two": np.array(2.0), "log": np.log(np.array(2.0)), "c": np.array([5.3, 4.1, -7.7, 3.0]),
    "square": np.array([1, 2, 2]),
    "first": np.array([0]), "W": np.random.default_rng(2).normal(size=(4, 4)),
}  # fmt: skip


def modelled(nodes, x):
    read = {name for each in nodes for name in each.input}
    model = network(nodes, {"x": x}, **{name: array for name, array in KNOWN.items() if name in read})
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(x.dtype)
    return model


def differences(model, x, start):
    """Central differences of the reference implementation's answer, weighed by the start."""
    reference, step = ReferenceEvaluator(model), 1e-6
    ends = [x + sign * step * np.eye(x.size)[:, None] for sign in (1, -1)]
    high, low = ([(reference.run(None, {"x": each})[0] * start).sum() for each in end] for end in ends)
    return (np.array(high) - np.array(low)).reshape(x.shape) / (2 * step)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_pass_through_every_operand(name):
    nodes, x, _ = CASES[name]
    model = modelled(nodes, x)
    answer = ReferenceEvaluator(model).run(None, {"x": x})[0]
    start = np.linspace(0.4, 1.9, answer.size).reshape(answer.shape)
    settings = {"start": start, "dtype": "float64", "scaler": None}
    found = explain(model, {"x": x}, mode="gradient", **settings)
    np.testing.assert_allclose(found.relevance["x"], differences(model, x, start), rtol=1e-5, atol=1e-6)


GRIDDED = [
    node("MatMul", ["x", "to_image"], "i"), node("Reshape", ["i", "image"], "image_"),
    node("MatMul", ["x", "to_grid"], "g"), node("Reshape", ["g", "grid"], "grid_"),
    node("GridSample", ["image_", "grid_"], "y", mode="linear"),
]  # fmt: skip


def gridded():
    """A sampler whose grid follows from the input, as in spatial transformers (Jaderberg et al. 2015)."""
    maps = {"to_image": KNOWN["W"] @ np.eye(4, 6), "to_grid": KNOWN["W"] @ np.ones((4, 8)) / 9 + np.eye(4, 8) / 3}
    shapes = {"image": np.array([1, 1, 2, 3]), "grid": np.array([1, 2, 2, 2])}
    model = network(GRIDDED, {"x": X}, **maps, **shapes)
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(X.dtype)
    return model, maps


def test_derivatives_pass_through_a_grid():
    model, maps = gridded()
    start = np.array([[[[0.4, 0.9], [1.4, -1.9]]]])
    x = torch.tensor(X, requires_grad=True)
    image, grid = ((x @ torch.tensor(array)) for array in maps.values())
    read = torch.nn.functional.grid_sample(image.reshape(1, 1, 2, 3), grid.reshape(1, 2, 2, 2), align_corners=False)
    (read * torch.tensor(start)).sum().backward()
    settings = {"start": start, "dtype": "float64", "scaler": None}
    found = explain(model, {"x": X}, mode="gradient", **settings)
    np.testing.assert_allclose(found.relevance["x"], x.grad.numpy(), rtol=1e-9, atol=1e-12)
    with pytest.raises(UnsupportedError, match=r"mode 'default' has no rule for 'sample'.*take 'gradient'"):
        explain(model, {"x": X}, **settings)


@pytest.mark.parametrize("name", [name for name, (_, _, shared) in CASES.items() if not shared])
def test_relevance_modes_refuse_what_no_rule_shares(name):
    nodes, x, _ = CASES[name]
    with pytest.raises(UnsupportedError, match=r"mode 'default' has no rule for '.*take 'gradient'"):
        explain(modelled(nodes, x), {"x": x}, dtype="float64")


@pytest.mark.parametrize("mode", ["default", "contrastive", "lrp-epsilon"])
def test_a_constant_to_the_power_of_x_is_an_exponential(mode):
    """RULES 13: 2**x is exp(x ln 2), a function of one operand, which hands on what it gets."""
    power = modelled(CASES["2**x"][0], X)
    scaled = [node("Mul", ["x", "log"], "s"), node("Exp", ["s"], "p"), node("Add", ["p", "x"], "y")]
    got, expected = (
        explain(model, {"x": X}, mode=mode, target=2, dtype="float64").relevance["x"]
        for model in (power, modelled(scaled, X))
    )
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert np.abs(got).max() > 0.9


@pytest.mark.parametrize("name", ["x**x", "computed slope", "determinant"])
def test_deeplift_shares_the_whole_change(name):
    nodes, x, _ = CASES[name]
    model, baseline = modelled(nodes, x), 0.5 * x[0]
    start = np.ones(ReferenceEvaluator(model).run(None, {"x": x})[0].shape)
    settings = {"mode": "deeplift", "start": start, "dtype": "float64", "scaler": None}
    found = explain(model, {"x": x}, baseline=baseline, **settings)
    after, before = (ReferenceEvaluator(model).run(None, {"x": each})[0].sum() for each in (x, baseline[None]))
    np.testing.assert_allclose(found.relevance["x"].sum(), after - before, rtol=1e-9)
