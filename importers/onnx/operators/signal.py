"""Signal processing: discrete Fourier transforms, their windows, mel filter banks.

A Fourier transform is a matrix product with known cosines and sines, so relevance goes through it as through any
linear map. The matrix has an entry for every pair of an input and an output number, which bounds the lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Var
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .casts import element_type
from .registry import operator

_LARGEST_MATRIX = 2**26  # entries: complex signals of 4,096 steps, real ones (one-sided) of 8,192


def _transform(length: int, channels: int, *, inverse: bool, onesided: bool) -> np.ndarray:
    """The matrix [steps, channels, bins, channels] of a Fourier transform; one channel is real, two are complex.

    Args:
        length: Number of steps of the whole signal.
        channels: Channels of what is transformed.
        inverse: Whether bins are transformed back to steps.
        onesided: Whether the half of the bins that mirrors the other one is left out: of the result, or of what is
            transformed back, whose result is real.
    """
    half = length // 2 + 1
    given, found = (half if onesided and inverse else length), (half if onesided and not inverse else length)
    results = 1 if onesided and inverse else 2
    if given * channels * found * results > _LARGEST_MATRIX:
        raise UnsupportedError(
            f"a Fourier transform of {length} steps; its matrix would have more than {_LARGEST_MATRIX} entries; "
            "transform shorter frames, or the signal before the model"
        )
    angle = 2 * np.pi / length * (np.outer(np.arange(given), np.arange(found)) % length) * (1 if inverse else -1)
    wave = _without_rounding(np.exp(1j * angle)) / (length if inverse else 1)
    if onesided and inverse:  # every bin but the first and the middle one stands for its mirror image as well
        wave *= np.where((np.arange(given) == 0) | (2 * np.arange(given) == length), 1, 2)[:, None]
    real, imaginary = np.stack([wave.real, wave.imag], -1), np.stack([-wave.imag, wave.real], -1)
    return np.stack([real, imaginary][:channels], 1)[..., :results]


def _without_rounding(wave: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Waves that are 0 where sine and cosine are: nothing may share relevance by a rounding error of pi."""
    parts = [np.where(np.abs(part) < 1e-12, 0, part) for part in (wave.real, wave.imag)]
    return parts[0] + 1j * parts[1]


def _apply(lowering: Lowering, signal: Value, matrix: np.ndarray) -> Value:
    """[..., steps, channels] times a matrix [steps, channels, bins, channels]; missing steps are zeros."""
    steps = min(signal.shape[-2], matrix.shape[0])
    used = _first(lowering, signal, steps)
    kernel = matrix[:steps].reshape(steps * matrix.shape[1], -1).astype(signal.dtype)
    flat = lowering.reshape(used, (*signal.shape[:-2], kernel.shape[0]))
    return lowering.reshape(lowering.emit("matmul", flat, kernel), (*signal.shape[:-2], *matrix.shape[2:]))


def _first(lowering: Lowering, signal: Value, steps: int) -> Value:
    if steps == signal.shape[-2]:
        return signal
    zeros, ones = (0,) * len(signal.shape), (1,) * len(signal.shape)
    limit = (*signal.shape[:-2], steps, signal.shape[-1])
    return lowering.emit("slice", signal, start=zeros, limit=limit, stride=ones)


def _check_channels(signal: Value, *, real: bool) -> int:
    """Channels of a signal: one if it is real, two if complex."""
    channels = signal.shape[-1]
    if channels not in (1, 2):
        raise ModelError(f"the last axis holds real and imaginary parts and has size 1 or 2, not {channels}")
    if real and channels == 2:
        raise ModelError("a one-sided transform of a complex signal does not exist")
    return channels


def _scalar(lowering: Lowering, value: Value | None, what: str) -> int | None:
    return None if value is None else int(lowering.known(value, what).item())


