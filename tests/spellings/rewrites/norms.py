"""Normalisations as one operator or written out, as exporters write them."""

from __future__ import annotations

import numpy as np

from ..writing import attributes_of
from .registry import rewriting

f32 = np.float32
LAST = np.array([-1])


def _layer_norm(sheet, node):
    if node.op_type != "LayerNormalization":
        return None
    return node.input[0], node.input[1], node.input[2], f32(attributes_of(node).get("epsilon", 1e-5))


@rewriting
def layer_norm_as_torch(sheet, node, new):
    if (found := _layer_norm(sheet, node)) is None:
        return None
    x, gamma, beta, epsilon = found
    d = new.Sub(x, new.ReduceMean(x, LAST))
    spread = new.Sqrt(new.Add(new.ReduceMean(new.Pow(d, f32(2)), LAST), epsilon))
    return new.Add(new.Mul(new.Div(d, spread), gamma), beta)


@rewriting
def layer_norm_as_tensorflow(sheet, node, new):
    """x · inverse + (beta − mean · inverse)."""
    if (found := _layer_norm(sheet, node)) is None:
        return None
    x, gamma, beta, epsilon = found
    m = new.ReduceMean(x, LAST)
    d = new.Sub(x, m)
    inverse = new.Reciprocal(new.Sqrt(new.Add(new.ReduceMean(new.Mul(d, d), LAST), epsilon)))
    inverse = new.Mul(inverse, gamma)
    return new.Add(new.Mul(x, inverse), new.Sub(beta, new.Mul(m, inverse)))


@rewriting
def layer_norm_as_flax(sheet, node, new):
    """E[x²] − E[x]², reductions without axes, put back by Reshape and Expand."""
    if (found := _layer_norm(sheet, node)) is None:
        return None
    x, gamma, beta, epsilon = found
    shape = sheet.shapes[x]

    def mean(y):
        return new.Div(new.ReduceSum(y, LAST, keepdims=0), f32(shape[-1]))

    def wide(y):
        return new.Expand(y, np.array(shape))

    m, square = mean(x), mean(new.Mul(x, x))
    variance = new.Max(f32(0), new.Sub(square, new.Mul(m, m)))
    kept = np.array([*shape[:-1], 1])
    d = new.Sub(x, wide(new.Reshape(m, kept)))
    inverse = new.Reciprocal(new.Sqrt(new.Add(new.Reshape(variance, kept), epsilon)))
    inverse = new.Mul(wide(inverse), new.Reshape(gamma, np.array([1, 1, shape[-1]])))
    return new.Add(new.Mul(d, inverse), wide(new.Reshape(beta, np.array([1, 1, shape[-1]]))))


@rewriting
def layer_norm_as_equinox(sheet, node, new):
    """(x − mean) · rsqrt(max(0, var) + ε) · gamma + beta."""
    if (found := _layer_norm(sheet, node)) is None:
        return None
    x, gamma, beta, epsilon = found
    d = new.Sub(x, new.ReduceMean(x, LAST))
    variance = new.Max(new.ReduceMean(new.Mul(d, d), LAST), f32(0))
    inverse = new.Div(f32(1), new.Sqrt(new.Add(variance, epsilon)))
    return new.Add(new.Mul(gamma, new.Mul(inverse, d)), beta)


@rewriting
def layer_norm_scale_apart(sheet, node, new):
    if (found := _layer_norm(sheet, node)) is None:
        return None
    x, gamma, beta, _ = found
    size = sheet.shapes[gamma]
    return new.Add(new.Mul(new.again(node, x, np.ones(size), np.zeros(size)), gamma), beta)


@rewriting
def layer_norm_of_rows(sheet, node, new):
    """On [rows, features]."""
    if _layer_norm(sheet, node) is None:
        return None
    shape = sheet.shapes[node.input[0]]
    rows = new.Reshape(node.input[0], np.array([-1, shape[-1]]))
    return new.Reshape(new.again(node, rows, *node.input[1:]), np.array(shape))


def _rms(sheet, node):
    """x, gamma, epsilon of the plain spelling: Mul(Mul(x, Reciprocal(Sqrt(Add(mean, ε)))), gamma)."""
    if node.op_type != "Mul" or not sheet.known(node.input[1]):
        return None
    inner = sheet.writers.get(node.input[0])
    inverse = sheet.writers.get(inner.input[1]) if inner is not None and inner.op_type == "Mul" else None
    if inner is None or inverse is None or inverse.op_type != "Reciprocal":
        return None
    total = sheet.writers[sheet.writers[inverse.input[0]].input[0]]
    return inner.input[0], sheet.constants[node.input[1]], sheet.constants[total.input[1]]


@rewriting
def rms_norm_fused(sheet, node, new):
    if (found := _rms(sheet, node)) is None:
        return None
    x, gamma, epsilon = found
    return new.SimplifiedLayerNormalization(x, gamma, axis=-1, epsilon=float(epsilon), domain="com.microsoft")


@rewriting
def rms_norm_by_division(sheet, node, new):
    if (found := _rms(sheet, node)) is None:
        return None
    x, gamma, epsilon = found
    spread = new.Sqrt(new.Add(new.ReduceMean(new.Mul(x, x), LAST), epsilon))
    return new.Mul(gamma, new.Div(x, spread))


@rewriting
def rms_norm_as_flax(sheet, node, new):
    """The scale joins the inverse first; the mean is a sum over the count, put back by Reshape and Expand."""
    if (found := _rms(sheet, node)) is None:
        return None
    x, gamma, epsilon = found
    shape = sheet.shapes[x]
    square = new.Div(new.ReduceSum(new.Mul(x, x), LAST, keepdims=0), f32(shape[-1]))
    inverse = new.Pow(new.Add(new.Reshape(square, np.array([*shape[:-1], 1])), epsilon), f32(-0.5))
    return new.Mul(x, new.Mul(new.Expand(inverse, np.array(shape)), gamma.reshape(1, 1, -1)))


@rewriting
def rms_norm_by_length(sheet, node, new):
    """By the Euclidean norm, as some write it: x √n / (‖x‖² + n ε)^½."""
    if (found := _rms(sheet, node)) is None:
        return None
    x, gamma, epsilon = found
    count = sheet.shapes[x][-1]
    mean = new.Mul(new.ReduceSumSquare(x, LAST), f32(1 / count))
    return new.Mul(new.Mul(x, new.Div(f32(1), new.Sqrt(new.Add(epsilon, mean)))), gamma)
