"""Finds patterns in a graph: whether a value is computed as a pattern says, and what stands in its holes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from backtrace_jax.ir import Eqn, Var

from .fitting import Bound, accepted, deals, is_conversion, part, reduced_shape, telling, usable, with_settings
from .patterns import Call, Constant, Either, Factor, Hole, Pattern, Product, Reduced, Sum
from .patterns import inverted as over
from .patterns import negated as minus

_NUMBERS = 4  # how many numbers in a row are looked through, so that the cost of one place is bounded
_COMMUTATIVE = {"maximum", "minimum"}


class Matcher:
    """Looks at values through the equations that compute them.

    Attributes:
        producers: The equation that computes each value, by the value's name.
        weights: Known arrays by name.
    """

    def __init__(self, producers: dict[str, Eqn], weights: dict[str, np.ndarray]) -> None:
        self.producers, self.weights = producers, weights
        self._numbers: dict[str, float | None] = {}
        self._uniform: dict[str, float | None] = {}

    def match(self, pattern: Pattern, var: Var, bound: Bound) -> Iterator[Bound]:
        """Every way in which the pattern fits the value, given what stands in its holes already."""
        return _MATCH[type(pattern)](self, pattern, var, bound)

    def number(self, var: Var) -> float | None:
        """The value of a known array of one entry."""
        if var.name not in self._numbers:
            array = self.weights.get(var.name)
            self._numbers[var.name] = None if array is None or array.size != 1 else float(array.item())
        return self._numbers[var.name]

    def uniform(self, var: Var) -> float | None:
        """The one value that all entries of a known array have."""
        if var.name not in self._uniform:
            array = self.weights.get(var.name)
            alike = array is not None and array.size and (array == array.flat[0]).all()
            self._uniform[var.name] = float(array.flat[0]) if array is not None and alike else None
        return self._uniform[var.name]

    def origin(self, var: Var) -> Eqn | None:
        """The equation that computes a value, or its content in another float type."""
        eqn = self.producers.get(var.name)
        return self.producers.get(eqn.invars[0].name) if eqn and is_conversion(eqn) else eqn

    def _hole(self, pattern: Hole, var: Var, bound: Bound) -> Iterator[Bound]:
        eqn = self.producers.get(var.name)
        for value in (var, *(eqn.invars if eqn and is_conversion(eqn) else ())):
            if pattern.known and value.name not in self.weights:
                continue
            if pattern.name not in bound:
                yield {**bound, pattern.name: value}
            elif bound[pattern.name] == value:
                yield bound

    def _constant(self, pattern: Constant, var: Var, bound: Bound) -> Iterator[Bound]:
        number = self.uniform(var)
        found = None if number is None else accepted(pattern.scalar, number, bound)
        if found is not None:
            yield found

    def _either(self, pattern: Either, var: Var, bound: Bound) -> Iterator[Bound]:
        for option in pattern.options:
            yield from self.match(option, var, bound)

    def _call(self, pattern: Call, var: Var, bound: Bound) -> Iterator[Bound]:
        eqn = self.origin(var)
        if eqn is None or eqn.op != pattern.op or len(eqn.invars) != len(pattern.operands):
            return
        found = with_settings(pattern.settings, eqn.params, bound)
        if found is None:
            return
        orders = permutations(eqn.invars) if eqn.op in _COMMUTATIVE else (eqn.invars,)
        for operands in orders:
            yield from self._all(tuple(zip(pattern.operands, operands, strict=True)), found)

    def _all(self, pairs: Sequence[tuple[Pattern, Var]], bound: Bound) -> Iterator[Bound]:
        if not pairs:
            yield bound
            return
        for found in self.match(*pairs[0], bound):
            yield from self._all(pairs[1:], found)

    def _reduced(self, pattern: Reduced, var: Var, bound: Bound) -> Iterator[Bound]:
        """Binds `axes`, and as `type` the float type the reduction computes in."""
        eqn = self.reduction(var, pattern.op, keeps=pattern.keeps)
        if eqn is not None and bound.get("axes", eqn.params["axes"]) == eqn.params["axes"]:
            operand = eqn.invars[0]
            yield from self.match(
                pattern.operand, operand, {**bound, "axes": eqn.params["axes"], "type": operand.dtype}
            )

    def reduction(self, var: Var, op: str, *, keeps: bool = True) -> Eqn | None:
        """The reduction behind a value that keeps its axes, or drops them, maybe by a reshape.

        A mean that keeps them may be a sum over the count.
        """
        eqn = self.origin(var)
        if eqn is not None and eqn.op == "reshape":
            eqn = self.producers.get(eqn.invars[0].name)
        if eqn is not None and op == "reduce_mean" and eqn.op in ("mul", "div") and len(eqn.invars) == 2:
            return self._mean_by_count(eqn, var)
        return eqn if eqn is not None and eqn.op == op and reduced_shape(eqn, keeps) == var.shape else None

    def _mean_by_count(self, eqn: Eqn, var: Var) -> Eqn | None:
        for total, count in (eqn.invars, eqn.invars[::-1]) if eqn.op == "mul" else (eqn.invars,):
            number, found = self.number(count), self.reduction(total, "reduce_sum")
            if number and found is not None and reduced_shape(found) == var.shape:
                entries = math.prod(found.invars[0].shape) / math.prod(total.shape)
                if math.isclose(number if eqn.op == "div" else 1 / number, entries, rel_tol=1e-6):
                    return found
        return None

    def _product(self, pattern: Product, var: Var, bound: Bound) -> Iterator[Bound]:
        for found, coefficient in self.factored(var, pattern.factors, bound, _NUMBERS):
            taken = accepted(pattern.coefficient, coefficient, found)
            if taken is not None:
                yield taken

    def factored(
        self, var: Var, wanted: tuple[Factor, ...], bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, float]]:
        """Ways to see a value as a number times all the wanted factors, as much as possible in the number first."""
        eqn = self.origin(var)
        if eqn is not None and eqn.op in _FACTORING:
            yield from _FACTORING[eqn.op](self, eqn, wanted, bound, numbers)
        if len(wanted) == 1 and not wanted[0].inverse:
            for found in self.match(wanted[0].pattern, var, bound):
                yield found, 1.0

    def _multiplied(
        self, eqn: Eqn, wanted: tuple[Factor, ...], bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, float]]:
        if len(eqn.invars) != 2:
            return
        (a, b), divides = eqn.invars, eqn.op == "div"
        first, second = self._scalar(a, b, eqn), self._scalar(b, a, eqn)
        if usable(second) and numbers:
            for found, c in self.factored(a, wanted, bound, numbers - 1):
                yield found, c / second if divides else c * second
        elif usable(first) and numbers:
            for found, c in self.factored(b, over(wanted) if divides else wanted, bound, numbers - 1):
                yield found, first / c if divides else first * c
        if self.number(a) is None and self.number(b) is None:  # equal numbers may be a scale as well
            for mine, others in self._splits(wanted, a, b, _FACTORING):
                pairs = (a, mine), (b, over(others) if divides else others)
                for found, (c, d) in self._both(self.factored, pairs, bound, numbers):
                    yield found, c / d if divides else c * d

    def _scalar(self, var: Var, other: Var, eqn: Eqn) -> float | None:
        """The number that one operand is, copied or not, if the other one has the shape of the result."""
        return self.uniform(var) if other.shape == eqn.outvars[0].shape else None

    def _splits(
        self, wanted: tuple[Any, ...], a: Var, b: Var, splitting: Collection[str]
    ) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Every way to share what is wanted between two operands; one that nothing splits further takes one thing."""
        first, second = self.origin(a), self.origin(b)
        alone = (origin is None or origin.op not in splitting for origin in (first, second))
        for mine, others in deals(len(wanted), *alone):
            yield tuple(wanted[i] for i in mine), tuple(wanted[i] for i in others)

    def _both(
        self, seek: Callable[..., Iterator[tuple[Bound, float]]], pairs: Any, bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, tuple[float, float]]]:
        """Two operands with their parts of what is wanted, the one that says more first, so that it fails early."""
        swapped = telling(pairs[1][1]) > telling(pairs[0][1])
        one, other = pairs[::-1] if swapped else pairs
        for between, c in seek(*one, bound, numbers):
            for found, d in seek(*other, between, numbers):
                yield found, (d, c) if swapped else (c, d)

    def _turned(
        self, eqn: Eqn, wanted: tuple[Factor, ...], bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, float]]:
        """Minus a value, or one over it."""
        if numbers:
            turned = over(wanted) if eqn.op == "reciprocal" else wanted
            for found, c in self.factored(eqn.invars[0], turned, bound, numbers - 1):
                yield found, 1 / c if eqn.op == "reciprocal" else -c

    def _powers(
        self, eqn: Eqn, wanted: tuple[Factor, ...], bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, float]]:
        exponent = eqn.params["exponent"]
        base = part(over(wanted) if exponent < 0 else wanted, abs(exponent))
        if base and numbers:
            for found, c in self.factored(eqn.invars[0], base, bound, numbers - 1):
                yield found, c**exponent

    def _sum(self, pattern: Sum, var: Var, bound: Bound) -> Iterator[Bound]:
        for found, constant in self.terms(var, pattern.terms, bound, _NUMBERS):
            taken = accepted(pattern.constant, constant, found)
            if taken is not None:
                yield taken

    def terms(self, var: Var, wanted: tuple[Pattern, ...], bound: Bound, numbers: int) -> Iterator[tuple[Bound, float]]:
        """Ways to see a value as a number plus all the wanted terms."""
        if len(wanted) == 1:
            for found in self.match(wanted[0], var, bound):
                yield found, 0.0
        eqn = self.origin(var)
        if eqn is not None and eqn.op in _ADDING and len(eqn.invars) == 2:
            yield from self._added(eqn, wanted, bound, numbers)

    def _added(
        self, eqn: Eqn, wanted: tuple[Pattern, ...], bound: Bound, numbers: int
    ) -> Iterator[tuple[Bound, float]]:
        (a, b), sign = eqn.invars, -1.0 if eqn.op == "sub" else 1.0
        first, second = self._scalar(a, b, eqn), self._scalar(b, a, eqn)
        if second is not None and numbers:
            for found, c in self.terms(a, wanted, bound, numbers - 1):
                yield found, c + sign * second
        elif first is not None and numbers:
            for found, c in self.terms(b, wanted if sign > 0 else tuple(map(minus, wanted)), bound, numbers - 1):
                yield found, first + sign * c
        if self.number(a) is None and self.number(b) is None:
            for mine, others in self._splits(wanted, a, b, _ADDING):
                pairs = (a, mine), (b, others if sign > 0 else tuple(map(minus, others)))
                for found, (c, d) in self._both(self.terms, pairs, bound, numbers):
                    yield found, c + sign * d


_MATCH: dict[type, Callable[..., Iterator[Bound]]] = {
    Hole: Matcher._hole,
    Constant: Matcher._constant,
    Call: Matcher._call,
    Reduced: Matcher._reduced,
    Product: Matcher._product,
    Sum: Matcher._sum,
    Either: Matcher._either,
}
_ADDING = {"add", "sub"}
_FACTORING: dict[str, Callable[..., Iterator[tuple[Bound, float]]]] = {
    "mul": Matcher._multiplied,
    "div": Matcher._multiplied,
    "neg": Matcher._turned,
    "reciprocal": Matcher._turned,
    "integer_pow": Matcher._powers,
}
