"""Operators of com.microsoft that are standard ones under another form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .axes import from_front
from .contractions import conv_transpose
from .indexing import gather, gather_nd, pad, triangle
from .microsoft import MICROSOFT
from .registry import operator
from .sampling import grid_sample
from .selections import unique
from .shaping import range_
from .signal import dft

operator("GatherND", domain=MICROSOFT)(gather_nd)


@operator("Range", domain=MICROSOFT)
def range_microsoft(lowering: Lowering, start: Value, limit: Value, delta: Value | None = None) -> Value:
    """Numbers from `start` up to `limit` by steps of `delta`, or of 1."""
    return range_(lowering, start, limit, np.ones((), start.dtype) if delta is None else delta)


@operator("SampleOp", domain=MICROSOFT)
def sample(lowering: Lowering, X: Value) -> Value:
    """The value itself."""
    return X


@operator("ExpandDims", domain=MICROSOFT)
def expand_dims(lowering: Lowering, X: Value, axis: Value) -> Value:
    """A new axis of size 1."""
    rank = len(X.shape) + 1
    new = from_front(int(lowering.known(axis, "the new axis").item()), rank)
    return lowering.reshape(X, (*X.shape[:new], 1, *X.shape[new:]))


@operator("Trilu", domain=MICROSOFT)
def trilu(lowering: Lowering, X: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    """The part of each matrix above or below a diagonal."""
    return triangle(lowering, X, k, upper=upper)


@operator("Unique", domain=MICROSOFT)
def unique_in_order(lowering: Lowering, x: Value) -> tuple[Value, ...]:
    """Different entries in the order in which they come, which one each entry is, and how many of it."""
    entries, _, places, counts = unique(lowering, x, sorted=0)
    return entries, places, counts


@operator("Pad", domain=MICROSOFT)
def pad_microsoft(
    lowering: Lowering, data: Value, pads: Value, value: Value | None = None, *, mode: str = "constant"
) -> Value:
    """A border around the value."""
    return pad(lowering, data, lowering.reshape(pads, (2 * len(data.shape),)), value, mode=mode)


@operator("GridSample", domain=MICROSOFT)
def grid_sample_microsoft(
    lowering: Lowering, X: Value, Grid: Value, *, mode: str = "bilinear", **settings: Any
) -> Value:
    """X read at the positions of a grid."""
    return grid_sample(lowering, X, Grid, mode=mode, **settings)


@operator("TorchEmbedding", domain=MICROSOFT)
def torch_embedding(
    lowering: Lowering,
    weight: Value,
    indices: Value,
    padding_idx: Value | None = None,
    scale_grad_by_freq: Value | None = None,
) -> Value:
    """Rows of a table by index."""
    return gather(lowering, weight, indices)


@operator("UnfoldTensor", domain=MICROSOFT)
def unfold_tensor(lowering: Lowering, input: Value, *, dim: int = -1, size: int, step: int = 1) -> Value:
    """Every slice of a size along an axis, one every `step` entries; the entries of a slice are the last axis."""
    rank, axis = len(input.shape), from_front(dim, len(input.shape))
    starts = np.arange(0, input.shape[axis] - size + 1, step)
    parts = lowering.emit("gather", input, starts[:, None] + np.arange(size), axis=axis)
    return lowering.transpose(parts, (*(i for i in range(rank + 1) if i != axis + 1), axis + 1))


@operator("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def conv_transpose_with_pads(
    lowering: Lowering, X: Value, W: Value, Pads: Value | None = None, B: Value | None = None, **settings: Any
) -> Value:
    """Transposed convolution whose padding is an operand."""
    pads = None if Pads is None else lowering.integers(Pads, "the padding")
    return conv_transpose(lowering, X, W, B, pads=pads, **settings)


@operator("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(lowering: Lowering, data: Value, bias: Value, *, axis: int = 1, is_inner_broadcast: int) -> Value:
    """Softmax of a sum over the last axes, from `axis` on."""
    rank, axis = len(data.shape), from_front(axis, len(data.shape))
    if is_inner_broadcast and len(bias.shape) < rank:
        raise UnsupportedError("a bias of fewer axes that is copied along inner ones; use the model before that fusion")
    total = lowering.emit("add", data, bias)
    flat = lowering.reshape(total, (*data.shape[:axis], int(np.prod(data.shape[axis:]))))
    return lowering.reshape(lowering.emit("softmax", flat, axis=axis), total.shape)


@operator("BiasDropout", "BitmaskBiasDropout", domain=MICROSOFT)
def bias_dropout(
    lowering: Lowering,
    data: Value,
    bias: Value,
    residual: Value | None = None,
    ratio: Value | None = None,
    training_mode: Value | None = None,
    *,
    seed: int = 0,
) -> Value:
    """A sum; nothing is dropped at inference."""
    dropped = dropout(lowering, lowering.emit("add", data, bias), ratio, training_mode)
    return dropped if residual is None else lowering.emit("add", dropped, residual)


@operator("BitmaskDropout", domain=MICROSOFT)
def dropout(
    lowering: Lowering, data: Value, ratio: Value | None = None, training_mode: Value | None = None, *, seed: int = 0
) -> Value:
    """The value itself: nothing is dropped at inference."""
    if training_mode is not None and lowering.known(training_mode, "whether the node trains").any():
        raise UnsupportedError("the node is in training mode; export the model in evaluation mode")
    return data


def _register_complex(name: str, sign: int) -> None:
    @operator(name, domain=MICROSOFT)
    def product(lowering: Lowering, A: Value, B: Value) -> Value:
        """Products of complex numbers, whose two parts are the last axis; of the second one's conjugate if so named."""
        (a, b), (c, d) = (_parts(lowering, X) for X in (A, B))
        real = [lowering.emit("mul", a, c), lowering.scale(lowering.emit("mul", b, d), -sign)]
        imaginary = [lowering.emit("mul", b, c), lowering.scale(lowering.emit("mul", a, d), sign)]
        return lowering.emit(
            "concat", *(lowering.emit("add", *each) for each in (real, imaginary)), axis=len(A.shape) - 1
        )


