"""Arithmetic: negation, powers, division by constants, sums in other orders."""

from __future__ import annotations

import numpy as np

from .registry import rewriting


@rewriting
def difference_as_sum(sheet, node, new):
    return new.Add(node.input[0], new.Neg(node.input[1])) if node.op_type == "Sub" else None


@rewriting
def difference_by_minus_one(sheet, node, new):
    return new.Add(new.Mul(node.input[1], np.float32(-1)), node.input[0]) if node.op_type == "Sub" else None


@rewriting
def negation_as_difference(sheet, node, new):
    return new.Sub(np.float32(0), node.input[0]) if node.op_type == "Neg" else None


@rewriting
def negation_as_product(sheet, node, new):
    return new.Mul(node.input[0], np.float32(-1)) if node.op_type == "Neg" else None


@rewriting
def sum_as_difference(sheet, node, new):
    return new.Sub(node.input[0], new.Neg(node.input[1])) if node.op_type == "Add" else None


def owned(sheet, node):
    """Whether a sum adds a constant to a linear map, whose bias it is."""
    known = [sheet.known(name) for name in node.input]
    source = sheet.writers.get(node.input[known.index(False)]) if False in known else None
    return any(known) and source is not None and source.op_type in ("MatMul", "Conv", "Gemm")


@rewriting
def sum_of_many(sheet, node, new):
    """Add as Sum, which takes any number: sums that nothing else reads join in."""
    if node.op_type != "Add":
        return None
    operands = []
    for name in node.input:
        writer = sheet.writers.get(name)
        if writer is None or writer.op_type != "Add" or not sheet.alone(name) or owned(sheet, writer):
            operands.append(name)
        else:
            operands += writer.input
    return new.Sum(*operands)


@rewriting
def operands_swapped(sheet, node, new):
    return new.again(node, *reversed(node.input)) if node.op_type in ("Add", "Mul", "Max", "Min", "Sum") else None


@rewriting
def sum_reassociated(sheet, node, new):
    """(a + b) + c as a + (b + c)."""
    writer = sheet.writers.get(node.input[0]) if node.op_type == "Add" else None
    if writer is None or writer.op_type != "Add" or not sheet.alone(node.input[0]) or owned(sheet, writer):
        return None
    return new.Add(writer.input[0], new.Add(writer.input[1], node.input[1]))


@rewriting
def division_as_product(sheet, node, new):
    if node.op_type != "Div" or not sheet.known(node.input[1]):
        return None
    return new.Mul(node.input[0], (1 / sheet.constants[node.input[1]].astype(np.float64)).astype(np.float32))


@rewriting
def product_as_division(sheet, node, new):
    if node.op_type != "Mul" or not sheet.known(node.input[1]) or not sheet.constants[node.input[1]].all():
        return None
    return new.Div(node.input[0], (1 / sheet.constants[node.input[1]].astype(np.float64)).astype(np.float32))


@rewriting
def quotient_as_product(sheet, node, new):
    if node.op_type != "Div" or sheet.known(node.input[1]):
        return None
    return new.Mul(node.input[0], new.Reciprocal(node.input[1]))


@rewriting
def square_as_product(sheet, node, new):
    if node.op_type != "Pow" or not sheet.known(node.input[1]) or sheet.constants[node.input[1]].tolist() != 2:
        return None
    return new.Mul(node.input[0], node.input[0])


@rewriting
def product_as_square(sheet, node, new):
    return new.Pow(node.input[0], np.float32(2)) if node.op_type == "Mul" and len({*node.input}) == 1 else None


@rewriting
def root_as_power(sheet, node, new):
    return new.Pow(node.input[0], np.float32(0.5)) if node.op_type == "Sqrt" else None


@rewriting
def reciprocal_as_division(sheet, node, new):
    return new.Div(np.float32(1), node.input[0]) if node.op_type == "Reciprocal" else None
