"""The rules of the LRP family and the contrastive rule, unit by unit in NumPy, from the definitions alone.

Nothing here calls the library. A linear map is given as its matrix [out, in] and which inputs each unit is connected to
at all; a sum is the linear map of all its operands whose weights are their signs.

An LRP rule tells, for one unit, the *sides* that share its relevance (RULES 1.3): each has a factor on the relevance,
contributions in proportion to which its part is shared, and the bias' own contribution. Every denominator z is replaced
by z + ε sign(z), with sign(0) = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from tests.rules.oracles import matrix, place


class Unit(NamedTuple):
    """One unit z = Σ_j K_j x_j + b; `connected` says which j it has a weight for, be it zero."""

    K: np.ndarray
    connected: np.ndarray
    x: np.ndarray
    b: float


class Side(NamedTuple):
    """One part of a unit's relevance, and what it is shared in proportion to."""

    factor: float
    c: np.ndarray
    b: float


Definition: TypeAlias = Callable[[Unit], list[Side]]


def signed(unit: Unit) -> list[Side]:
    """LRP-0 and LRP-epsilon: c_j / z (Bach et al. 2015)."""
    return [Side(1, unit.K * unit.x, unit.b)]


def gamma(unit: Unit, gamma: float = 0.25) -> list[Side]:
    """(c_j + γ c_j⁺) / Σ where z ≥ 0, (c_j + γ c_j⁻) / Σ where z < 0, c_j⁻ = min(c_j, 0) (Andéol et al. 2021)."""
    c = unit.K * unit.x
    favoured = np.maximum if c.sum() + unit.b >= 0 else np.minimum
    return [Side(1, c + gamma * favoured(c, 0), unit.b + gamma * favoured(unit.b, 0))]


def alpha_beta(unit: Unit, alpha: float = 2.0, beta: float = 1.0) -> list[Side]:
    """α c_j⁺ / Σ c⁺ - β c_j⁻ / Σ c⁻ (Bach et al. 2015)."""
    c, b = unit.K * unit.x, unit.b
    return [Side(alpha, np.maximum(c, 0), max(b, 0)), Side(-beta, np.minimum(c, 0), min(b, 0))]


def z_plus(unit: Unit) -> list[Side]:
    """c_j⁺ / Σ c⁺ (Montavon et al. 2017)."""
    return [Side(1, np.maximum(unit.K * unit.x, 0), max(unit.b, 0))]


def w_square(unit: Unit) -> list[Side]:
    """K_j² / Σ K², the bias counting as b² (Montavon et al. 2017)."""
    return [Side(1, unit.K**2, unit.b**2)]


def flat(unit: Unit) -> list[Side]:
    """1 / number of connections (Lapuschkin et al. 2019)."""
    return [Side(1, unit.connected.astype(float), 0)]


def z_box(unit: Unit, low: np.ndarray, high: np.ndarray) -> list[Side]:
    """(c_j - K_j⁺ low_j - K_j⁻ high_j) / Σ, K⁻ = min(K, 0) (Montavon et al. 2017)."""
    return [Side(1, unit.K * unit.x - np.maximum(unit.K, 0) * low - np.minimum(unit.K, 0) * high, 0)]


class Kept(NamedTuple):
    """Shares of the operand, and what each unit kept back."""

    share: np.ndarray
    bias: np.ndarray
    stabiliser: np.ndarray
    dead: np.ndarray


class Map(NamedTuple):
    """A linear map: its matrix [out, in], where it has weights at all, its operand, and its bias."""

    K: np.ndarray
    connected: np.ndarray
    x: np.ndarray
    b: np.ndarray | None = None

    def units(self, shape: Sequence[int]) -> list[Unit]:
        """The units of a result of this shape."""
        biases = np.zeros(len(self.K)) if self.b is None else np.broadcast_to(self.b, shape).reshape(-1)
        return [Unit(*unit, self.x.reshape(-1), b) for *unit, b in zip(self.K, self.connected, biases, strict=True)]


