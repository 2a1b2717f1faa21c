"""What the operations compute, against PyTorch and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from backtrace_jax.ops import evaluate_by_xla

generator = np.random.default_rng(0)
X = generator.normal(size=(2, 4, 9)) * 3
IMAGE = generator.normal(size=(2, 4, 7, 6))


def same(op, operands, expected, tolerance=1e-12, **params):
    result = evaluate_by_xla(op, [np.asarray(x) for x in operands], params)
    np.testing.assert_allclose(result, np.asarray(expected), rtol=tolerance, atol=tolerance, strict=True)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


POINTWISE = {
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "hard_swish": functional.hardswish,
    "exp": torch.exp,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
}
ON_THE_UNIT = {"asin": torch.asin, "acos": torch.acos, "atanh": torch.atanh}
ABOVE_ONE = {"log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "acosh": torch.acosh}


@pytest.mark.parametrize("name", [*POINTWISE, *ON_THE_UNIT, *ABOVE_ONE])
def test_pointwise(name):
    x = X if name in POINTWISE else np.tanh(X) if name in ON_THE_UNIT else 1 + np.abs(X)
    reference = {**POINTWISE, **ON_THE_UNIT, **ABOVE_ONE}[name]
    same(name, [x], reference(torch.from_numpy(x)), 1e-9)


SETTINGS = {
    "gelu": [({"approximate": False}, functional.gelu)],
    "gelu by tanh": [({"approximate": True}, lambda x: functional.gelu(x, approximate="tanh"))],
    "leaky_relu": [({"alpha": 0.1}, lambda x: functional.leaky_relu(x, 0.1))],
    "elu": [({"alpha": 0.7}, lambda x: functional.elu(x, 0.7))],
    "celu": [({"alpha": 0.7}, lambda x: functional.celu(x, 0.7))],
    "selu": [({"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}, functional.selu)],
    "hard_sigmoid": [({"alpha": 1 / 6, "beta": 0.5}, functional.hardsigmoid)],
    "thresholded_relu": [({"alpha": 0.8}, lambda x: functional.threshold(x, 0.8, 0))],
    "shrink": [({"bias": 0.5, "lambd": 0.5}, lambda x: functional.softshrink(x, 0.5))],
    "shrink hard": [({"bias": 0.0, "lambd": 0.5}, lambda x: functional.hardshrink(x, 0.5))],
    "clip": [
        ({"low": -1.0, "high": 2.0}, lambda x: x.clip(-1, 2)),
        ({"low": None, "high": 2}, lambda x: x.clip(max=2)),
    ],
    "integer_pow": [({"exponent": 3}, lambda x: x**3), ({"exponent": -2}, lambda x: x**-2.0)],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_pointwise_with_settings(name):
    for params, reference in SETTINGS[name]:
        same(name.split()[0], [X], reference(torch.from_numpy(X)), 1e-7, **params)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "pad", "dilation"), [((1, 1), (0, 0), (1, 1)), ((2, 3), (1, 2), (2, 1))])
def test_convolutions(groups, stride, pad, dilation):
    K = generator.normal(size=(6, 4 // groups, 3, 2))
    padding = tuple((p, p) for p in pad)
    expected = functional.conv2d(*tensors(IMAGE, K), None, stride, pad, dilation, groups)
    same("conv", [IMAGE, K], expected, strides=stride, padding=padding, dilation=dilation, groups=groups)
    K = generator.normal(size=(4, 6 // groups, 3, 2))
    expected = functional.conv_transpose2d(*tensors(IMAGE, K), None, stride, pad, 0, groups, dilation)
    same("conv_transpose", [IMAGE, K], expected, strides=stride, padding=padding, dilation=dilation, groups=groups)


def test_transposed_convolution_with_output_padding():
    K = generator.normal(size=(4, 3, 3, 3))
    expected = functional.conv_transpose2d(*tensors(IMAGE, K), None, 2, 1, 1)
    padding = ((1, 0), (1, 0))
    same("conv_transpose", [IMAGE, K], expected, strides=(2, 2), padding=padding, dilation=(1, 1), groups=1)


def test_pools():
    settings = {"window": (3, 2), "strides": (2, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    x = torch.from_numpy(IMAGE)
    for counted in (True, False):
        expected = functional.avg_pool2d(x, (3, 2), (2, 1), 1, count_include_pad=counted)
        taken = settings["padding"] if counted else ((0, 0), (0, 0))
        same("avg_pool", [IMAGE], expected, counted=taken, **settings)
    same("max_pool", [IMAGE], functional.max_pool2d(x, (3, 2), (2, 1), 1), **settings)
    dilated = {**settings, "dilation": (2, 3)}
    same("max_pool", [IMAGE], functional.max_pool2d(x, (3, 2), (2, 1), 1, (2, 3)), **dilated)


@pytest.mark.parametrize("size", [15, 40])  # windows short and long
def test_the_largest_of_a_long_line(size):
    line = generator.normal(size=(2, 3, 100))
    settings = {"window": (size,), "strides": (3,), "padding": ((4, 4),), "dilation": (2,)}
    same("max_pool", [line], functional.max_pool1d(torch.from_numpy(line), size, 3, 4, 2), **settings)


def test_normalisations():
    scale, shift = generator.normal(size=(2, 4))
    rows, x = X.swapaxes(1, 2), torch.from_numpy(X.swapaxes(1, 2).copy())
    expected = functional.layer_norm(x, (4,), *tensors(scale, shift))
    same("layer_norm", [rows, scale, shift], expected, axes=(2,), epsilon=1e-5)
    same("rms_norm", [rows, scale], functional.rms_norm(x, (4,), *tensors(scale), 1e-5), axes=(2,), epsilon=1e-5)
    expected = functional.group_norm(torch.from_numpy(X), 2, *tensors(scale, shift))
    same("group_norm", [X, scale[:, None], shift[:, None]], expected, groups=2, epsilon=1e-5)
    for p in (1, 2):
        same("lp_norm", [X], functional.normalize(torch.from_numpy(X), p, 1), axis=1, p=p)
    settings = {"alpha": 0.1, "beta": 0.7, "bias": 1.5}
    expected = functional.local_response_norm(torch.from_numpy(X), 3, 0.1, 0.7, 1.5)
    same("local_response_norm", [X], expected, size=3, **settings)
    same("lp_norm", [np.zeros((2, 3))], np.zeros((2, 3)), axis=1, p=2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_and_running_sums(axis):
    x = torch.from_numpy(X)
    same("softmax", [X], torch.softmax(x, axis), axis=axis)
    same("log_softmax", [X], torch.log_softmax(x, axis), axis=axis)
    same("cumsum", [X], torch.cumsum(x, axis), axis=axis, exclusive=False, reverse=False)
    same("order", [X], np.argsort(X, axis), axis=axis, descending=False)
    for op, reference in (("argmax", np.argmax), ("argmin", np.argmin)):
        same(op, [X], reference(X, axis, keepdims=True), axis=axis, keepdims=True, last=False)


def test_the_last_of_equal_entries():
    x = np.array([[1.0, 3.0, 3.0, 0.0]])
    same("argmax", [x], np.array([1]), axis=1, keepdims=False, last=False)
    same("argmax", [x], np.array([2]), axis=1, keepdims=False, last=True)
    same("order", [x], np.array([[1, 2, 0, 3]]), axis=1, descending=True)


def test_broadcasting_and_integer_division():
    a, b = generator.normal(size=(3, 1)), generator.normal(size=(2, 1, 4))
    for op, reference in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)):
        same(op, [a, b], reference(a, b))
    for op, reference in (("maximum", np.maximum), ("minimum", np.minimum), ("pow", np.float_power)):
        same(op, [np.abs(a), b], reference(np.abs(a), b))
    same("div", [np.array([7, -7, 6]), np.array([2, 2, -4])], np.array([3, -3, -1]))
    same("mod", [np.array([7, -7]), np.array([3])], np.array([1, 2]), truncate=False)
    same("mod", [np.array([7, -7]), np.array([3])], np.array([1, -1]), truncate=True)


def test_an_index_out_of_range_gives_nan():
    """Not a neighbour's value, and not an error in the middle of a compiled function."""
    table = np.arange(6.0).reshape(3, 2)
    nan = np.full(2, np.nan)
    same("gather", [table, np.array([3, -4, -3])], np.array([nan, nan, table[0]]), axis=0)
    same("gather_elements", [table, np.array([[3, 2]])], np.array([[np.nan, 5.0]]), axis=0)
    same("gather_nd", [table, np.array([[3], [-3]])], np.array([nan, table[0]]), batch_dims=0)


def test_casts():
    x = np.array([-1.5, 0.0, 0.25, 300.75])
    same("cast", [x], np.array([True, False, True, True]), dtype="bool")
    same("cast", [x], np.array([-1, 0, 0, 300], np.int32), dtype="int32")
    same("cast", [np.array([True, False])], np.array([1.0, 0.0], np.float32), dtype="float32")