@operator("DFT", since=20)
def dft(
    lowering: Lowering,
    input: Value,
    dft_length: Value | None = None,
    axis: Value | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Value:
    """Discrete Fourier transform along an axis; the last axis holds real and imaginary parts."""
    along = _scalar(lowering, axis, "the axis to transform")
    return _dft(lowering, input, dft_length, -2 if along is None else along, bool(inverse), bool(onesided))


@operator("DFT", since=17)
def dft_17(
    lowering: Lowering,
    input: Value,
    dft_length: Value | None = None,
    *,
    axis: int = 1,
    inverse: int = 0,
    onesided: int = 0,
) -> Value:
    """Before opset 20 the axis is an attribute."""
    return _dft(lowering, input, dft_length, axis, bool(inverse), bool(onesided))


def _dft(
    lowering: Lowering, signal: Value, dft_length: Value | None, axis: int, inverse: bool, onesided: bool
) -> Value:
    rank = len(signal.shape)
    axis = from_front(axis, rank)
    if axis == rank - 1:
        raise ModelError("the last axis holds real and imaginary parts and cannot be transformed")
    channels = _check_channels(signal, real=onesided and not inverse)
    length = _scalar(lowering, dft_length, "the length of the transform")
    if length is None:
        length = 2 * (signal.shape[axis] - 1) if onesided and inverse else signal.shape[axis]
    perm = (*(k for k in range(rank - 1) if k != axis), axis, rank - 1)
    matrix = _transform(length, channels, inverse=inverse, onesided=onesided)
    result = _apply(lowering, lowering.transpose(signal, perm), matrix)
    return lowering.transpose(result, tuple(int(k) for k in np.argsort(perm)))


@operator("STFT", since=17)
def stft(
    lowering: Lowering,
    signal: Value,
    frame_step: Value,
    window: Value | None = None,
    frame_length: Value | None = None,
    *,
    onesided: int = 1,
) -> Value:
    """Fourier transforms of frames of a signal [batch, steps, channels], which may overlap, times a window."""
    if len(signal.shape) == 2:
        signal = lowering.reshape(signal, (*signal.shape, 1))
    size = _scalar(lowering, frame_length, "the length of the frames")
    if size is None:
        size = signal.shape[1] if window is None else window.shape[0]
    frames = _frames(lowering, signal, _scalar(lowering, frame_step, "the step between frames") or 1, size)
    channels = _check_channels(signal, real=bool(onesided))
    matrix = _transform(size, channels, inverse=False, onesided=bool(onesided))
    if isinstance(window, Var):
        frames = lowering.emit("mul", frames, lowering.reshape(window, (size, 1)))
    elif window is not None:
        matrix = matrix * window.reshape(size, 1, 1, 1)
    return _apply(lowering, frames, matrix)


def _frames(lowering: Lowering, signal: Value, step: int, size: int) -> Value:
    """Overlapping parts of a signal: [batch, frames, size, channels]."""
    if size > signal.shape[1]:
        raise ModelError(f"frames of {size} steps do not fit into a signal of {signal.shape[1]}")
    starts = np.arange(0, signal.shape[1] - size + 1, step)
    return lowering.emit("gather", signal, starts[:, None] + np.arange(size), axis=1)


_WINDOWS = {  # coefficients of the cosines of no, one, two, ... periods
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _register_window(name: str, coefficients: Sequence[float]) -> None:
    @operator(name, since=17)
    def window(
        lowering: Lowering, size: Value, *, output_datatype: int = onnx.TensorProto.FLOAT, periodic: int = 1
    ) -> Value:
        """A window of cosines, one period long; if not periodic, its last entry equals the first."""
        count = int(lowering.known(size, "the size of the window").item())
        lowering.limits.check_known((4, count), np.float64)
        phase = 2 * np.pi * np.arange(count) / max(count if periodic else count - 1, 1)
        total = sum(factor * np.cos(periods * phase) for periods, factor in enumerate(coefficients))
        return np.asarray(total).astype(element_type(output_datatype))


for _name, _coefficients in _WINDOWS.items():
    _register_window(_name, _coefficients)


@operator("MelWeightMatrix", since=17)
def mel_weight_matrix(
    lowering: Lowering,
    num_mel_bins: Value,
    dft_length: Value,
    sample_rate: Value,
    lower_edge_hertz: Value,
    upper_edge_hertz: Value,
    *,
    output_datatype: int = onnx.TensorProto.FLOAT,
) -> Value:
    """Triangular filters [bins of a one-sided spectrum, filters], at equal distances on the mel scale."""
    operands = num_mel_bins, dft_length, sample_rate, lower_edge_hertz, upper_edge_hertz
    count, length, rate, lowest, highest = (lowering.known(x, "the mel filter bank").item() for x in operands)
    lowering.limits.check_known((4, length // 2 + 1, count), np.float64)
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (lowest, highest))
    mel = low + np.arange(count + 2) * (high - low) / (count + 2)
    edges = ((length + 1) * 700 * (10 ** (mel / 2595) - 1) // rate).astype(np.int64)
    left, peak, right = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(length // 2 + 1)[:, None]
    rising = (bins - left) / np.maximum(peak - left, 1)
    falling = (right - bins) / np.maximum(right - peak, 1)
    weights = np.where(bins < peak, np.maximum(rising, 0), np.maximum(falling, 0))
    return np.where(bins == peak, 1, weights).astype(element_type(output_datatype))
