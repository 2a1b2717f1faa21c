"""Slopes instead of relevance: the rules R_x = x ⊙ g of the epsilon family as one modified gradient (RULES section 14).

Where every share is its operand times something, that something, g = R/x, can travel itself: no unit divides by its
evidence, and there is no stabiliser. It is the limit of the quotient form for ε → 0, since y g = Σ x g_x + b g for
y = Σ K x + b and g_x = Kᵀ g. What is kept back is still relevance: a bias takes b g.

A form is a function of a site and the slope of its result; it gives the slopes of the operands, and what was kept. At
which equations a rule has a form, functions called `of_...` say at the end. docs/slopes.md shows how slopes and
relevance meet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from backtrace_jax.ir import Eqn
from backtrace_jax.ops import LINEAR, NORM, SUM
from backtrace_jax.ops.linear import same_rank

from . import shared
from .attention import carried_over, visible
from .evidence import reach
from .norms import CENTRING, linear_part
from .site import BIAS, DEAD, Kept, Shares, Site, Slopes, fit, linear_map, stabilised


def divided(site: Site, R: Array) -> tuple[Array, Kept]:
    """The slope R/y of what has arrived as relevance; what meets no evidence is dead."""
    return stabilised(R, site.result, 0.0, linear_part(site).reach if site.kind == NORM else reach(site))


def linear(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The plain transpose; of two factors that bear relevance half goes through each (RULES section 4)."""
    if site.kind == SUM:
        signs = site.op.signs or (1,) * len(site.operands)
        return {i: fit(g if sign > 0 else -g, site.operands[i]) for i, sign in enumerate(signs)}, {}
    factors = [i for i, bears in enumerate(site.bears) if bears]
    maps = [linear_map(replace(site, bears=_only(i, site), kind=LINEAR)) for i in factors]
    part = g / len(factors)
    return {each.position: each.back(each.K, part) for each in maps}, _of_bias(maps[0].bias, g)


def _only(position: int, site: Site) -> tuple[bool, ...]:
    return tuple(i == position for i in range(len(site.bears)))


def _of_bias(bias: Array | None, g: Array) -> Kept:
    return {} if bias is None else {BIAS: bias * g}


