"""Fourier transforms, windows and mel filters, against NumPy and onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.onnx_backend import run_model

from .explaining import check_explained, network
from .nodes import check_node, floats, node_model

LENGTHS = (None, 6, 9)  # the signal's own, cut, padded with zeros


def parts(values: np.ndarray) -> np.ndarray:
    """Real and imaginary parts along a last axis."""
    return np.stack([values.real, values.imag], -1).astype(np.float32)


def compared(signal, length, axis, expected, **settings):
    """Compare a transform of opset 20 and of opset 17 with the expected one."""
    given = None if length is None else np.asarray(length)
    check_node("DFT", [signal, given, np.asarray(axis)], (1, 2), [expected], opset=20, **settings)
    check_node("DFT", [signal, given], (1,), [expected], axis=axis, opset=17, **settings)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("axis", [1, -2])
def test_real_signals(length, axis):
    x = floats(2, 7, 8, 1)
    compared(x, length, axis, parts(np.fft.fft(x[..., 0], length, axis % 4)))
    compared(x, length, axis, parts(np.fft.rfft(x[..., 0], length, axis % 4)), onesided=1)


@pytest.mark.parametrize("length", LENGTHS)
def test_complex_signals_there_and_back(length):
    x = floats(2, 8, 2)
    values = x[..., 0] + 1j * x[..., 1]
    compared(x, length, 1, parts(np.fft.fft(values, length, 1)))
    compared(x, length, 1, parts(np.fft.ifft(values, length, 1)), inverse=1)
    back = np.fft.irfft(values, length, 1)[..., None].astype(np.float32)
    compared(x, length, 1, back, inverse=1, onesided=1)


def test_transforms_that_do_not_exist():
    x = floats(1, 8, 2)
    with pytest.raises(ModelError, match=r"the_node.*one-sided DFT requires real input"):
        run_model(node_model("DFT", [x], opset=20, onesided=1), [x])
    with pytest.raises(ModelError, match=r"the_node.*axis attribute value 2 is invalid"):
        run_model(node_model("DFT", [x], opset=17, axis=2), [x])
    with pytest.raises(ModelError, match=r"size 1 or 2, not 3"):
        run_model(node_model("DFT", [floats(1, 8, 3)], opset=20), [floats(1, 8, 3)])


def test_a_transform_whose_matrix_would_be_too_large_is_refused():
    x = np.zeros((1, 20000, 1), np.float32)
    with pytest.raises(UnsupportedError, match=r"the_node.*20000 steps.*transform shorter frames"):
        run_model(node_model("DFT", [x], opset=20), [x])


@pytest.mark.parametrize("known", [(1, 2), (1,)])
@pytest.mark.parametrize("onesided", [0, 1])
def test_short_time_transforms(known, onesided):
    x, window = floats(2, 20, 1), np.hanning(8).astype(np.float32)
    check_node("STFT", [x, np.asarray(3), window], known, onesided=onesided, opset=17)
    frames = np.stack([x[:, start : start + 6, 0] for start in range(0, 15, 4)], 1)
    transform = np.fft.rfft if onesided else np.fft.fft
    expected = parts(transform(frames, axis=-1))
    given = [x, np.asarray(4), None, np.asarray(6)]
    check_node("STFT", given, (1, 3), [expected], onesided=onesided, opset=17)


def test_frames_longer_than_the_signal_are_refused():
    operands = [floats(1, 8, 1), np.asarray(1), None, np.asarray(9)]
    with pytest.raises(ModelError, match="frames of 9 steps do not fit into a signal of 8"):
        run_model(node_model("STFT", operands, (1, 3), opset=17), operands[:1])


@pytest.mark.parametrize("op_type", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("known", [(), (0,)])
def test_windows(op_type, known):
    check_node(op_type, [np.asarray(9)], known, opset=17)
    check_node(op_type, [np.asarray(10)], known, periodic=0, output_datatype=TensorProto.DOUBLE, opset=17)


@pytest.mark.parametrize(("bins", "length", "lowest"), [(8, 16, 0.0), (20, 256, 20.0), (40, 64, 0.0)])
def test_mel_filters(bins, length, lowest):
    edges = np.float32(lowest), np.float32(4000)
    operands = [np.asarray(bins), np.asarray(length), np.asarray(8000), *edges]
    check_node("MelWeightMatrix", operands, range(5), opset=17)


def test_explained():
    """A transform there and back, a spectrogram, its magnitude, mel filters, and a dense layer."""
    node, inputs = helper.make_node, {"x": floats(1, 16, 1)}
    nodes = [
        node("DFT", ["x", "", "axis"], ["whole"], onesided=1),
        node("DFT", ["whole", "", "axis"], ["again"], onesided=1, inverse=1),
        node("STFT", ["again", "step", "window"], ["spectrum"]),
        node("ReduceL2", ["spectrum", "last"], ["magnitude"], keepdims=0),
        node("MatMul", ["magnitude", "filters"], ["mel"]),
        node("Flatten", ["mel"], ["flat"]),
        node("MatMul", ["flat", "W"], ["y"]),
    ]
    settings = {"axis": np.asarray(1), "last": np.asarray([-1]), "step": np.asarray(4)}
    weights = {"window": np.hanning(8).astype(np.float32), "filters": np.abs(floats(5, 3)), "W": floats(9, 4, seed=1)}
    check_explained(network(nodes, inputs, **settings, **weights), inputs)
