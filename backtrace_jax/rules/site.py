"""What a relevance rule sees of one equation, and the numerical helpers every rule shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from backtrace_jax.ops import PRODUCT, QUOTIENT, Op
from backtrace_jax.ops.linear import mul
from backtrace_jax.ops.sampling import Part

BIAS, CONSTANT, STABILISER, DEAD = "bias", "constant", "stabiliser", "dead"
LOST = "lost"
"""Not a column: the magnitude of what is dead, or with the stabiliser, for want of range rather than of evidence."""

EMBEDDING = "embedding"  # rows of a table that bears no relevance, looked up by an index that does
INDEX = "index"  # such an index worked out, entry by entry, from ids and constants

Shares = dict[int, Array]
"""Relevance handed to operands, by operand position; each has its operand's shape (in pairs, two channels in front)."""

Kept = dict[str, Array]
"""Relevance a rule kept back, by ledger column, not yet summed."""


@dataclass(frozen=True)
class Slopes:
    """How a rule carries slopes R/x instead of relevance R (RULES section 14).

    Attributes:
        function: Pure function (site, slope of the result) -> (slopes of the operands, relevance that was kept).
        divides: Whether relevance that arrives is divided by the result, to go on as slopes; otherwise the rule hands
            it on as relevance.
    """

    function: Callable[[Site, Array], tuple[Shares, Kept]]
    divides: bool = False


@dataclass(frozen=True)
class Site:
    """One equation at work.

    Attributes:
        op: The operation.
        params: Its static settings.
        kind: Its kind here, given which operands bear relevance: a product with one bearing factor is linear.
        bears: Whether each operand bears relevance.
        saturation: Range (l, u) of the activation that alone consumes the result; None: no gate.
        nonnegative: Whether each operand is known never to be negative.
        gate: Position of the factor that gates the other one, or None.
        operands: Values of the operands.
        result: Value of the result.
        reference: The same equation at the reference input, in modes that compare with one.
    """

    op: Op
    params: Mapping[str, Any]
    kind: str
    bears: tuple[bool, ...]
    saturation: tuple[Any, Any] | None
    nonnegative: tuple[bool, ...]
    gate: int | None
    operands: tuple[Array, ...]
    result: Any
    reference: Site | None = None

    @property
    def carriers(self) -> tuple[int, ...]:
        """Operand positions that take part in the sharing, whether they bear relevance or are constants."""
        return tuple(i for i in range(len(self.operands)) if self.op.carries(i))

    @property
    def bearer(self) -> int:
        """Position of the first operand that bears relevance."""
        return self.bears.index(True)

    def call(self, carried: Mapping[int, Array], **changed: Any) -> Any:
        """Apply the operation with some operands and settings replaced, without bias."""
        operands = [carried.get(i, operand) for i, operand in enumerate(self.operands)]
        return self.op.apply(*operands[: 2 if self.op.kind == PRODUCT else None], **{**self.params, **changed})


class LinearMap(NamedTuple):
    """z = apply(K, x) + bias: an equation seen as a linear map of the one operand that bears relevance.

    Attributes:
        apply: Linear in `x` for given weights, and in weights that are an array.
        back: From weights and an array in the shape of z to its linear transpose, in the shape of x.
        K: The weights. Where they are the operation's own: `Part.ALL` of them if they have both signs, for which other
            parts may stand; None if none is negative.
        x: The operand that bears relevance.
        bias: Additive parameters, broadcastable to z; None: none.
        position: Position of x among the operands.
        nonnegative: Whether x is known never to be negative.
    """

    apply: Callable[[Any, Array], Array]
    back: Callable[[Any, Array], Array]
    K: Array | Part | None
    x: Array
    bias: Array | None
    position: int
    nonnegative: bool


