"""Patterns: what a computation looks like, written as an expression with holes.

    x = Hole("x")
    0.5 * x * (1 + call("erf", x / math.sqrt(2)))

A product stands for its factors in any order and association, times a number; a sum likewise for its terms, plus a
number. Division, negation, whole powers and several numbers along the way are part of that. So one expression covers
the many spellings of a formula; `matching` finds it in a graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Number:
    """A known number between two bounds, kept under a name; what stands in the graph may be a multiple of it."""

    name: str
    low: float = -math.inf
    high: float = math.inf
    multiple: float = 1.0


@dataclass(frozen=True)
class Setting:
    """Whatever an operation's setting is, kept under a name; the same wherever the name occurs."""

    name: str


Scalar: TypeAlias = int | float | Number
"""A number of a pattern: this one, to rounding, or any one that fits."""


class Pattern:
    """What a value is computed by."""

    def __add__(self, other: Pattern | Scalar) -> Sum:
        return _added(self, other)

    __radd__ = __add__

    def __sub__(self, other: Pattern | int | float) -> Sum:
        return _added(self, -other)

    def __rsub__(self, other: int | float) -> Sum:
        return _added(-self, other)

    def __neg__(self) -> Pattern:
        return negated(self)

    def __mul__(self, other: Pattern | Scalar) -> Product:
        return _multiplied(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Pattern | int | float) -> Product:
        return _multiplied(self, _inverse(other))

    def __rtruediv__(self, other: Scalar) -> Product:
        return _multiplied(_over(self), other)

    def __or__(self, other: Pattern) -> Either:
        return Either((*_options(self), *_options(other)))


@dataclass(frozen=True)
class Hole(Pattern):
    """Any value, or any known array; the same one wherever the name occurs."""

    name: str
    known: bool = False


@dataclass(frozen=True)
class Constant(Pattern):
    """A known number as an operand."""

    scalar: Scalar


@dataclass(frozen=True)
class Call(Pattern):
    """The result of one operation with these operands and, among others, these settings."""

    op: str
    operands: tuple[Pattern, ...]
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Reduced(Pattern):
    """A reduction that keeps its axes, or drops them; the same axes wherever the pattern has one."""

    op: str
    operand: Pattern
    keeps: bool = True


@dataclass(frozen=True)
class Factor:
    """A factor of a product, or a divisor."""

    pattern: Pattern
    inverse: bool = False


@dataclass(frozen=True)
class Product(Pattern):
    """A number times factors."""

    factors: tuple[Factor, ...]
    coefficient: Scalar = 1.0


@dataclass(frozen=True)
class Sum(Pattern):
    """A number plus terms."""

    terms: tuple[Pattern, ...]
    constant: Scalar = 0.0


@dataclass(frozen=True)
class Either(Pattern):
    """One of several."""

    options: tuple[Pattern, ...]


def call(op: str, *operands: Pattern | Scalar, **settings: Any) -> Call:
    """The result of one operation."""
    return Call(
        op, tuple(p if isinstance(p, Pattern) else Constant(p) for p in operands), tuple(sorted(settings.items()))
    )


def alternatives(pattern: Pattern) -> Iterator[Pattern]:
    """The options of a choice, and of those that are choices themselves; any other pattern is the only one."""
    if not isinstance(pattern, Either):
        yield pattern
        return
    for option in pattern.options:
        yield from alternatives(option)


def functions(pattern: Pattern) -> frozenset[str]:
    """Operations that a value must have behind it to match, sums, products and reductions aside."""
    if isinstance(pattern, Call):
        return frozenset({pattern.op}).union(*map(functions, pattern.operands))
    if isinstance(pattern, Either):
        return frozenset.intersection(*map(functions, pattern.options))
    return frozenset().union(*map(functions, _parts(pattern)))


def roots(pattern: Pattern) -> frozenset[str]:
    """Operations whose result may match."""
    if isinstance(pattern, Call):
        return frozenset({pattern.op})
    if isinstance(pattern, Either):
        return frozenset().union(*map(roots, pattern.options))
    if isinstance(pattern, Sum):
        return frozenset({"add", "sub"})
    alone = isinstance(pattern, Product) and len(pattern.factors) == 1
    return frozenset({"mul", "div", "neg", "reciprocal", "integer_pow"} if alone else {"mul", "div"})


def negated(pattern: Pattern) -> Pattern:
    """Minus a value; of a sum, minus each of its terms."""
    if isinstance(pattern, Sum):
        return Sum(tuple(map(negated, pattern.terms)), _multiple(pattern.constant, -1.0))
    product = _multiplied(pattern, -1.0)
    plain = product.coefficient == 1 and len(product.factors) == 1 and not product.factors[0].inverse
    return product.factors[0].pattern if plain else product


def inverted(factors: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """One over each."""
    return tuple(Factor(factor.pattern, not factor.inverse) for factor in factors)


def _parts(pattern: Pattern) -> Iterator[Pattern]:
    if isinstance(pattern, Product):
        yield from (factor.pattern for factor in pattern.factors)
    elif isinstance(pattern, Sum):
        yield from pattern.terms
    elif isinstance(pattern, Reduced):
        yield pattern.operand


def _options(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.options if isinstance(pattern, Either) else (pattern,)


def _added(a: Pattern, b: Pattern | Scalar) -> Sum:
    a = a if isinstance(a, Sum) else Sum((a,))
    if isinstance(b, Sum):
        return Sum((*a.terms, *b.terms), _total(a.constant, b.constant))
    if isinstance(b, Pattern):
        return Sum((*a.terms, b), a.constant)
    return Sum(a.terms, _total(a.constant, b))


def _multiplied(a: Pattern, b: Pattern | Scalar) -> Product:
    a = a if isinstance(a, Product) else Product((Factor(a),))
    if isinstance(b, Product):
        return Product((*a.factors, *b.factors), _multiple(a.coefficient, b.coefficient))
    if isinstance(b, Pattern):
        return Product((*a.factors, Factor(b)), a.coefficient)
    return Product(a.factors, _multiple(a.coefficient, b))


def _total(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Number) or isinstance(b, Number):
        if 0 not in (a, b):
            raise ValueError(f"{a} and {b} cannot be told apart in a sum")
        return b if a == 0 else a
    return float(a) + float(b)


def _multiple(a: Scalar, b: Scalar) -> Scalar:
    if isinstance(a, Number):
        if isinstance(b, Number):
            raise ValueError(f"{a} and {b} cannot be told apart in a product")
        return replace(a, multiple=a.multiple * float(b))
    return _multiple(b, a) if isinstance(b, Number) else float(a) * float(b)


def _inverse(value: Pattern | float) -> Pattern | float:
    return _over(value) if isinstance(value, Pattern) else 1 / value


def _over(pattern: Pattern) -> Product:
    product = pattern if isinstance(pattern, Product) else Product((Factor(pattern),))
    if isinstance(product.coefficient, Number):
        raise ValueError(f"{product.coefficient} cannot divide")
    return Product(inverted(product.factors), 1 / product.coefficient)
