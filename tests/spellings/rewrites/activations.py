"""Activations as one operator or written out."""

from __future__ import annotations

import math

import numpy as np

from ..writing import attributes_of
from .registry import rewriting

f32 = np.float32


def _attribute(node, name, default):
    return attributes_of(node).get(name, default)


@rewriting
def relu_as_clip(sheet, node, new):
    return new.Clip(node.input[0], f32(0)) if node.op_type == "Relu" else None


@rewriting
def relu_as_maximum(sheet, node, new):
    return new.Max(node.input[0], f32(0)) if node.op_type == "Relu" else None


@rewriting
def relu_as_choice(sheet, node, new):
    if node.op_type != "Relu":
        return None
    return new.Where(new.Greater(node.input[0], f32(0)), node.input[0], f32(0))


@rewriting
def clip_as_extremes(sheet, node, new):
    if node.op_type != "Clip" or len(node.input) != 3:
        return None
    return new.Min(new.Max(node.input[0], node.input[1]), node.input[2])


@rewriting
def clip_as_relu_and_minimum(sheet, node, new):
    if node.op_type != "Clip" or len(node.input) != 3 or sheet.constants[node.input[1]]:
        return None
    return new.Min(new.Relu(node.input[0]), node.input[2])


@rewriting
def clip_by_steps(sheet, node, new):
    if node.op_type != "Clip" or len(node.input) != 3:
        return None
    return new.Clip(new.Clip(node.input[0], node.input[1]), None, node.input[2])


@rewriting
def leaky_relu_written_out(sheet, node, new):
    if node.op_type != "LeakyRelu":
        return None
    x = node.input[0]
    return new.Where(new.Less(x, f32(0)), new.Mul(x, f32(_attribute(node, "alpha", 0.01))), x)


@rewriting
def leaky_relu_as_prelu(sheet, node, new):
    if node.op_type != "LeakyRelu":
        return None
    return new.PRelu(node.input[0], np.array([_attribute(node, "alpha", 0.01)]))


def _is_plain_gelu(node):
    return node.op_type == "Gelu" and not node.domain and _attribute(node, "approximate", "none") == "none"


@rewriting
def gelu_by_erf(sheet, node, new):
    """As torch's older exporter writes it."""
    if not _is_plain_gelu(node):
        return None
    x = node.input[0]
    part = new.Add(new.Erf(new.Div(x, f32(math.sqrt(2)))), f32(1))
    return new.Mul(new.Mul(x, part), f32(0.5))


@rewriting
def gelu_by_erfc(sheet, node, new):
    """As JAX writes it: x/2 erfc(-x/√2)."""
    if not _is_plain_gelu(node):
        return None
    x = node.input[0]
    part = new.Sub(f32(1), new.Erf(new.Mul(new.Neg(x), f32(math.sqrt(0.5)))))
    return new.Mul(new.Mul(f32(0.5), x), part)


@rewriting
def gelu_of_microsoft(sheet, node, new):
    return new.Gelu(node.input[0], domain="com.microsoft") if _is_plain_gelu(node) else None


def _is_tanh_gelu(node):
    return node.op_type == "Gelu" and _attribute(node, "approximate", "none") == "tanh"


@rewriting
def gelu_by_tanh(sheet, node, new):
    if not _is_tanh_gelu(node):
        return None
    x = node.input[0]
    inner = new.Add(x, new.Mul(new.Pow(x, f32(3)), f32(0.044715)))
    part = new.Add(new.Tanh(new.Mul(inner, f32(math.sqrt(2 / math.pi)))), f32(1))
    return new.Mul(new.Mul(x, f32(0.5)), part)


@rewriting
def gelu_by_tanh_factored(sheet, node, new):
    """As onnxruntime's FastGelu is written."""
    if not _is_tanh_gelu(node):
        return None
    x = node.input[0]
    cubic = new.Add(f32(1), new.Mul(new.Mul(f32(0.044715), x), x))
    inner = new.Mul(new.Mul(x, f32(math.sqrt(2 / math.pi))), cubic)
    return new.Mul(new.Mul(f32(0.5), x), new.Add(f32(1), new.Tanh(inner)))


