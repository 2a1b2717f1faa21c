"""Moves and bookkeeping: identities, pairs that cancel, constants, shapes written in other ways."""

from __future__ import annotations

import itertools

import numpy as np

from ..writing import attributes_of
from .registry import rewriting


def after_every(sheet, node, new, move):
    """The node, and what `move` makes of its results of floats."""
    if node.op_type == "Constant" or len(node.output) > 1 or not sheet.is_float(node.output[0]):
        return None
    return move(new.again(node)) if node.output[0] in sheet.shapes else None


@rewriting
def identities(sheet, node, new):
    return after_every(sheet, node, new, new.Identity)


@rewriting
def dropouts(sheet, node, new):
    return after_every(sheet, node, new, new.Dropout)


@rewriting
def cast_pairs(sheet, node, new):
    return after_every(sheet, node, new, lambda y: new.Cast(new.Cast(y, to=11), to=1))


@rewriting
def casts_to_own_type(sheet, node, new):
    return after_every(sheet, node, new, lambda y: new.Cast(y, to=1))


@rewriting
def reshape_pairs(sheet, node, new):
    shape = sheet.shapes.get(node.output[0])
    return after_every(sheet, node, new, lambda y: new.Reshape(new.Reshape(y, np.array([-1])), np.array(shape)))


@rewriting
def unsqueeze_pairs(sheet, node, new):
    return after_every(sheet, node, new, lambda y: new.Squeeze(new.Unsqueeze(y, np.array([0])), np.array([0])))


@rewriting
def transpose_pairs(sheet, node, new):
    rank = len(sheet.shapes.get(node.output[0], ()))
    if rank < 2:
        return None
    forth = [0, *range(2, rank), 1]
    back = np.argsort(forth).tolist()
    return after_every(sheet, node, new, lambda y: new.Transpose(new.Transpose(y, perm=forth), perm=back))


@rewriting
def products_with_one(sheet, node, new):
    return after_every(sheet, node, new, lambda y: new.Mul(y, np.float32(1)))


@rewriting
def sums_with_zero(sheet, node, new):
    return after_every(sheet, node, new, lambda y: new.Add(np.float32(0), y))


@rewriting
def constant_nodes(sheet, node, new):
    """Initialisers as Constant nodes."""
    if not any(sheet.known(name) for name in node.input) or node.op_type == "Constant":
        return None
    from onnx import numpy_helper

    operands = [
        new.Constant(value=numpy_helper.from_array(sheet.constants[name])) if sheet.known(name) else name
        for name in node.input
    ]
    return new.again(node, *operands)


@rewriting
def computed_twice(sheet, node, new):
    """What several nodes read is computed for each of them."""
    operands = list(node.input)
    for i, name in enumerate(node.input):
        writer = sheet.writers.get(name)
        shared = len(sheet.readers[name]) > 1 and writer is not None and len(writer.output) == 1
        if shared and not sheet.known(name) and sheet.is_float(name):
            operands[i] = new.again(writer)
    return new.again(node, *operands) if operands != list(node.input) else None


@rewriting
def flatten_as_reshape(sheet, node, new):
    return new.Reshape(node.input[0], np.array([0, -1])) if node.op_type == "Flatten" else None


@rewriting
def flatten_by_steps(sheet, node, new):
    if node.op_type != "Flatten":
        return None
    shape = sheet.shapes[node.input[0]]
    if set(shape[2:]) == {1}:
        return new.Squeeze(node.input[0], np.arange(2, len(shape)))
    return new.Reshape(new.Reshape(node.input[0], np.array([*shape[:2], -1])), np.array([shape[0], -1]))


@rewriting
def split_as_slices(sheet, node, new):
    if node.op_type != "Split":
        return None
    axis = attributes_of(node).get("axis", 0)
    size = sheet.shapes[node.input[0]][axis]
    parts = sheet.constants[node.input[1]].tolist() if len(node.input) > 1 else None
    parts = parts or [size // len(node.output)] * len(node.output)
    ends = np.cumsum([0, *parts])
    pairs = itertools.pairwise(ends)
    return [new.Slice(node.input[0], np.array([a]), np.array([b]), np.array([axis])) for a, b in pairs]


@rewriting
def gather_as_slice(sheet, node, new):
    """One entry along an axis as a slice, then squeezed."""
    if node.op_type != "Gather" or not sheet.known(node.input[1]) or sheet.constants[node.input[1]].ndim:
        return None
    axis, at = attributes_of(node).get("axis", 0), int(sheet.constants[node.input[1]])
    part = new.Slice(node.input[0], np.array([at]), np.array([at + 1]), np.array([axis]))
    return new.Squeeze(part, np.array([axis]))


@rewriting
def concat_nested(sheet, node, new):
    if node.op_type != "Concat" or len(node.input) < 3:
        return None
    axis = attributes_of(node)["axis"]
    return new.Concat(new.Concat(*node.input[:2], axis=axis), *node.input[2:], axis=axis)


@rewriting
def expanded_operands(sheet, node, new):
    """What is broadcast is expanded first, as jax2onnx writes it."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.output[0] not in sheet.shapes:
        return None
    shape, operands = sheet.shapes[node.output[0]], list(node.input)
    for i, name in enumerate(node.input):
        if sheet.shapes.get(name, shape) != shape and not sheet.known(name):
            operands[i] = new.Expand(name, np.array(shape))
    return new.again(node, *operands) if operands != list(node.input) else None


@rewriting
def expanded_constants(sheet, node, new):
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.output[0] not in sheet.shapes:
        return None
    shape, operands = sheet.shapes[node.output[0]], list(node.input)
    for i, name in enumerate(node.input):
        if sheet.known(name) and sheet.constants[name].shape != shape:
            operands[i] = np.ascontiguousarray(np.broadcast_to(sheet.constants[name], shape))
    return new.again(node, *operands) if any(not isinstance(x, str) for x in operands) else None


@rewriting
def resize_as_upsampling(sheet, node, new):
    """Nearest-neighbour upsampling by two as copies along axes put in."""
    if node.op_type != "Resize" or attributes_of(node).get("mode", "nearest") != "nearest":
        return None
    n, channels, height, width = sheet.shapes[node.input[0]]
    wide = new.Reshape(node.input[0], np.array([n, channels, height, 1, width, 1]))
    copies = new.Expand(wide, np.array([n, channels, height, 2, width, 2]))
    return new.Reshape(copies, np.array([n, channels, 2 * height, 2 * width]))
