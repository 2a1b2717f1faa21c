"""Recognises normalisations that exporters write out in several equations, with their scale and shift.

RULES section 6: x takes all of the relevance; the statistics, the scale and the shift take nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .fitting import Bound
from .linear_maps import before_moves
from .patterns import Either, Hole, Number, Pattern, Reduced, call
from .rewriting import Form, Recogniser, Replacement, Rewriting, rewritten

x, gamma, beta = Hole("x"), Hole("gamma", known=True), Hole("beta", known=True)
_mean = Reduced("reduce_mean", x)
_centred = x - _mean
_square = Reduced("reduce_mean", x * x)
_variance = Reduced("reduce_mean", _centred * _centred) | _square - _mean * _mean
_variance = _variance | call("relu", _variance)


def _over_root(numerator: Callable[[Pattern], Pattern], spread: Pattern) -> Pattern:
    """A numerator over the root of a spread plus epsilon, in every spelling of that; it is told how to divide."""
    total = spread + Number("epsilon", 0.0)
    roots, inverses = (call("sqrt", total), call("pow", total, 0.5)), (call("rsqrt", total), call("pow", total, -0.5))
    return Either((*(numerator(1 / root) for root in roots), *map(numerator, inverses)))


def _norm(op: str, *affine: str) -> Callable[[Rewriting, Eqn, Bound], Replacement]:
    """A normalisation in the float type in which its statistics are computed, then in the type of the result."""

    def build(rewriting: Rewriting, eqn: Eqn, bound: Bound) -> Replacement:
        before = _cast(rewriting, eqn, bound["x"], bound["type"], "x")
        value = before[-1].outvars[0] if before else bound["x"]
        operands = (_retyped(rewriting, bound[name], bound["type"]) for name in affine)
        return [
            *before,
            *_with_type(rewriting, eqn, op, value, *operands, axes=bound["axes"], epsilon=bound["epsilon"]),
        ]

    return build


def _cast(rewriting: Rewriting, eqn: Eqn, var: Var, dtype: np.dtype, name: str) -> list[Eqn]:
    if var.dtype == dtype:
        return []
    return [rewriting.equation(eqn, "cast", var, name=f"{eqn.outvars[0].name}.{name}", dtype=dtype.name)]


def _retyped(rewriting: Rewriting, var: Var, dtype: np.dtype) -> Var:
    """A known array in another type."""
    return var if var.dtype == dtype else rewriting.param(var.name, rewriting.weights[var.name].astype(dtype))


def _with_type(rewriting: Rewriting, eqn: Eqn, op: str, *operands: Var, **params: Any) -> list[Eqn]:
    """An operation in the type of its operands, whose result is then converted to the type of another equation's."""
    result = eqn.outvars[0]
    if operands[0].dtype == result.dtype:
        return [rewriting.equation(eqn, op, *operands, **params)]
    wide = rewriting.equation(eqn, op, *operands, name=f"{result.name}.wide", **params)
    return [wide, rewriting.equation(eqn, "cast", wide.outvars[0], dtype=result.dtype.name)]


_recognise = Recogniser(
    Form(
        _over_root(lambda r: x * gamma * r + (beta - _mean * gamma * r), _variance),
        _norm("layer_norm", "gamma", "beta"),
    ),
    Form(_over_root(lambda r: x * gamma * r - _mean * gamma * r, _variance), _norm("layer_norm", "gamma")),
    Form(_over_root(lambda r: _centred * gamma * r, _variance), _norm("layer_norm", "gamma")),
    Form(_over_root(lambda r: x * r - _mean * r, _variance), _norm("layer_norm")),
    Form(_over_root(lambda r: _centred * r, _variance), _norm("layer_norm")),
    Form(_over_root(lambda r: x * gamma * r, _square), _norm("rms_norm", "gamma")),
    Form(_over_root(lambda r: x * r, _square), _norm("rms_norm")),
)


def recognise_norms(program: Program) -> Program:
    """Layer, RMS, instance and group normalisation become one operation each, their scale and shift included."""
    return rewritten(_recognise(program), _step)


