"""Operations of keras.ops on signals: frames and Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .registry import operation
from .tensor import Operand, Tensor, as_array
from .terms import Term, as_float, common, term
from .windows import fixed, places_of
from .writer import Writer


def _complex(writer: Writer, parts: Sequence[Any]) -> Term:
    """Real and imaginary part as ONNX has them, on a last axis."""
    real, imaginary = (each.unsqueezed(-1) for each in common(writer, *parts, real=True))
    return real.node("Concat", imaginary, axis=-1)


def _apart(value: Term, rank: int) -> list[Operand]:
    return [value.sliced(rank, i, i + 1).squeezed(rank).name for i in range(2)]


def _transformed(value: Term, axis: int, *, length: int | None = None, inverse: int = 0, onesided: int = 0) -> Term:
    count = None if length is None else value.writer.constant(np.array(length))
    return value.node("DFT", count, value.writer.constant(np.array(axis)), inverse=inverse, onesided=onesided)


@operation("FFT", "FFT2", "IFFT2")
def fourier(writer: Writer, layer: Any, x: Sequence[Any]) -> list[Operand]:
    """Fourier transform of complex numbers along the last axis, or the last two."""
    name, rank = type(layer).__name__, len(x[0].shape)
    value = _complex(writer, x)
    for axis in [rank - 1] if name == "FFT" else [rank - 1, rank - 2]:
        value = _transformed(value, axis, inverse=int(name == "IFFT2"))
    return _apart(value, rank)


@operation("RFFT")
def real_fourier(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """The half of a Fourier transform that a real signal needs."""
    value = as_float(writer, x).unsqueezed(-1)
    return _apart(_transformed(value, x.rank - 1, length=layer.fft_length, onesided=1), x.rank)


@operation("IRFFT")
def inverse_real_fourier(writer: Writer, layer: Any, x: Sequence[Any]) -> Operand:
    """A real signal from the half of its Fourier transform."""
    rank = len(x[0].shape)
    value = _complex(writer, x)
    return _transformed(value, rank - 1, length=layer.fft_length, inverse=1, onesided=1).squeezed(rank).name


@operation("STFT")
def short_time_fourier(writer: Writer, layer: Any, x: Tensor) -> list[Operand]:
    """Fourier transforms of frames times a window; the ends may be mirrored."""
    value, (size,), length = as_float(writer, x), fixed(x, [-1]), layer.fft_length
    if layer.center:
        places = np.pad(np.arange(size), length // 2, "reflect")
        value, size = value.gathered(places, x.rank - 1), places.size
    places, _ = places_of([size], [length], [layer.sequence_stride], [1])
    frames = value.gathered(places, x.rank - 1)
    frames = frames * frames.number(_window(layer))
    return _apart(_transformed(frames.unsqueezed(-1), x.rank, onesided=1), x.rank + 1)


def _window(layer: Any) -> np.ndarray:
    """The window in the middle of a frame; periodic ones by name."""
    count, length = layer.sequence_length, layer.fft_length
    turns = 2 * np.pi * np.arange(count) / count
    known = {"hann": 0.5 - 0.5 * np.cos(turns), "hamming": 0.54 - 0.46 * np.cos(turns)}
    if layer.window is None:
        return np.ones(length)
    window = known[layer.window] if isinstance(layer.window, str) else as_array(layer.window)
    before = (length - count) // 2
    return np.pad(window, (before, length - count - before))


@operation("ExtractSequences")
def extract_sequences(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Frames of the last axis."""
    places, _ = places_of(fixed(x, [-1]), [layer.sequence_length], [layer.sequence_stride], [1])
    return term(writer, x).gathered(places, x.rank - 1).name