@rewriting
def sigmoid_written_out(sheet, node, new):
    if node.op_type != "Sigmoid":
        return None
    return new.Div(f32(1), new.Add(new.Exp(new.Neg(node.input[0])), f32(1)))


@rewriting
def sigmoid_by_tanh(sheet, node, new):
    if node.op_type != "Sigmoid":
        return None
    half = new.Tanh(new.Mul(node.input[0], f32(0.5)))
    return new.Add(new.Mul(half, f32(0.5)), f32(0.5))


def _swished(sheet, node):
    """x of x · sigmoid(x)."""
    if node.op_type != "Mul":
        return None
    for x, gate in (node.input, reversed(node.input)):
        writer = sheet.writers.get(gate)
        if writer is not None and writer.op_type == "Sigmoid" and writer.input[0] == x:
            return x
    return None


@rewriting
def silu_by_exp(sheet, node, new):
    if (x := _swished(sheet, node)) is None:
        return None
    return new.Div(x, new.Add(f32(1), new.Exp(new.Neg(x))))


@rewriting
def silu_as_quick_gelu(sheet, node, new):
    x = _swished(sheet, node)
    return None if x is None else new.QuickGelu(x, domain="com.microsoft", alpha=1.0)


def _six(new, x):
    return new.Clip(new.Add(x, f32(3)), f32(0), f32(6))


@rewriting
def hard_swish_by_clip(sheet, node, new):
    """As torch's older exporter writes it."""
    if node.op_type != "HardSwish":
        return None
    return new.Div(new.Mul(node.input[0], _six(new, node.input[0])), f32(6))


@rewriting
def hard_swish_by_relu_and_minimum(sheet, node, new):
    """As TensorFlow's relu6 comes out of tf2onnx."""
    if node.op_type != "HardSwish":
        return None
    x = node.input[0]
    six = new.Min(new.Relu(new.Add(x, f32(3))), f32(6))
    return new.Mul(x, new.Mul(six, f32(1 / 6)))


@rewriting
def hard_swish_by_hard_sigmoid(sheet, node, new):
    if node.op_type != "HardSwish":
        return None
    return new.Mul(node.input[0], new.HardSigmoid(node.input[0], alpha=1 / 6, beta=0.5))


@rewriting
def hard_sigmoid_by_clip(sheet, node, new):
    if node.op_type != "HardSigmoid" or not math.isclose(_attribute(node, "alpha", 0.2), 1 / 6, rel_tol=1e-6):
        return None
    return new.Div(_six(new, node.input[0]), f32(6))


@rewriting
def softplus_written_out(sheet, node, new):
    return new.Log(new.Add(new.Exp(node.input[0]), f32(1))) if node.op_type == "Softplus" else None


@rewriting
def softplus_stable(sheet, node, new):
    if node.op_type != "Softplus":
        return None
    x = node.input[0]
    rest = new.Log(new.Add(new.Exp(new.Neg(new.Abs(x))), f32(1)))
    return new.Add(new.Relu(x), rest)


@rewriting
def elu_written_out(sheet, node, new):
    if node.op_type != "Elu":
        return None
    x = node.input[0]
    growth = new.Mul(f32(_attribute(node, "alpha", 1.0)), new.Sub(new.Exp(x), f32(1)))
    return new.Where(new.Greater(x, f32(0)), x, growth)


@rewriting
def mish_written_out(sheet, node, new):
    if node.op_type != "Mish":
        return None
    return new.Mul(node.input[0], new.Tanh(new.Softplus(node.input[0])))


@rewriting
def softsign_written_out(sheet, node, new):
    if node.op_type != "Softsign":
        return None
    return new.Div(node.input[0], new.Add(new.Abs(node.input[0]), f32(1)))