def gated(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The signal of a gated product takes all, the gate being its weights."""
    bears = tuple(bears and position != site.gate for position, bears in enumerate(site.bears))
    return linear(replace(site, bears=bears, kind=LINEAR), g)


def numerator(site: Site, g: Array) -> tuple[Shares, Kept]:
    """A quotient belongs to its numerator: a linear map of it."""
    return linear(replace(site, bears=_only(0, site), kind=LINEAR), g)


def through(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The identity rule where f(0) = 0: relevance f(x) g is x times f(x)/x g; nothing at 0.

    A cast that rounds is such a function, too.
    """
    x, y = site.operands[site.bearer], site.result
    if site.op.name == "gate":
        return {site.bearer: fit(g, x)}, {}
    if site.op.name == "relu":
        return {site.bearer: jnp.where(x > 0, g, 0)}, {}
    wide = jnp.promote_types(x.dtype, y.dtype)
    below, above, g = same_rank(*(each.astype(wide) for each in (x, y, g)))
    return {site.bearer: fit(g * jnp.where(below == 0, 0, above / jnp.where(below == 0, 1, below)), x)}, {}


def select(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The winner takes all: its value is the result's."""
    slopes, kept = shared.select(site, g)
    return slopes, {cause: each * site.result.reshape(each.shape) for cause, each in kept.items()}


def norm(site: Site, g: Array) -> tuple[Shares, Kept]:
    """g_x = u − mean u for u = s ⊙ g at a fixed deviation; see `norms.at_fixed_deviation`."""
    part = linear_part(site)
    g, y = part.rows(g), part.rows(site.result)
    slope = part.centred(part.scale * g).reshape(site.operands[0].shape)
    kept = {BIAS: part.shift * jnp.where(part.empty, 0, g)} if len(site.operands) > 2 else {}
    return {0: slope}, {**kept, DEAD: jnp.where(part.empty, y * g, 0)} if part.centring else kept


def softmax(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The derivative, A ⊙ (g − Σ A g); see `attention.taylor_softmax`."""
    axis, A = site.params["axis"], site.result
    R = A * g
    kept = R * (1 + carried_over(visible(site, A), A, axis))
    return {0: R - A * jnp.sum(R, axis, keepdims=True)}, {BIAS: kept}


def log_softmax(site: Site, g: Array) -> tuple[Shares, Kept]:
    """The derivative, g − A Σ g; see `attention.taylor_log_softmax`."""
    axis, A = site.params["axis"], jnp.exp(site.result)
    y = jnp.where(A > 0, site.result, 0)
    kept = g * (y + carried_over(visible(site, A), A, axis))
    return {0: g - A * jnp.sum(g, axis, keepdims=True)}, {BIAS: kept}


_LINEAR, _GATED, _CENTRED = (Slopes(each, divides=True) for each in (linear, gated, norm))
_LOG_SOFTMAX = Slopes(log_softmax, divides=True)
_SCALED, _SOFTMAX, _NUMERATOR, _SELECTED, _THROUGH, _MOVED = map(
    Slopes, (norm, softmax, numerator, select, through, shared.move)
)


def of_linear(eqn: Eqn) -> Slopes | None:
    """Linear maps, sums and products."""
    return _LINEAR


def of_gated(eqn: Eqn) -> Slopes | None:
    """Gated products whose signal takes all."""
    return _GATED


def of_norm(eqn: Eqn) -> Slopes | None:
    """Normalisations: those by a mean or with a shift are linear maps, others an identity."""
    if eqn.op in CENTRING or len(eqn.invars) > 2:
        return _CENTRED
    return _SCALED if eqn.op == "rms_norm" else _THROUGH


def of_softmax(eqn: Eqn) -> Slopes | None:
    """A softmax, or its logarithm, inside the network."""
    return _SOFTMAX if eqn.op == "softmax" else _LOG_SOFTMAX


def of_move(eqn: Eqn) -> Slopes | None:
    """Moves: entries keep their values, and so their slopes."""
    return _MOVED


def of_selection(eqn: Eqn) -> Slopes | None:
    """Selections whose winners equal the result; a smooth maximum gives shares that are no multiples of x."""
    return None if eqn.op == "log_sum_exp" else _SELECTED


def of_quotient(eqn: Eqn) -> Slopes | None:
    """Quotients of two values, which belong to their numerator."""
    return _NUMERATOR


def of_identity(eqn: Eqn) -> Slopes | None:
    """One-input functions with f(0) = 0; of others R/x has no bound."""
    return _THROUGH if _FROM_ZERO.get(eqn.op, _never)(**eqn.params) else None


def _always(**params: Any) -> bool:
    return True


def _never(**params: Any) -> bool:
    return False


def _is_power(*, exponent: int) -> bool:
    return exponent > 0


def _holds_zero(*, low: int | float | None, high: int | float | None) -> bool:
    return (low is None or low <= 0) and (high is None or high >= 0)


_FROM_ZERO: dict[str, Callable[..., bool]] = {
    **dict.fromkeys(("cast", "gate", "abs", "neg", "relu", "prelu", "leaky_relu", "thresholded_relu"), _always),
    **dict.fromkeys(
        ("celu", "elu", "selu", "gelu", "silu", "swish", "hard_swish", "mish", "softsign", "shrink"), _always
    ),
    **dict.fromkeys(("asinh", "atan", "erf", "sin", "sinh", "sqrt", "tan", "tanh"), _always),
    "integer_pow": _is_power,
    "clip": _holds_zero,
}
"""One-input functions with f(0) = 0, and with which settings."""
