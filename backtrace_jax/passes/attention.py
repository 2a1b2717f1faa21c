"""Moves the scale of attention scores to the queries, so that the softmax alone consumes the product (RULES 1.1, 7)."""

from __future__ import annotations

from dataclasses import replace

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting, rewritten

_PRODUCTS = {"matmul", "einsum"}
_ON_THE_WAY = {"add", "sub", "where", "cast", "reshape", "transpose"}  # masks, position biases, heads put in order
_MOVES = {"reshape", "transpose"}
_REACH = 6  # equations between scale and softmax
_READERS = 3  # of each value in between that are looked at


def scale_queries(program: Program) -> Program:
    """softmax(s · QKᵀ + mask) and softmax(Q(s · K)ᵀ + mask) become softmax((s · Q)Kᵀ + mask), for a number s > 0."""
    return rewritten(program, _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    if _is_of_two(rewriting, eqn):
        return _from_keys(rewriting, eqn)
    if eqn.op not in ("mul", "div") or len(eqn.invars) != 2:
        return None
    for scores, factor in (eqn.invars, eqn.invars[::-1]) if eqn.op == "mul" else (eqn.invars,):
        product = rewriting.producers.get(scores.name)
        if product is None or not _is_positive(rewriting, factor) or not _is_of_two(rewriting, product):
            continue
        if rewriting.reads(scores) == 1 and _reaches_softmax(rewriting, eqn.outvars[0], _REACH):
            return _moved(rewriting, product, factor, eqn)
    return None


def _from_keys(rewriting: Rewriting, product: Eqn) -> Replacement:
    """Scores of scaled keys are those of scaled queries; moves may lie between the keys' scale and the product."""
    queries, keys = product.invars
    moves, var = [], keys
    while (before := rewriting.producers.get(var.name)) is not None and rewriting.reads(var) == 1:
        if before.op not in _MOVES:
            break
        moves.append(before)
        var = before.invars[0]
    found = _scaled(rewriting, before) if before is not None and rewriting.reads(var) == 1 else None
    if found is None or not _reaches_softmax(rewriting, product.outvars[0], _REACH):
        return None
    eqns, (plain, factor) = [], found
    for move in reversed(moves):
        eqns.append(rewriting.equation(move, move.op, plain, name=f"{move.outvars[0].name}.plain", **move.params))
        plain = eqns[-1].outvars[0]
    name = f"{product.outvars[0].name}.queries"
    eqns.append(rewriting.equation(before or product, "mul", queries, factor, name=name))
    return *eqns, replace(product, invars=(eqns[-1].outvars[0], plain))


def _scaled(rewriting: Rewriting, eqn: Eqn) -> tuple[Var, Var] | None:
    """A value and the positive number that it is multiplied by here."""
    if eqn.op != "mul":
        return None
    for value, factor in (eqn.invars, eqn.invars[::-1]):
        if _is_positive(rewriting, factor) and (value.shape, value.dtype) == (eqn.outvars[0].shape, factor.dtype):
            return value, factor
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
