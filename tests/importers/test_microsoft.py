"""The fused operators of com.microsoft, against onnxruntime, or against the formula where it has no kernel for CPUs."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.special import erf

from backtrace_jax.errors import UnsupportedError

from .nodes import check_node, floats

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.5},
        {"transA": 1},
        {"transB": 1},
        {"transBatchA": 1},
        {"transBatchB": 1},
        {"transA": 1, "transBatchA": 1, "transB": 1, "transBatchB": 1},
    ],
    ids=str,
)
def test_products(settings):
    def shape(rows, columns, letter):
        order = [2, rows, columns]
        if settings.get(f"trans{letter}"):
            order = [2, columns, rows]
        if settings.get(f"transBatch{letter}"):
            order = [order[1], 2, order[2]]
        return order

    check("FusedMatMul", [floats(*shape(3, 4, "A")), floats(*shape(4, 5, "B"), seed=1)], **settings)


def test_product_with_known_weights():
    check("FusedMatMul", [floats(2, 4, 3), floats(4, 5, seed=1)], (1,), alpha=0.5, transA=1)
    check("TransposeMatMul", [floats(2, 4, 3), floats(4, 5, seed=1)], (1,), alpha=0.5, transA=1)


def test_activation_of_a_product():
    A, B = floats(2, 3, 4), floats(4, 5, seed=1)
    check("FusedMatMulActivation", [A, B], (1,), [np.maximum(0.5 * (A @ B), 0)], alpha=0.5, activation="Relu")


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "Relu"},
        {"activation": "LeakyRelu", "activation_alpha": 0.2},
        {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4},
        {"activation": "Tanh", "alpha": 0.5, "beta": 2.0, "transB": 1},
    ],
    ids=str,
)
def test_gemm(settings):
    B = floats(5, 4, seed=1) if settings.get("transB") else floats(4, 5, seed=1)
    check("FusedGemm", [floats(3, 4), B, floats(5, seed=2)], (1, 2), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "Relu"},
        {"activation": "Clip", "activation_params": [0.0, 0.5]},
        {"activation": "LeakyRelu", "activation_params": [0.3], "strides": [2, 1], "pads": [1, 1, 0, 1]},
    ],
    ids=str,
)
def test_convolution(settings):
    check("FusedConv", [floats(2, 3, 6, 6), floats(4, 3, 3, 3, seed=1), floats(4, seed=2)], (1, 2), **settings)


def test_convolution_of_a_sum():
    operands = [floats(1, 3, 6, 6), floats(4, 3, 3, 3, seed=1), floats(4, seed=2), floats(1, 4, 4, 4, seed=3)]
    check("FusedConv", operands, (1, 2), activation="Relu")


def test_unknown_activation():
    with pytest.raises(UnsupportedError, match="activation 'Swirl'; there are Clip"):
        check("FusedGemm", [floats(3, 4), floats(4, 5)], (1,), [], activation="Swirl")


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("Gelu", [floats(2, 3)]),
        ("BiasGelu", [floats(2, 3, 4), floats(4, seed=1)]),
        ("FastGelu", [floats(2, 3)]),
        ("FastGelu", [floats(2, 3, 4), floats(4, seed=1)]),
        ("QuickGelu", [floats(2, 3)]),
    ],
)
def test_activations(name, operands):
    check(name, operands)


def test_quick_gelu_of_another_slope():
    check("QuickGelu", [floats(2, 3)], alpha=1.0)


def test_gelu_of_a_product():
    operands = [floats(2, 3, 4), floats(4, 5, seed=1), floats(5, seed=2)]
    total = operands[0] @ operands[1] + operands[2]
    wanted = 0.5 * total * (1 + np.tanh(np.sqrt(2 / np.pi) * (total + 0.044715 * total**3)))
    check("GemmFastGelu", operands, (1, 2), [wanted.astype(np.float32)])


def test_halves_that_gate_each_other():
    X, bias = floats(2, 3, 8), floats(8, seed=1)
    first, second = np.split(X + bias, 2, axis=2)
    wanted = first * second * 0.5 * (1 + erf(second / np.sqrt(2)))
    check("BiasSplitGelu", [X, bias], (1,), [wanted.astype(np.float32)])


def test_sum_of_three():
    X, bias, skip = floats(2, 3, 4), floats(4, seed=1), floats(2, 3, 4, seed=2)
    check("BiasAdd", [X, bias, skip], (1,), [X + bias + skip])


BETA, BIAS = floats(4, seed=3), floats(4, seed=4)


@pytest.mark.parametrize(
    ("skip", "beta", "bias"), [((2, 3, 4), None, None), ((1, 3, 4), BETA, None), ((3, 4), BETA, BIAS)]
)
def test_layer_normalisation_of_a_sum(skip, beta, bias):
    check("SkipLayerNormalization", [floats(2, 3, 4), floats(*skip, seed=1), floats(4, seed=2), beta, bias], (2, 3, 4))


@pytest.mark.parametrize("bias", [None, floats(4, seed=4)])
def test_root_mean_square_normalisation_of_a_sum(bias):
    operands = [floats(2, 3, 4), floats(2, 3, 4, seed=1), floats(4, seed=2), bias]
    check("SkipSimplifiedLayerNormalization", operands, (2, 3), epsilon=1e-3)


def test_half_precision():
    operands = [x.astype(np.float16) for x in (floats(2, 3, 8), floats(2, 3, 8, seed=1), floats(8), floats(8, seed=2))]
    check_node("SkipLayerNormalization", operands, (2, 3), domain="com.microsoft", rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_simplified_normalisation(domain):
    X, scale = floats(2, 3, 4), floats(4, seed=1)
    wanted = X / np.sqrt((X**2).mean(axis=2, keepdims=True) + 1e-3) * scale
    check_node("SimplifiedLayerNormalization", [X, scale], (1,), [wanted], domain=domain, epsilon=1e-3)


def test_simplified_normalisation_in_onnxruntime():
    check_node("SimplifiedLayerNormalization", [floats(2, 3, 4), floats(3, 4, seed=1)], (1,), axis=1, epsilon=1e-3)


def test_group_normalisation():
    X, gamma, beta, skip = floats(2, 3, 3, 4), floats(4, seed=1), floats(4, seed=2), floats(2, 4, seed=3)
    total = X + skip.reshape(2, 1, 1, 4)
    groups = total.reshape(2, 9, 2, 2)
    spread = np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-5)
    wanted = ((groups - groups.mean(axis=(1, 3), keepdims=True)) / spread).reshape(X.shape) * gamma + beta
    settings, wanted = {"groups": 2, "activation": 1}, wanted / (1 + np.exp(-wanted))
    check("SkipGroupNorm", [X, gamma, beta, skip], (1, 2), [wanted, total], results=2, **settings)
    check("GroupNorm", [total, gamma, beta], (1, 2), [wanted], **settings)
