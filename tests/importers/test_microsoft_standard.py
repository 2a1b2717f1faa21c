"""Standard operators that com.microsoft has under another form, against onnxruntime or the formula."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.onnx_backend import run_model

from .nodes import check_node, floats, ints, node_model

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-5)


def test_shapes_and_positions():
    check("ExpandDims", [floats(2, 3), np.asarray(1, np.int32)], (1,))
    check("Trilu", [floats(3, 4), np.asarray(1)], (1,), upper=0)
    check("GatherND", [floats(3, 4), ints(0, 1, 2, 3).reshape(2, 2)], (1,))
    check("Pad", [floats(2, 3), ints(0, 1, 2, 0), np.float32(7)], (1, 2))
    check("UnfoldTensor", [floats(2, 7, 3)], dim=1, size=3, step=2)
    check("SampleOp", [floats(2, 3)])
    check("TorchEmbedding", [floats(5, 3), ints(1, 4)], (0,), [floats(5, 3)[[1, 4]]])
    check("Range", [np.float32(1), np.float32(5), np.float32(1.5)], (0, 1, 2))
    check("Range", [np.asarray(1), np.asarray(4)], (0, 1))


def test_different_entries_in_their_order():
    check("Unique", [np.float32([2, 1, 1, 3, 4, 3])], (0,), results=3)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_grids(padding_mode):
    check("GridSample", [floats(1, 2, 4, 5), floats(1, 3, 3, 2, seed=1) / 2], padding_mode=padding_mode)


def test_transposed_convolution_with_padding_as_an_operand():
    operands = [floats(1, 3, 4, 4), floats(3, 2, 3, 3, seed=1), ints(1, 0, 0, 1), floats(2, seed=2)]
    check("ConvTransposeWithDynamicPads", operands, (1, 2, 3), strides=[2, 2])


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_distances(metric):
    check("CDist", [floats(3, 4), floats(5, 4, seed=1)], (1,), metric=metric)


def test_distances_of_another_kind_are_refused():
    with pytest.raises(UnsupportedError, match="there are euclidean"):
        check("CDist", [floats(3, 4), floats(5, 4, seed=1)], (1,), [], metric="cosine")


def test_dropout_at_inference():
    data, bias, residual = floats(2, 3, 4), floats(4, seed=1), floats(2, 3, 4, seed=2)
    check("BiasDropout", [data, bias, residual, np.float32(0.5)], (1, 3), [data + bias + residual])
    check("BitmaskDropout", [data, np.float32(0.5)], (1,), [data])
    with pytest.raises(UnsupportedError, match="evaluation mode"):
        check("BitmaskDropout", [data, np.float32(0.5), np.asarray(True)], (1, 2), [data])


def test_softmax_of_a_sum():
    data, bias = floats(2, 3, 4, 5), floats(2, 1, 1, 5, seed=1)
    shares = np.exp(data + bias)
    shares /= shares.sum(3, keepdims=True)
    check("BiasSoftmax", [data, bias], (), [shares], axis=3, is_inner_broadcast=1)


@pytest.mark.parametrize(("name", "turned"), [("ComplexMul", np.asarray), ("ComplexMulConj", np.conj)])
def test_complex_numbers(name, turned):
    A, B = floats(3, 4, 2), floats(3, 4, 2, seed=1)
    product = A.view(np.complex64) * turned(B.view(np.complex64))
    check(name, [A, B], (1,), [product.view(np.float32)])


def test_fourier_transforms():
    signal = floats(2, 8)
    bins = np.fft.rfft(signal).astype(np.complex64)
    check("Rfft", [signal], (), [np.stack([bins.real, bins.imag], -1)])
    check("Irfft", [np.stack([bins.real, bins.imag], -1)], (), [signal])
    with pytest.raises(UnsupportedError, match="use DFT"):
        check("Rfft", [signal], (), [], signal_ndim=2)


def test_sums_and_products_through_gates():
    X, Y, gate = floats(2, 3, 4), floats(2, 3, 4, seed=1), floats(2, 3, 1, seed=2)
    check("GatedAdd", [X, Y, gate])
    check("ScaledSiLU", [X], alpha=0.5)
    check("ScaledSiLU", [X, np.float32(2)], (1,))


def test_norms_of_groups():
    X, scale, gate = floats(2, 3, 8), floats(4, seed=1), floats(2, 3, 8, seed=2)
    for activation in ("silu", "sigmoid"):
        check("GatedRMSNorm", [X, scale, gate], (1,), activation=activation)
    check("BranchwiseRMSNorm", [X, floats(8, seed=3)], (1,), num_branches=2)
    check("BranchwiseRMSNorm", [X.reshape(2, 3, 2, 4), scale], (1,))


def test_gates_of_a_memory():
    a, b = floats(2, 3, 4), floats(2, 3, 4, seed=1)
    check("LinearAttentionGate", [a, floats(4, seed=2), floats(4, seed=3), b], (1, 2), results=2)


def test_layouts():
    X, W, B = floats(1, 6, 5, 3), floats(4, 3, 3, 3, seed=1), floats(4, seed=2)
    plain = node_model("Conv", [X.transpose(0, 3, 1, 2), W, B], (1, 2), strides=[2, 1], pads=[1, 0, 1, 0])
    wanted = run_model(plain, [X.transpose(0, 3, 1, 2)])[0].transpose(0, 2, 3, 1)
    settings = {"strides": [2, 1], "pads": [1, 0, 1, 0]}
    check("NhwcConv", [X, W.transpose(0, 2, 3, 1).copy(), B], (1, 2), [wanted], **settings)
    Z = floats(*wanted.shape, seed=3)
    check("NhwcFusedConv", [X, W, B, Z], (1, 2), [np.maximum(wanted + Z, 0)], activation="Relu", **settings)
    whole = np.random.default_rng(0).integers(0, 256, (1, 6, 5, 3), np.uint8)
    check("NhwcMaxPool", [whole], kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 0, 1])