def _step(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    return _grouped(rewriting, eqn) if eqn.op == "reshape" else _with_affine(rewriting, eqn)


def _grouped(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """reshape(layer_norm(reshape(x))) over all but the first two axes: normalisation within groups of channels."""
    norm = rewriting.producers.get(eqn.invars[0].name)
    before = rewriting.producers.get(norm.invars[0].name) if norm and norm.op == "layer_norm" else None
    if norm is None or before is None or before.op != "reshape" or not _is_plain(rewriting, norm):
        return None
    value, between, axes = before.invars[0], before.outvars[0].shape, tuple(norm.params["axes"])
    shape = eqn.outvars[0].shape
    if len(shape) < 3 or len(between) < 3 or axes != tuple(range(2, len(between))):
        return None
    if between[0] != shape[0] or shape[1] % between[1]:
        return None
    given = (
        []
        if value.shape == shape
        else [rewriting.equation(eqn, "reshape", value, name=f"{value.name}.image", shape=shape)]
    )
    image = given[0].outvars[0] if given else value
    settings = {"groups": between[1], "epsilon": norm.params["epsilon"]}
    return (*given, rewriting.equation(eqn, "group_norm", image, **settings))


def _is_plain(rewriting: Rewriting, norm: Eqn) -> bool:
    """Whether a normalisation has no scale but ones and no shift but zeros."""
    arrays = [rewriting.weights.get(var.name) for var in norm.invars[1:]]
    return all(array is not None and (array == neutral).all() for array, neutral in zip(arrays, (1, 0), strict=False))


def _with_affine(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A known scale or shift behind a normalisation, with moves between at most, becomes part of it."""
    if eqn.op not in ("mul", "add", "sub") or len(eqn.invars) != 2:
        return None
    for position in (0, 1) if eqn.op != "sub" else (1,):
        known, value = eqn.invars[position], eqn.invars[1 - position]
        norm, moves = _behind(rewriting, value)
        if (
            known.name not in rewriting.weights
            or norm is None
            or (len(norm.invars) > 1 and rewriting.reads(value) != 1)
        ):
            continue
        array = rewriting.weights[known.name]
        array = before_moves(array, moves, len(value.shape), 0.0) if moves else array
        if value.shape == eqn.outvars[0].shape and _takes(rewriting, norm, array, _varying(known.shape, value.shape)):
            return _joined(rewriting, norm, known, array, moves, eqn)
    return None


def _behind(rewriting: Rewriting, var: Var) -> tuple[Eqn | None, list[Eqn]]:
    """The normalisation behind a value, and the moves between, outermost first, that nothing else reads."""
    moves: list[Eqn] = []
    while (before := rewriting.origin(var)) is not None and before.op in ("reshape", "transpose"):
        if rewriting.reads(var) != 1:
            return None, []
        moves.append(before)
        var = before.invars[0]
    alone = not moves or rewriting.reads(var) == 1
    return (before, moves) if before is not None and before.op in _AFFINE and alone else (None, [])


def _takes(rewriting: Rewriting, norm: Eqn, array: np.ndarray, before_moves: set[int]) -> bool:
    """Whether a normalisation has room for this scale or shift: it varies only where its own may."""
    if any(var.name not in rewriting.weights for var in norm.invars[1:]):
        return False
    shape = norm.outvars[0].shape
    varying = set().union(*(_varying(each, shape) for each in (array.shape, *(var.shape for var in norm.invars[1:]))))
    allowed = _AFFINE[norm.op](norm, len(before_moves) <= 1)
    return any(varying <= axes for axes in allowed) and bool(np.isfinite(array).all())


def _varying(shape: tuple[int, ...], whole: tuple[int, ...]) -> set[int]:
    """Axes of the whole along which an array that meets it varies."""
    return {axis + len(whole) - len(shape) for axis, size in enumerate(shape) if size > 1}


_AFFINE: dict[str, Callable[[Eqn, bool], list[set[int]]]] = {
    "rms_norm": lambda norm, _: [set(norm.params["axes"])],
    "layer_norm": lambda norm, single: [set(norm.params["axes"]), *_channels(norm, single)],
    "group_norm": lambda *_: [{1}],
}
"""Along which axes the scale and shift of a normalisation may vary, alternatives listed."""


def _channels(norm: Eqn, single: bool) -> list[set[int]]:
    """The one axis, beside that of the examples, that is not normalised: channels, or groups of them and the next.

    A scale that is that of each channel of a group varies along a single axis where the groups are one axis again.
    """
    left = set(range(1, len(norm.invars[0].shape))) - set(norm.params["axes"])
    return [left, *([{*left, max(left) + 1}] if single else [])] if len(left) == 1 else []


def _joined(
    rewriting: Rewriting, norm: Eqn, known: Var, array: np.ndarray, moves: Sequence[Eqn], eqn: Eqn
) -> Replacement:
    """The scale multiplies what the normalisation has of its own; a shift is added to it."""
    own = [rewriting.weights[var.name] for var in norm.invars[1:]]
    scale, shift = (own[0] if own else np.ones(())), (own[1] if len(own) > 1 else None)
    if eqn.op == "mul":
        scale, shift = scale * array, None if shift is None else shift * array
    else:
        signed = -array if eqn.op == "sub" else array
        shift = signed if shift is None else shift + signed
    name, dtype = eqn.outvars[0].name, norm.invars[0].dtype
    whole = eqn.op == "mul" and not own and not moves
    parts = [(".scale", known if whole else None, scale), (".shift", None, shift)]
    affine = [
        _retyped(rewriting, var, dtype) if var else rewriting.param(name + suffix, np.asarray(each, dtype))
        for suffix, var, each in parts
        if each is not None
    ]
    if not moves:
        return _with_type(rewriting, eqn, norm.op, norm.invars[0], *affine, **norm.params)
    eqns = [rewriting.equation(norm, norm.op, norm.invars[0], *affine, name=f"{name}.norm", **norm.params)]
    for place, move in reversed(list(enumerate(moves))):
        value = eqns[-1].outvars[0]
        eqns.append(rewriting.equation(move, move.op, value, name=f"{name}.moved" if place else "", **move.params))
    return *eqns[:-1], replace(eqns[-1], outvars=eqn.outvars)
