"""Random numbers: drawn while lowering, by a counter-based generator (threefry), so that they are known and the same.

A node draws the same numbers in every run, for every example and in every process: they follow from its `seed`, or from
its name where it has none. ONNX leaves open which numbers a seed gives, so other runtimes draw others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import onnx
from jax import Array

from backtrace_jax.ops import compile_on_host, run_on_host
from backtrace_jax.passes.build import Value
from backtrace_jax.runtime.numerics import random_key

from ..lowering import Lowering
from .casts import element_type
from .registry import operator

_Draw = Callable[[Array, tuple[int, ...], np.dtype], Array]


def _drawn(lowering: Lowering, draw: _Draw, shape: Sequence[int], dtype: np.dtype, seed: float | None) -> np.ndarray:
    """Numbers that follow from the seed, or the node's name, and from how many draws the node has made before."""
    name = lowering.source.node
    turn, lowering.draws[name] = lowering.draws[name], lowering.draws[name] + 1
    start = zlib.crc32(name.encode() if seed is None else np.float32(seed).tobytes())
    wide = np.dtype(dtype) if np.dtype(dtype) in (np.float32, np.float64) else np.dtype(np.float32)
    lowering.limits.check_known(shape, wide)

    def numbers() -> Array:
        key = jax.random.fold_in(random_key(start), turn)
        return draw(key, tuple(shape), wide)

    return run_on_host(compile_on_host(numbers)).astype(dtype)


def _uniform(low: float = 0.0, high: float = 1.0) -> _Draw:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, low, high)


def _normal(mean: float, scale: float) -> _Draw:
    return lambda key, shape, dtype: mean + scale * jax.random.normal(key, shape, dtype)


@operator("RandomUniform")
def random_uniform(
    lowering: Lowering,
    *,
    shape: Sequence[int],
    dtype: int = onnx.TensorProto.FLOAT,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Value:
    """Uniformly distributed numbers."""
    return _drawn(lowering, _uniform(low, high), shape, element_type(dtype), seed)


@operator("RandomNormal")
def random_normal(
    lowering: Lowering,
    *,
    shape: Sequence[int],
    dtype: int = onnx.TensorProto.FLOAT,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Value:
    """Normally distributed numbers."""
    return _drawn(lowering, _normal(mean, scale), shape, element_type(dtype), seed)


def _type_like(value: Value, dtype: int | None) -> np.dtype:
    return np.dtype(value.dtype) if dtype is None else element_type(dtype)


@operator("RandomUniformLike")
def random_uniform_like(
    lowering: Lowering,
    input: Value,
    *,
    dtype: int | None = None,
    high: float = 1.0,
    low: float = 0.0,
    seed: float | None = None,
) -> Value:
    """Uniformly distributed numbers in the shape of another value."""
    return _drawn(lowering, _uniform(low, high), input.shape, _type_like(input, dtype), seed)


@operator("RandomNormalLike")
def random_normal_like(
    lowering: Lowering,
    input: Value,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
) -> Value:
    """Normally distributed numbers in the shape of another value."""
    return _drawn(lowering, _normal(mean, scale), input.shape, _type_like(input, dtype), seed)


@operator("Bernoulli")
def bernoulli(lowering: Lowering, input: Value, *, dtype: int | None = None, seed: float | None = None) -> Value:
    """1 with the given probability, else 0."""
    probability = _wide(lowering, input)
    level = _drawn(lowering, _uniform(), input.shape, np.dtype(probability.dtype), seed)
    return lowering.cast(lowering.emit("less", level, probability), _type_like(input, dtype))


def _wide(lowering: Lowering, value: Value) -> Value:
    """A value in float32 at least, where uniform numbers below 1 do not round to 1."""
    return value if value.dtype == np.float64 else lowering.cast(value, np.dtype(np.float32))


@operator("Multinomial")
def multinomial(
    lowering: Lowering,
    input: Value,
    *,
    dtype: int = onnx.TensorProto.INT32,
    sample_size: int = 1,
    seed: float | None = None,
) -> Value:
    """Classes drawn with given unnormalised log-probabilities: the largest after Gumbel noise (Gumbel 1954)."""
    scores, (batch, classes) = _wide(lowering, input), input.shape
    noise = _drawn(lowering, jax.random.gumbel, (batch, sample_size, classes), np.dtype(scores.dtype), seed)
    noisy = lowering.emit("add", lowering.reshape(scores, (batch, 1, classes)), noise)
    return lowering.cast(lowering.emit("argmax", noisy, axis=2, keepdims=False, last=False), element_type(dtype))
