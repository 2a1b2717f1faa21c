"""Brings what has several spellings into one: negation and differences, division by constants, squares, bounds.

All of them give the same relevance by RULES sections 2 to 5 as far as these speak of functions; where a rule speaks of
an operation (a maximum has a winner, a clip has none), the operation is the one chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from backtrace_jax.ir import Eqn, Program, Var

from .rewriting import Replacement, Rewriting, rewritten


def bounds(program: Program) -> Program:
    """Rectifiers and clips however they are written; before activations are looked for, which hold some of them."""
    return rewritten(program, lambda rewriting, eqn: _apply(_BOUNDS, rewriting, eqn))


def normal_forms(program: Program) -> Program:
    """One spelling for each of the rest."""
    return rewritten(program, lambda rewriting, eqn: _apply(_FORMS, rewriting, eqn))


def _apply(table: dict[str, Callable[[Rewriting, Eqn], Replacement]], rewriting: Rewriting, eqn: Eqn) -> Replacement:
    rule = table.get(eqn.op)
    return rule(rewriting, eqn) if rule and eqn.outvars[0].is_float else None


def _number_beside(rewriting: Rewriting, eqn: Eqn) -> tuple[Var, float] | None:
    """The operand that is no number, and the number, copied or not, of an operation that keeps the operand's type."""
    for value, other in (eqn.invars, eqn.invars[::-1]) if len(eqn.invars) == 2 else ():
        number = rewriting.uniform(other)
        if number is not None and (value.shape, value.dtype) == (eqn.outvars[0].shape, eqn.outvars[0].dtype):
            return value, number
    return None


