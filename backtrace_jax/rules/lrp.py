"""Layer-wise relevance propagation: the rules of the LRP family (RULES section 1.3).

Sources: Bach et al. 2015 (epsilon, alpha-beta, "A"); Montavon et al. 2017 (z-plus, z-box, w-square: deep Taylor
decomposition); Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview" (gamma, composites); Andéol et al.
2021 (gamma for signed inputs); Lapuschkin et al. 2019 (flat). A denominator z is kept away from zero by ε sign(z), with
sign(0) = 1, and what that takes is booked as stabiliser.

`bias`: "keep" books the bias' share in the ledger; "ignore" leaves it out of the denominator, so that the operands
take all.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from backtrace_jax.errors import SettingError

from .evidence import CONNECTIONS, POSITIVE, SIGNED, SPLIT, SQUARED_WEIGHTS, Evidence, View, box, gather, square
from .options import KEEP
from .site import BIAS, Kept, Shares, Site, stabilised

EPSILON = 1e-9


def epsilon(site: Site, R: Array, *, epsilon: float = EPSILON, bias: str = KEEP) -> tuple[Shares, Kept]:
    """Share by signed contributions, R_j = Σ_i c_ij R_i / (z_i + ε sign z_i) (Bach et al. 2015, eq. 58)."""
    evidence = gather(site, SIGNED)
    b = _bias(evidence, bias)
    z = evidence.value if b is evidence.bias else evidence.totals[0]
    rate, kept = stabilised(R, z, epsilon, evidence.gain)
    return evidence.push(rate), _with_bias(kept, b, rate)


def gamma(
    site: Site, R: Array, *, gamma: float = 0.25, epsilon: float = EPSILON, bias: str = KEEP
) -> tuple[Shares, Kept]:
    """Favour contributions of a unit's own sign by 1 + γ (Montavon et al. 2019; Andéol et al. 2021)."""
    evidence = gather(site, SPLIT)
    b = _bias(evidence, bias)
    positive, negative = evidence.totals
    z = positive - negative if b is None else positive - negative + b
    favour_p, favour_n = (1 + gamma * side.astype(R.dtype) for side in (z >= 0, z < 0))
    favoured = None if b is None else favour_p * jnp.maximum(b, 0) - favour_n * jnp.maximum(-b, 0)
    total = favour_p * positive - favour_n * negative
    rate, kept = stabilised(R, total if favoured is None else total + favoured, epsilon, evidence.gain)
    return evidence.push(favour_p * rate, -favour_n * rate), _with_bias(kept, favoured, rate)


def alpha_beta(
    site: Site, R: Array, *, alpha: float = 2.0, beta: float = 1.0, epsilon: float = EPSILON, bias: str = KEEP
) -> tuple[Shares, Kept]:
    """α times the shares of positive contributions minus β times those of negative ones (Bach et al. 2015, eq. 60)."""
    evidence = gather(site, SPLIT)
    b = _bias(evidence, bias)
    sides = [(alpha * R, evidence.totals[0], 1), (-beta * R, evidence.totals[1], -1)]
    rates, kept = [], []
    for part, total, sign in sides:
        own = None if b is None else jnp.maximum(sign * b, 0)
        rate, taken = stabilised(part, total if own is None else total + own, epsilon, evidence.gain)
        rates.append(rate)
        kept.append(_with_bias(taken, own, rate))
    return evidence.push(*rates), {cause: kept[0][cause] + kept[1][cause] for cause in kept[0]}


def _one_sided(view: View, site: Site, R: Array, epsilon: float, bias: Any) -> tuple[Shares, Kept]:
    """Share by contributions that are not negative; `bias` gives a bias' own contribution, None leaves it out."""
    evidence = gather(site, view)
    b = None if bias is None or evidence.bias is None else bias(evidence.bias)
    total = evidence.totals[0] if b is None else evidence.totals[0] + b
    rate, kept = stabilised(R, total, epsilon, evidence.gain)
    return evidence.push(rate), _with_bias(kept, b, rate)


def z_plus(site: Site, R: Array, *, epsilon: float = EPSILON, bias: str = KEEP) -> tuple[Shares, Kept]:
    """Share by positive contributions alone, alpha-beta with (1, 0) (Montavon et al. 2017)."""
    return _one_sided(POSITIVE, site, R, epsilon, _positive if bias == KEEP else None)


def w_square(site: Site, R: Array, *, epsilon: float = EPSILON, bias: str = KEEP) -> tuple[Shares, Kept]:
    """Share by squared weights, whatever the input (Montavon et al. 2017, eq. 12)."""
    return _one_sided(SQUARED_WEIGHTS, site, R, epsilon, square if bias == KEEP else None)


def flat(site: Site, R: Array, *, epsilon: float = EPSILON) -> tuple[Shares, Kept]:
    """Equal shares for all that is connected, whatever input and weights (Lapuschkin et al. 2019)."""
    return _one_sided(CONNECTIONS, site, R, epsilon, None)


def z_box(site: Site, R: Array, *, low: Any, high: Any, epsilon: float = EPSILON) -> tuple[Shares, Kept]:
    """Share by c_ij − K⁺_ij low_j + K⁻_ij high_j, for inputs between two bounds (Montavon et al. 2017, eq. 14).

    Args:
        site: The linear map.
        R: Relevance of its result.
        low: Smallest possible input: a number, one per channel, or nested tuples that broadcast against the input.
        high: Largest possible input.
        epsilon: Stabiliser.
    """
    return _one_sided(box(*_bounds(site, low, high)), site, R, epsilon, None)


def within_box(site: Site, *, low: Any, high: Any, epsilon: float = EPSILON) -> Array:
    """Smallest and largest input, and how far one lies beyond its bound by more than rounding; 0: none does."""
    x, (lower, upper) = site.operands[site.bearer], _bounds(site, low, high)
    beyond = jnp.maximum(lower - x, x - upper)
    rounding = 1e-5 * jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    far = jnp.max(jnp.where(beyond > rounding, beyond, 0), initial=0)
    return jnp.stack([jnp.min(x, initial=jnp.inf), jnp.max(x, initial=-jnp.inf), far])


def _bounds(site: Site, low: Any, high: Any) -> tuple[Array, Array]:
    x, turned = site.operands[site.bearer], site.params.get("channels_last", False)
    lower, upper = (jnp.asarray(_fitted(bound, x.shape, turned), x.dtype) for bound in (low, high))
    return lower, upper


def _fitted(bound: Any, shape: tuple[int, ...], channels_last: bool) -> np.ndarray:
    """A bound in the input's shape; a plain list goes along the channels, in the model the axis after the batch.

    Raises:
        SettingError: When it does not fit.
    """
    array = np.asarray(bound)
    channels = array.ndim == 1 and len(shape) > 2
    model = shape[:1] + shape[-1:] + shape[1:-1] if channels_last else shape
    try:
        fitted = np.broadcast_to(array.reshape(-1, *(1,) * (len(shape) - 2)) if channels else array, model)
        return np.moveaxis(fitted, 1, -1) if channels_last else fitted
    except ValueError:
        raise SettingError(
            f"bounds of shape {list(array.shape)} do not fit what the first layer reads, {list(shape)}: pass a number, "
            "one per channel, or an array that broadcasts against it"
        ) from None


def _positive(b: Array) -> Array:
    return jnp.maximum(b, 0)


def _bias(evidence: Evidence, bias: str) -> Array | None:
    return evidence.bias if bias == KEEP else None


def _with_bias(kept: Kept, bias: Array | None, rate: Array) -> Kept:
    return kept if bias is None else {**kept, BIAS: bias * rate}