def linear_map(site: Site) -> LinearMap:
    """The linear map of a site of kind linear."""
    position = site.bearer
    x = site.operands[position]
    if site.op.kind == QUOTIENT:
        apply, K, bias = _scale, _inverse(site.operands[1]), None
    elif site.op.kind == PRODUCT:
        apply, K = _weighted(site, position), site.operands[1 - position]
        bias = site.operands[2] if len(site.operands) == 3 else None
    elif site.params.get("signed"):
        apply, K, bias = (lambda part, value: site.call({position: value}, part=part)), Part.ALL, None
    else:
        apply, K, bias = (lambda _, value: site.call({position: value})), None, None
    return LinearMap(apply, _back(site, position, apply), K, x, bias, position, site.nonnegative[position])


def _back(site: Site, position: int, apply: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
    x, back = site.operands[position], site.op.back
    if position == 0 and back is not None:
        return lambda K, R: back(R, K, x.shape, **site.params)
    return lambda K, R: jax.linear_transpose(lambda value: apply(K, value), jax.ShapeDtypeStruct(x.shape, R.dtype))(R)[
        0
    ]


def _weighted(site: Site, position: int) -> Callable[[Any, Array], Array]:
    return lambda K, value: site.call({position: value, 1 - position: K})


def _inverse(x: Array) -> Array:
    """1/x, with 1/0 = 0: such a quotient is not finite, so no relevance comes from it."""
    return jnp.where(x == 0, 0, 1 / jnp.where(x == 0, 1, x))


def _scale(K: Array, x: Array) -> Array:
    return mul(x, K)


class Spread(NamedTuple):
    """Relevance per unit of evidence, the relevance that met none, and the magnitude of what met some all the same."""

    rate: Array
    dead: Array
    lost: Array


def spread(R: Array, D: Array, gain: Array | float = 1.0) -> Spread:
    """R/D, with 0/0 = 0.

    Nothing finite may turn into Inf or NaN. So evidence that overflowed, or is so small that the quotient would
    overflow once the weights are applied to it, counts as none, and its relevance is dead.

    Args:
        R: Relevance.
        D: Evidence, of the same shape.
        gain: Largest magnitude that any one entry of the quotient is multiplied by afterwards.
    """
    normal = float(jnp.finfo(R.dtype).smallest_normal)  # its reciprocal is within a factor of 4 of the largest number
    smallest = jnp.maximum(gain * normal, normal) * (4 * D.size)  # that many products may be added up
    none = (jnp.abs(D) <= jnp.abs(R) * smallest) | ~(jnp.abs(D) < jnp.finfo(D.dtype).max)
    rate = jnp.where(none, 0, R / jnp.where(none, 1, D))
    return Spread(rate, jnp.where(none, R, 0), jnp.where(none & (D != 0), jnp.abs(R), 0))


def stabilised(R: Array, z: Array, epsilon: float, gain: Array | float = 1.0) -> tuple[Array, Kept]:
    """R/(z + ε sign z), and what is kept on the way.

    Without an epsilon relevance that meets no evidence is dead. With one there is always evidence, and the stabiliser
    takes what is too large to be divided by it, too.
    """
    if not epsilon:
        rate, dead, lost = spread(R, z, gain)
        return rate, {DEAD: dead, LOST: lost}
    small = jnp.where(z < 0, -epsilon, epsilon).astype(R.dtype)
    rate, over, lost = spread(R, z + small, gain)
    return rate, {STABILISER: small * rate + over, LOST: lost}


def fit(R: Array, like: Array) -> Array:
    """Sum relevance over the axes along which an operand was broadcast, and give it the operand's float type.

    Integers and floats of 8 bits and less are too coarse for relevance, which keeps its own type there.
    """
    extra = tuple(range(R.ndim - like.ndim))
    summed = jnp.sum(R, extra) if extra else R
    stretched = tuple(i for i, size in enumerate(like.shape) if size == 1 and summed.shape[i] != 1)
    summed = jnp.sum(summed, stretched, keepdims=True) if stretched else summed
    return summed.astype(like.dtype) if _is_fine(like.dtype) else summed


def in_floats(x: Array, dtype: Any) -> Array:
    """Numbers as floats to compute with: integers and floats of 8 bits and less in this type, others as they are."""
    return x if _is_fine(x.dtype) else x.astype(dtype)


def _is_fine(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.inexact)) and dtype.itemsize > 1