def _bounded(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """The larger, or smaller, of a value and a number bounds it, once the other side is bounded or at 0."""
    found = _number_beside(rewriting, eqn)
    if found is None or np.isnan(found[1]):
        return None
    value, number = found
    if np.isinf(number) and (number < 0) == (eqn.op == "maximum"):
        return value
    low, high = (number, None) if eqn.op == "maximum" else (None, number)
    inner = rewriting.producers.get(value.name)
    if (inner is None or inner.op not in ("clip", "relu", "maximum", "minimum")) and number != 0:
        return None
    return _clipped(rewriting, eqn, value, low, high) if number != 0 or eqn.op == "maximum" else None


def _clip(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    return _clipped(rewriting, eqn, eqn.invars[0], eqn.params["low"], eqn.params["high"])


def _clipped(
    rewriting: Rewriting, eqn: Eqn, value: Var, low: int | float | None, high: int | float | None
) -> Replacement:
    """A value between bounds, which join those it has already where they agree on what lies outside."""
    inner = rewriting.before(eqn, value)
    own = _own_bounds(rewriting, inner) if inner is not None else None
    if own is not None:
        below, above = _joined(max, own[1], low), _joined(min, own[2], high)
        if below is None or above is None or below <= above:
            value, low, high = own[0], below, above
    if low == 0 and high is None:
        return (rewriting.equation(eqn, "relu", value),)
    return (rewriting.equation(eqn, "clip", value, low=low, high=high),)


def _own_bounds(rewriting: Rewriting, eqn: Eqn) -> tuple[Var, int | float | None, int | float | None] | None:
    if eqn.op == "relu":
        return eqn.invars[0], 0, None
    if eqn.op == "clip":
        return eqn.invars[0], eqn.params["low"], eqn.params["high"]
    found = _number_beside(rewriting, eqn) if eqn.op in ("maximum", "minimum") else None
    if found is None:
        return None
    return (found[0], found[1], None) if eqn.op == "maximum" else (found[0], None, found[1])


def _joined(pick: Callable[..., Any], one: int | float | None, other: int | float | None) -> int | float | None:
    given = [bound for bound in (one, other) if bound is not None]
    return pick(given) if given else None


def _chosen(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """x where x > 0, else 0; and a bound where x lies beyond it, else x."""
    return _rectified(rewriting, eqn) or _kept_within(rewriting, eqn)


def _kept_within(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """A bound where x lies beyond it, else x, or what bounds x on the other side."""
    condition, beyond, within = eqn.invars
    test, bound = rewriting.producers.get(condition.name), rewriting.uniform(beyond)
    if test is None or test.op not in _MIRRORED or bound is None or within.shape != eqn.outvars[0].shape:
        return None
    inner = rewriting.producers.get(within.name)
    own = _own_bounds(rewriting, inner) if inner is not None else None
    for value, limit, op in (*zip(test.invars, test.invars[::-1], (test.op, _MIRRORED[test.op]), strict=True),):
        if rewriting.uniform(limit) != bound or value not in (within, *(own or ())[:1]):
            continue
        low, high = (None, bound) if op.startswith("greater") else (bound, None)
        if value == within:
            number = rewriting.param(beyond.name, rewriting.weights[beyond.name].reshape(-1)[:1].reshape(()))
            bounded = rewriting.equation(eqn, "minimum" if low is None else "maximum", within, number)
            return _bounded(rewriting, bounded) or (bounded,)
        return _clipped(rewriting, eqn, within, low, high) if _ordered(own, low, high) else None
    return None


def _ordered(own: Any, low: int | float | None, high: int | float | None) -> bool:
    """Whether a bound lies on the other side of the ones that a value has."""
    one, other = (own[1], high) if low is None else (low, own[2])
    return one is not None and other is not None and one <= other


def _rectified(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    condition, above, below = eqn.invars
    test = rewriting.producers.get(condition.name)
    if test is None or test.op not in _MIRRORED or len(test.invars) != 2:
        return None
    value, op = test.invars[0], test.op
    if rewriting.uniform(test.invars[1]) != 0:
        value, op = test.invars[1], _MIRRORED[op]
    if 0 not in map(rewriting.uniform, test.invars):
        return None
    above, below = (below, above) if op.startswith("less") else (above, below)
    if above != value or value.shape != eqn.outvars[0].shape:
        return None
    if rewriting.uniform(below) == 0:
        return (rewriting.equation(eqn, "relu", value),)
    return _leaky(rewriting, eqn, value, below)


def _leaky(rewriting: Rewriting, eqn: Eqn, value: Var, below: Var) -> Replacement:
    """a x where x is not positive."""
    scaled = rewriting.producers.get(below.name)
    found = _number_beside(rewriting, scaled) if scaled is not None and scaled.op == "mul" else None
    if found is None or found[0] != value:
        return None
    return (rewriting.equation(eqn, "leaky_relu", value, alpha=found[1]),)


_MIRRORED = {"greater": "less", "less": "greater", "greater_equal": "less_equal", "less_equal": "greater_equal"}


def _prelu(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    number = rewriting.uniform(eqn.invars[1])
    return None if number is None else (rewriting.equation(eqn, "leaky_relu", eqn.invars[0], alpha=number),)


def _lone_bound(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """What no activation has claimed."""
    found = _number_beside(rewriting, eqn)
    if found is None or np.isnan(found[1]):
        return None
    low, high = (found[1], None) if eqn.op == "maximum" else (None, found[1])
    return _clipped(rewriting, eqn, found[0], low, high)


def _quotient(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """Division by a constant is multiplication by its reciprocal."""
    array = rewriting.weights.get(eqn.invars[1].name)
    if array is None or eqn.invars[0].name in rewriting.weights:
        return None
    with np.errstate(all="ignore"):
        inverse = np.asarray(1 / array.astype(np.float64), array.dtype)
    if not np.isfinite(inverse).all() or not np.isfinite(array).all() or not inverse.all():
        return None
    product = rewriting.equation(eqn, "mul", eqn.invars[0], rewriting.param(eqn.invars[1].name, inverse))
    return _product(rewriting, product) or (product,)


def _quotient_by_many(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """By constants that differ: a scale, as that of a normalisation may be written."""
    return None if rewriting.number(eqn.invars[1]) is not None else _quotient(rewriting, eqn)


def _product(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """x · x is x²; x · -1 is -x; a sum over the number of its terms is a mean."""
    if eqn.invars[0] == eqn.invars[1]:
        return (rewriting.equation(eqn, "integer_pow", eqn.invars[0], exponent=2),)
    found = _number_beside(rewriting, eqn)
    if found is not None and found[1] == -1:
        return (rewriting.equation(eqn, "neg", found[0]),)
    return (found and _mean(rewriting, eqn, *found)) or _scaled_first(rewriting, eqn)


def _scaled_first(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """(x + a) b, as a batch norm may be written, is x b + a b."""
    for value, factor in (eqn.invars, eqn.invars[::-1]):
        before, scale = rewriting.before(eqn, value), rewriting.weights.get(factor.name)
        shifted = before is not None and before.op == "add" and len(before.invars) == 2
        if scale is None or before is None or not shifted or rewriting.reads(value) != 1:
            continue
        for x, known in (before.invars, before.invars[::-1]):
            shift = rewriting.weights.get(known.name)
            if shift is not None and x.name not in rewriting.weights and x.shape == value.shape == eqn.outvars[0].shape:
                name = f"{eqn.outvars[0].name}.scaled"
                product = rewriting.equation(eqn, "mul", x, factor, name=name)
                moved = rewriting.param(known.name, np.asarray(shift * scale, shift.dtype))
                return product, rewriting.equation(eqn, "add", product.outvars[0], moved)
    return None


def _power(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    roots = {0.5: "sqrt", -0.5: "rsqrt"}
    found = roots.get(rewriting.uniform(eqn.invars[1]) or 0.0)
    return (
        (rewriting.equation(eqn, found, eqn.invars[0]),)
        if found and eqn.invars[0].shape == eqn.outvars[0].shape
        else None
    )


def _mean(rewriting: Rewriting, eqn: Eqn, total: Var, number: float) -> Replacement:
    """A sum over axes times one over the number of its terms."""
    before = rewriting.before(eqn, total)
    if before is None or before.op != "reduce_sum" or rewriting.reads(total) != 1:
        return None
    count = math.prod(before.invars[0].shape) / max(math.prod(total.shape), 1)
    if not math.isclose(number * count, 1, rel_tol=1e-6):
        return None
    return (rewriting.equation(eqn, "reduce_mean", *before.invars, **before.params),)


def _negated(rewriting: Rewriting, eqn: Eqn, var: Var) -> Var | None:
    """x where a value is -x."""
    before = rewriting.before(eqn, var)
    return before.invars[0] if before is not None and before.op == "neg" else None


def _negation(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    return _negated(rewriting, eqn, eqn.invars[0])


def _sum(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """a + -b is a - b."""
    if len(eqn.invars) != 2:
        return None
    for a, b in (eqn.invars, eqn.invars[::-1]):
        plain = _negated(rewriting, eqn, b)
        if plain is not None:
            return (rewriting.equation(eqn, "sub", a, plain),)
    return None


def _difference(rewriting: Rewriting, eqn: Eqn) -> Replacement:
    """a - -b is a + b, 0 - b is -b, and a less a constant is a plus the constant's opposite."""
    a, b = eqn.invars
    plain, known = _negated(rewriting, eqn, b), rewriting.weights.get(b.name)
    if plain is not None:
        return (rewriting.equation(eqn, "add", a, plain),)
    if rewriting.uniform(a) == 0 and (b.shape, b.dtype) == (eqn.outvars[0].shape, eqn.outvars[0].dtype):
        return (
            _negation(rewriting, negation) or (negation,) if (negation := rewriting.equation(eqn, "neg", b)) else None
        )
    if known is not None and a.name not in rewriting.weights:
        return (rewriting.equation(eqn, "add", a, rewriting.param(b.name, np.asarray(-known))),)
    return None


_BOUNDS: dict[str, Callable[[Rewriting, Eqn], Replacement]] = {
    "maximum": _bounded,
    "minimum": _bounded,
    "clip": _clip,
    "where": _chosen,
    "prelu": _prelu,
    "div": _quotient_by_many,
}
_FORMS: dict[str, Callable[[Rewriting, Eqn], Replacement]] = {
    "maximum": _lone_bound,
    "minimum": _lone_bound,
    "clip": _clip,
    "div": _quotient,
    "mul": _product,
    "pow": _power,
    "neg": _negation,
    "add": _sum,
    "sub": _difference,
}