def lrp(definition: Definition, linear: Map, R: np.ndarray, epsilon: float = 1e-9) -> Kept:
    """Share relevance by a rule of the LRP family."""
    each = [_unit(definition(unit), r, epsilon) for unit, r in zip(linear.units(R.shape), R.reshape(-1), strict=True)]
    shares, *kept = (np.array(column) for column in zip(*each, strict=True))
    return Kept(shares.sum(0).reshape(linear.x.shape), *kept)


def _unit(sides: list[Side], R: float, epsilon: float) -> Kept:
    share, bias, stabiliser, dead = np.zeros(sides[0].c.shape), 0.0, 0.0, 0.0
    for factor, c, b in sides:
        z = c.sum() + b
        kept_away = epsilon if z >= 0 else -epsilon
        if z + kept_away == 0:
            dead += factor * R
            continue
        rate = factor * R / (z + kept_away)
        share, bias, stabiliser = share + c * rate, bias + b * rate, stabiliser + kept_away * rate
    return Kept(share, bias, stabiliser, dead)


def contrastive(linear: Map, R: np.ndarray) -> Kept:
    """RULES 1.2: R [2, ...] holds P and N; so do all results. The bias counts in t alone and takes nothing."""
    units, pairs = linear.units(R.shape[1:]), R.reshape(2, -1).T
    share, dead = np.zeros((2, linear.x.size)), np.zeros((2, len(units)))
    for i, (unit, pair) in enumerate(zip(units, pairs, strict=True)):
        c = unit.K * unit.x
        for channel, evidence in enumerate(_routed(c, c.sum() + unit.b, *pair)):
            if evidence.any():
                share[channel] += evidence * pair[channel] / evidence.sum()
            else:
                dead[channel, i] = pair[channel]
    nothing = np.zeros_like(dead)
    return Kept(share.reshape(2, *linear.x.shape), nothing, nothing, dead)


def _routed(c: np.ndarray, t: float, P: float, N: float) -> tuple[np.ndarray, np.ndarray]:
    """The evidence P goes to, and that N goes to."""
    positive, negative = np.maximum(c, 0), np.maximum(-c, 0)
    if not negative.any():
        return positive, positive
    if not positive.any():
        return negative, negative
    if t == 0:
        return np.abs(c), np.abs(c)
    ahead = (t > 0 and P >= N) or (t < 0 and P < N)
    return (positive, negative) if ahead else (negative, positive)


Shares: TypeAlias = tuple[list[np.ndarray], Kept]
"""Shares by operand, and all that was kept."""


def of_sum(rule: Callable[[Map], Kept], operands: Sequence[np.ndarray], signs: Sequence[int]) -> Shares:
    """A sum with broadcasting, as the linear map of all its operands."""
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    ends = np.cumsum([0, *(x.size for x in operands)])
    K = np.zeros((*shape, ends[-1]))
    for x, sign, first in zip(operands, signs, ends, strict=False):
        for at in np.ndindex(shape):
            K[(*at, first + np.ravel_multi_index(place(x.shape, at), x.shape) if x.ndim else first)] = sign
    K = K.reshape(-1, ends[-1])
    found = rule(Map(K, K != 0, np.concatenate([x.reshape(-1) for x in operands])))
    parts = np.split(found.share, ends[1:-1], axis=-1)
    return [part.reshape(*found.share.shape[:-1], *x.shape) for part, x in zip(parts, operands, strict=True)], found


def of_product(
    rule: Callable[[Map], Kept], function: Callable[..., np.ndarray], a: np.ndarray, b: np.ndarray
) -> Shares:
    """Half through each factor, by the linear rule with the other one as weights (RULES 4); `rule` takes the half."""
    first, second = matrix(lambda x: function(x, b), a.shape), matrix(lambda x: function(a, x), b.shape)
    connected = [
        matrix(lambda x: function(x, np.ones(b.shape)), a.shape) != 0,
        matrix(lambda x: function(np.ones(a.shape), x), b.shape) != 0,
    ]
    found = [rule(Map(first, connected[0], a)), rule(Map(second, connected[1], b))]
    kept = Kept(*(one + other if i else one for i, (one, other) in enumerate(zip(*found, strict=True))))
    return [each.share for each in found], kept
