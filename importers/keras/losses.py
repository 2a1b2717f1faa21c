"""Operations of keras.ops.nn on classes: one-hot rows and losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .registry import operation
from .tensor import Operand
from .terms import Term, as_float, common, term
from .writer import Writer

_EPSILON = 1e-7


@operation("OneHot", "MultiHot")
def one_hot(writer: Writer, layer: Any, x: Any = None, inputs: Any = None) -> Operand:
    """1 at each class, 0 elsewhere; of several classes together the larger."""
    given = inputs if x is None else x
    if layer.sparse:
        raise UnsupportedError("makes sparse rows; make them dense")
    dtype = str(layer.dtype or "float32")
    count, ends_ = writer.constant(np.array(int(layer.num_classes))), writer.constant(np.array([0, 1], dtype))
    classes = term(writer, given, "int32")
    known = (classes >= 0).unsqueezed(layer.axis).cast(dtype)  # negative ones are no class
    rows = classes.node("OneHot", count, ends_, axis=layer.axis, dtype=dtype) * known
    if type(layer).__name__ == "OneHot":
        return rows.name
    return rows.reduced("ReduceMax", [1 if len(given.shape) > 1 else 0]).name


def _logarithm(chances: Term, from_logits: bool, axis: int) -> Term:
    if from_logits:
        return chances.node("LogSoftmax", axis=axis)
    shares = chances / chances.reduced("ReduceSum", [axis], keepdims=True)
    return shares.node("Clip", _EPSILON, 1 - _EPSILON).node("Log")


@operation("CategoricalCrossentropy")
def categorical(writer: Writer, layer: Any, target: Any, output: Any) -> Operand:
    """Minus the logarithm of the target's chance."""
    wanted, chances = common(writer, target, output, real=True)
    return (-(wanted * _logarithm(chances, layer.from_logits, layer.axis)).reduced("ReduceSum", [layer.axis])).name


@operation("SparseCategoricalCrossentropy")
def sparse_categorical(writer: Writer, layer: Any, target: Any, output: Any) -> Operand:
    """The same of a target by its number."""
    chances, wanted = as_float(writer, output), term(writer, target, "int64")
    if len(target.shape) == len(output.shape):
        wanted = wanted.squeezed(-1)
    logs = _logarithm(chances, layer.from_logits, layer.axis)
    place = wanted.unsqueezed(layer.axis)
    return (-logs.node("GatherElements", place, axis=layer.axis).squeezed(layer.axis)).name


@operation("BinaryCrossentropy")
def binary(writer: Writer, layer: Any, target: Any, output: Any) -> Operand:
    """Minus the logarithm of the chance of each truth value."""
    wanted, chances = common(writer, target, output, real=True)
    if layer.from_logits:
        true, false = (-each.node("Softplus") for each in (-chances, chances))
    else:
        kept = chances.node("Clip", _EPSILON, 1 - _EPSILON)
        true, false = kept.node("Log"), (1 - kept).node("Log")
    return (-(wanted * true + (1 - wanted) * false)).name


@operation("PSNR")
def peak_signal_to_noise(writer: Writer, layer: Any, x1: Any, x2: Any) -> Operand:
    """How far the largest value stands out of the mean square of the difference of all, in decibels."""
    one, other = common(writer, x1, x2, real=True)
    apart = one - other
    error = (apart * apart).reduced("ReduceMean", range(len(x1.shape)))
    return (20 * math.log10(float(layer.max_val)) - error.node("Log") * (10 / math.log(10))).name
