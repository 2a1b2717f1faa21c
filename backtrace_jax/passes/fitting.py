"""Whether numbers, settings and sizes are what a pattern wants, and in which ways things can be dealt out."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias, TypeGuard

from backtrace_jax.ir import Eqn

from .patterns import Factor, Hole, Number, Pattern, Scalar, Setting

Bound: TypeAlias = dict[str, Any]
"""What stands in the holes of a pattern: values, numbers, settings, by name."""

_TOLERANCE = 1e-4  # exporters round their constants; what is off by a hundredth is another constant


def usable(number: float | None) -> TypeGuard[float]:
    """Whether products and powers of a few such numbers neither vanish nor overflow."""
    return number is not None and 1e-9 < abs(number) < 1e9


def is_conversion(eqn: Eqn) -> bool:
    """Whether floats become other floats."""
    return eqn.op == "cast" and eqn.invars[0].is_float and eqn.outvars[0].is_float


def reduced_shape(eqn: Eqn, keeps: bool = True) -> tuple[int, ...]:
    """Shape of a reduction's result with its axes kept, or dropped."""
    sizes = [(1 if axis in eqn.params["axes"] else size) for axis, size in enumerate(eqn.invars[0].shape)]
    return tuple(size for axis, size in enumerate(sizes) if keeps or axis not in eqn.params["axes"])


def accepted(wanted: Scalar, number: float, bound: Bound) -> Bound | None:
    """What is bound once a number stands where the pattern wants one; None if it does not fit."""
    if isinstance(wanted, Number):
        number /= wanted.multiple
        fits = wanted.low <= number <= wanted.high and math.isclose(bound.get(wanted.name, number), number)
        return {**bound, wanted.name: number} if fits else None
    return bound if math.isclose(wanted, number, rel_tol=_TOLERANCE) else None


def with_settings(wanted: Sequence[tuple[str, Any]], params: Mapping[str, Any], bound: Bound) -> Bound | None:
    """What is bound once an equation's settings are seen; None if they do not fit."""
    found: Bound | None = bound
    for name, value in wanted:
        given = params[name]
        if isinstance(value, Setting):
            found = {**found, value.name: given} if found.get(value.name, given) == given else None
        elif isinstance(value, bool) or value is None or given is None:
            found = found if given is value else None
        else:
            found = accepted(value, float(given), found)
        if found is None:
            return None
    return found


@functools.cache
def deals(count: int, first_alone: bool, second_alone: bool) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """Every way to deal several things out to two, none of whom goes away empty; one who is alone takes one."""
    sizes = (1,) if first_alone else range(1, count)
    ways = [chosen for size in sizes for chosen in combinations(range(count), size)]
    deals = [(chosen, tuple(i for i in range(count) if i not in chosen)) for chosen in ways]
    return tuple((mine, others) for mine, others in deals if len(others) == 1 or (others and not second_alone))


def telling(wanted: Sequence[Factor | Pattern]) -> int:
    """How many of the wanted say what they are: anything but a hole does."""
    patterns = (item.pattern if isinstance(item, Factor) else item for item in wanted)
    return sum(not isinstance(pattern, Hole) for pattern in patterns)


def part(wanted: tuple[Factor, ...], copies: int) -> tuple[Factor, ...]:
    """What gives the wanted factors when multiplied with itself so many times; nothing if there is no such part."""
    kinds = {(id(factor.pattern), factor.inverse): factor for factor in wanted}
    counts = {key: sum((id(f.pattern), f.inverse) == key for f in wanted) for key in kinds}
    if copies == 0 or any(count % copies for count in counts.values()):
        return ()
    return tuple(kinds[key] for key, count in counts.items() for _ in range(count // copies))