for _name, _sign in {"ComplexMul": 1, "ComplexMulConj": -1}.items():
    _register_complex(_name, _sign)


def _parts(lowering: Lowering, X: Value) -> list[Value]:
    """Real and imaginary parts."""
    if X.shape[-1] != 2:
        raise ModelError(f"the last axis holds real and imaginary parts and has size 2, not {X.shape[-1]}")
    return [lowering.part(X, -1, i, i + 1) for i in range(2)]


@operator("CDist", domain=MICROSOFT)
def distances(lowering: Lowering, A: Value, B: Value, *, metric: str = "sqeuclidean") -> Value:
    """Distance of each row of A from each row of B."""
    if metric not in ("euclidean", "sqeuclidean"):
        raise UnsupportedError(f"distances by {metric!r}; there are euclidean and sqeuclidean")
    a, b = lowering.reshape(A, (A.shape[0], 1, A.shape[1])), lowering.reshape(B, (1, *B.shape))
    apart = lowering.emit("sub", a, b)
    squares = lowering.emit("reduce_sum", lowering.emit("mul", apart, apart), axes=(2,), keepdims=False)
    return lowering.emit("sqrt", squares) if metric == "euclidean" else squares


def _register_fourier(name: str, transform: Callable[..., Value]) -> None:
    @operator(name, domain=MICROSOFT)
    def fourier(lowering: Lowering, X: Value, *, normalized: int = 0, onesided: int = 1, signal_ndim: int = 1) -> Value:
        if normalized or not onesided or signal_ndim != 1:
            raise UnsupportedError("a Fourier transform that is normalised, two-sided or of several axes; use DFT")
        return transform(lowering, X)


def _forward(lowering: Lowering, X: Value) -> Value:
    return dft(lowering, lowering.reshape(X, (*X.shape, 1)), onesided=1)


def _backward(lowering: Lowering, X: Value) -> Value:
    result = dft(lowering, X, inverse=1, onesided=1)
    return lowering.reshape(result, result.shape[:-1])


_register_fourier("Rfft", _forward)
_register_fourier("Irfft", _backward)
