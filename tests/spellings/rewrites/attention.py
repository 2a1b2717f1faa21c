"""Softmax attention: scales, masks, projections, softmax written out."""

from __future__ import annotations

import math

import numpy as np

from ..writing import attributes_of
from .registry import rewriting

f32 = np.float32


def _axis(sheet, node):
    axis = attributes_of(node).get("axis", -1)
    return axis % len(sheet.shapes[node.input[0]])


@rewriting
def softmax_written_out(sheet, node, new):
    if node.op_type != "Softmax":
        return None
    axes = np.array([_axis(sheet, node)])
    top = new.ReduceMax(node.input[0], axes, keepdims=1)
    powers = new.Exp(new.Sub(node.input[0], top))
    return new.Div(powers, new.ReduceSum(powers, axes, keepdims=1))


@rewriting
def softmax_as_jax(sheet, node, new):
    """Reductions without their axes, put back by Reshape and Expand."""
    if node.op_type != "Softmax":
        return None
    x, axis, shape = node.input[0], _axis(sheet, node), sheet.shapes[node.input[0]]
    kept = np.array([1 if i == axis else size for i, size in enumerate(shape)])

    def wide(y):
        return new.Expand(new.Reshape(y, kept), np.array(shape))

    top = wide(new.Max(new.ReduceMax(x, np.array([axis]), keepdims=0), f32(-np.inf)))
    powers = new.Exp(new.Sub(x, top))
    return new.Div(powers, wide(new.ReduceSum(powers, np.array([axis]), keepdims=0)))


@rewriting
def softmax_of_another_axis(sheet, node, new):
    """The axis brought to the end and back."""
    if node.op_type != "Softmax":
        return None
    rank = len(sheet.shapes[node.input[0]])
    perm = [*range(rank - 2), rank - 1, rank - 2]
    axis = perm.index(_axis(sheet, node))
    return new.Transpose(new.Softmax(new.Transpose(node.input[0], perm=perm), axis=axis), perm=perm)


def _scores(sheet, node):
    """The product of two computed values, and the number it is multiplied by."""
    if node.op_type != "Mul" or not sheet.known(node.input[1]) or sheet.constants[node.input[1]].size != 1:
        return None
    product = sheet.writers.get(node.input[0])
    if product is None or product.op_type != "MatMul" or any(map(sheet.known, product.input)):
        return None
    return product, float(sheet.constants[node.input[1]])


@rewriting
def scores_divided(sheet, node, new):
    if (found := _scores(sheet, node)) is None:
        return None
    return new.Div(new.again(found[0]), f32(1 / found[1]))


@rewriting
def queries_scaled(sheet, node, new):
    if (found := _scores(sheet, node)) is None:
        return None
    q, k = found[0].input
    return new.MatMul(new.Mul(q, f32(found[1])), k)


@rewriting
def keys_scaled(sheet, node, new):
    if (found := _scores(sheet, node)) is None:
        return None
    q, k = found[0].input
    return new.MatMul(q, new.Mul(f32(found[1]), k))


@rewriting
def both_scaled(sheet, node, new):
    """As torch's scaled_dot_product_attention is exported."""
    if (found := _scores(sheet, node)) is None:
        return None
    root = f32(math.sqrt(found[1]))
    q, k = found[0].input
    return new.MatMul(new.Mul(q, root), new.Mul(k, root))


@rewriting
def scores_as_einsum(sheet, node, new):
    if node.op_type != "MatMul" or any(map(sheet.known, node.input)) or len(sheet.shapes[node.input[0]]) != 4:
        return None
    return new.Einsum(*node.input, equation="bhqd,bhdk->bhqk")


@rewriting
def scores_fused(sheet, node, new):
    """FusedMatMul with alpha, as onnxruntime writes it."""
    if (found := _scores(sheet, node)) is None:
        return None
    return new.FusedMatMul(*found[0].input, alpha=found[1], domain="com.microsoft")


def _masked(sheet, node):
    """Scores and the known mask added to them."""
    if node.op_type != "Add" or not sheet.known(node.input[1]):
        return None
    mask = sheet.constants[node.input[1]]
    return (node.input[0], mask) if mask.min() <= -1e4 else None


@rewriting
def mask_as_choice(sheet, node, new):
    if (found := _masked(sheet, node)) is None:
        return None
    return new.Where(found[1] > -1, found[0], f32(-1e9))


@rewriting
def mask_of_infinity(sheet, node, new):
    if (found := _masked(sheet, node)) is None:
        return None
    return new.Add(found[0], np.where(found[1] > -1, f32(0), f32(-np.inf)))


@rewriting
def mask_from_booleans(sheet, node, new):
    """As sdpa is exported: a boolean mask made additive, and NaN looked for after the softmax."""
    if (found := _masked(sheet, node)) is None:
        return None
    return new.Add(found[0], new.Where(found[1] > -1, f32(0), f32(-np.inf)))


@rewriting
def softmax_guarded(sheet, node, new):
    if node.op_type != "Softmax" or len(sheet.shapes[node.input[0]]) != 4:
        return None
    weights = new.again(node)
    return new.Where(new.IsNaN(weights), f32(0), weights)


def _projection(sheet, node):
    """Input, weights and bias of MatMul + Add."""
    if node.op_type != "Add" or not sheet.known(node.input[1]):
        return None
    writer = sheet.writers.get(node.input[0])
    if writer is None or writer.op_type != "MatMul" or not sheet.known(writer.input[1]):
        return None
    K, bias = sheet.constants[writer.input[1]], sheet.constants[node.input[1]]
    return (writer.input[0], K, bias) if bias.ndim == 1 else None


def _brothers(sheet, node):
    """Dense layers that read what this one reads, itself among them, all of one size."""
    own = _projection(sheet, node)
    if own is None:
        return []
    found = [(each, _projection(sheet, each)) for each in sheet.writers.values()]
    alike = [(each, layer) for each, layer in found if layer and layer[0] == own[0] and layer[1].shape == own[1].shape]
    return alike if len(alike) > 1 else []


@rewriting
def projections_fused(sheet, node, new):
    """Dense layers of one value as one dense layer, split; the nodes of the others then read nothing."""
    brothers = _brothers(sheet, node)
    if not brothers:
        return None
    K = np.concatenate([layer[1] for _, layer in brothers], 1)
    bias = np.concatenate([layer[2] for _, layer in brothers])
    whole = new.Add(new.MatMul(brothers[0][1][0], K), bias)
    parts = new.Split(whole, axis=-1, num_outputs=len(brothers), results=len(brothers))
    return parts[[each.output[0] for each, _ in brothers].index(node.output[0])]
