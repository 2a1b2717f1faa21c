"""Moves the scale of attention scores to the queries, so that the softmax alone consumes the product (RULES 1.1, 7)."""

from __future__ import annotations

from dataclasses import replace

from ..ir import Eqn, Program, Var
from .rewriting import Replacement, Rewriting, rewritten

_PRODUCTS = {"matmul", "einsum"}
_ON_THE_WAY = {"add", "sub", "where", "cast", "reshape", "transpose"}  # masks, position biases, heads put in order
_REACH = 6  # equations between scale and softmax
_READERS = 3  # of each value in between that are looked at


def scale_queries(program: Program) -> Program:
    """softmax(s · QKᵀ + mask), for a positive number s, becomes softmax((s · Q)Kᵀ + mask)."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if eqn.op not in ("mul", "div") or len(eqn.invars) != 2:
        return None
    for scores, factor in (eqn.invars, eqn.invars[::-1]) if eqn.op == "mul" else (eqn.invars,):
        product = rewriting.producers.get(scores.name)
        if product is None or not _is_positive(rewriting, factor) or not _is_of_two(rewriting, product):
            continue
        if rewriting.reads(scores) == 1 and _reaches_softmax(rewriting, eqn.outvars[0], _REACH):
            return _moved(rewriting, product, factor, eqn)
    return None


def _is_positive(rewriting: Rewriting, factor: Var) -> bool:
    number = rewriting.number(factor)
    return number is not None and 0 < number < float("inf")


def _is_of_two(rewriting: Rewriting, product: Eqn) -> bool:
    return (
        product.op in _PRODUCTS
        and len(product.invars) == 2
        and not any(var.name in rewriting.weights for var in product.invars)
    )


def _reaches_softmax(rewriting: Rewriting, var: Var, reach: int) -> bool:
    readers = rewriting.readers[var.name][:_READERS]
    if any(reader.op == "softmax" for reader in readers):
        return True
    following = (reader.outvars[0] for reader in readers if _hands_on(rewriting, reader))
    return reach > 0 and any(_reaches_softmax(rewriting, result, reach - 1) for result in following)


def _hands_on(rewriting: Rewriting, reader: Eqn) -> bool:
    scales = reader.op in ("mul", "div") and any(_is_positive(rewriting, var) for var in reader.invars)
    return reader.op in _ON_THE_WAY or scales


def _moved(rewriting: Rewriting, product: Eqn, factor: Var, eqn: Eqn) -> Replacement:
    queries, keys = product.invars
    scaled = rewriting.equation(eqn, eqn.op, queries, factor, name=eqn.outvars[0].name + ".queries")
    if (scaled.outvars[0].shape, scaled.outvars[0].dtype) != (queries.shape, queries.dtype):
        return None
    return scaled, replace(product, invars=(scaled.outvars[0], keys), outvars=eqn.outvars)
