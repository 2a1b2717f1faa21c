"""Evidence: what every unit of a result was built from, and the way back to the operands.

Linear maps, sums and products of two values have one thing in common: a unit's value is a sum of contributions
c_ij = K_ij x_j (RULES section 1; in a sum, K is the operand's sign; in a product, each factor is the other's K). A rule
says how a unit shares its relevance among its contributions; it says so once, for all three kinds.

Nothing of size [out, in] is built. A *view* splits the operands and the weights into parts whose products are the
contributions the rule tells apart (RULES section 1): their totals per unit come from applying the operation to the
parts, and relevance goes back by its linear transpose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from backtrace_jax.ops import LINEAR, PRODUCT, SUM
from backtrace_jax.ops.linear import same_rank
from backtrace_jax.ops.sampling import Part

from .site import LinearMap, Shares, Site, linear_map

Parts: TypeAlias = list[Array]
Kernels: TypeAlias = "Sequence[Array | Part]"
Split: TypeAlias = Callable[[Array], Parts]
Totals: TypeAlias = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class View:
    """A way to tell contributions apart.

    Attributes:
        parts: Splits an operand; a share is the sum over its parts of part times what comes back to it.
        kernels: Splits the weights.
        totals: For each total, the (kernel, part) pairs whose contributions it adds up.
        cancels: Whether a total may be smaller than the contributions it adds up.
    """

    parts: Split
    kernels: Split
    totals: Totals
    cancels: bool = False


def _whole(x: Array) -> Parts:
    return [x]


def _magnitude(x: Array) -> Parts:
    return [jnp.abs(x)]


def _signs(x: Array) -> Parts:
    return [jnp.maximum(x, 0), jnp.maximum(-x, 0)]


def _ones(x: Array) -> Parts:
    return [jnp.ones_like(x)]


def square(x: Array) -> Array:
    """Squares that stay finite: what overflows is dead, and a rate of 0 times it must stay 0."""
    return jnp.minimum(jnp.square(x), jnp.finfo(x.dtype).max)


def _squares(x: Array) -> Parts:
    return [square(x)]


_OWN_WEIGHTS: dict[Split, Sequence[Part]] = {
    _whole: [Part.ALL],
    _magnitude: [Part.MAGNITUDE],
    _signs: [Part.POSITIVE, Part.NEGATIVE],
    _ones: [Part.CONNECTED],
    _squares: [Part.SQUARED],
}
"""The same splits for operations that have weights of both signs of their own."""

_ALIKE, _OPPOSITE = ((0, 0), (1, 1)), ((1, 0), (0, 1))

SIGNED = View(_whole, _whole, (((0, 0),),), cancels=True)
"""One total, z = Σ c."""

MAGNITUDE = View(_magnitude, _magnitude, (((0, 0),),))
"""One total, Σ |c|."""

SPLIT = View(_signs, _signs, (_ALIKE, _OPPOSITE))
"""Two totals, p = Σ c⁺ and n = Σ c⁻, by terms that are all non-negative, so that a lone contribution is exact."""

POSITIVE = View(_signs, _signs, (_ALIKE,))
"""One total, p = Σ c⁺."""

SQUARED_WEIGHTS = View(_ones, _squares, (((0, 0),),))
"""One total, Σ K²: contributions by the weights alone."""

CONNECTIONS = View(_ones, _ones, (((0, 0),),))
"""One total, the number of connections."""


def box(low: Array, high: Array) -> View:
    """One total, Σ K⁺(x − low) + K⁻(high − x), for inputs between two bounds in the input's shape.

    Inputs outside the bounds give terms of the other sign.
    """
    return View(lambda x: [x - low, high - x], _signs, (_ALIKE,), cancels=True)


class Evidence(NamedTuple):
    """What the units of a result were built from, as one view sees it.

    Attributes:
        totals: Evidence per unit of the result, one array for each total of the view that was asked for.
        bias: Additive parameters, broadcastable to the result; None: none.
        value: Value of the result, bias included.
        gain: Largest magnitude, at least 1, by which an entry of the result is multiplied on the way back: one for all
            or one for each.
        push: Takes for each total a rate, in the result's shape, and gives each operand Σ_i rate_i c_ij.
    """

    totals: tuple[Array, ...]
    bias: Array | None
    value: Array
    gain: Array | float
    push: Callable[..., Shares]


def gather(site: Site, view: View, asked: int | None = None) -> Evidence:
    """The evidence at a linear map, a sum, or a product of two values that bear relevance.

    Args:
        site: Where.
        view: How contributions are told apart.
        asked: How many of the view's totals, from its first one on; None: all.
    """
    of_kind = {SUM: _of_sum, PRODUCT: _of_product}.get(site.kind, _of_map)
    return of_kind(site, view, slice(asked))


def reach(site: Site) -> Array | float:
    """The gain of signed contributions: what a rate may be multiplied by on the way back, but for a softmax' scores."""
    if site.kind == SUM:
        return _gain_of_sum([[x] for x in site.operands], site)
    if site.kind == LINEAR:
        linear = linear_map(site)
        return _gain(_sizes(linear, _kernels(SIGNED, linear)), [linear.x])
    return _gain([site.operands[0]], [site.operands[1]]) if site.kind == PRODUCT else 1.0


def _of_map(site: Site, view: View, asked: slice) -> Evidence:
    linear = linear_map(site)
    parts = _parts(view, linear.x, linear.nonnegative)
    kernels = _kernels(view, linear)

    def push(*rates: Array) -> Shares:
        return {linear.position: _joined(parts, _unmix(linear.back, view, kernels, parts, rates))}

    return Evidence(
        _mix(linear.apply, view.totals[asked], kernels, parts),
        linear.bias,
        site.result,
        _gain(_sizes(linear, kernels), parts if view.cancels else None),
        push,
    )


def _kernels(view: View, linear: LinearMap) -> Kernels | None:
    """The weights split in the same way, whether they are an operand or the operation's own."""
    if linear.K is None:
        return None
    return _OWN_WEIGHTS[view.kernels] if isinstance(linear.K, Part) else view.kernels(linear.K)


def _sizes(linear: LinearMap, kernels: Kernels | None) -> Parts:
    """Weights as they lie in memory (XLA would make them anew, from as large an array of zeros), or what none of an
    operation's own is larger than: the sums of their magnitudes."""
    own = [lax.optimization_barrier(kernel) for kernel in kernels or () if not isinstance(kernel, Part)]
    if kernels is None or own:
        return own
    return [linear.apply(_OWN_WEIGHTS[_magnitude][0], jnp.ones_like(linear.x))]


def _parts(view: View, x: Array, nonnegative: bool) -> Parts:
    """What is never negative is its own magnitude, and its only part by sign; a copy would cost a pass over memory."""
    return [x] if nonnegative and view.parts in (_magnitude, _signs) else view.parts(x)


def _mix(apply: Callable[..., Array], totals: Totals, kernels: Kernels | None, parts: Parts) -> tuple[Array, ...]:
    """These totals. Parts that meet the same weights go through them together; without weights there is only the
    first kernel, which is not negative."""
    weights = [None] if kernels is None else kernels
    pairs = _pairs(totals, weights, parts)
    found: dict[tuple[int, int], Array] = {}
    for kernel, K in enumerate(weights):
        met = sorted({part for total in pairs for k, part in total if k == kernel})
        found.update(zip([(kernel, part) for part in met], _apply_all(apply, K, [parts[i] for i in met]), strict=True))
    return _totals(pairs, found)


def _pairs(totals: Totals, kernels: Sequence[Any], parts: Parts) -> list[list[tuple[int, int]]]:
    """The (kernel, part) pairs of each total that there are: what is never negative has one part, and one kernel."""
    return [[(k, part) for k, part in total if k < len(kernels) and part < len(parts)] for total in totals]


def _totals(pairs: list[list[tuple[int, int]]], found: Mapping[tuple[int, int], Array]) -> tuple[Array, ...]:
    nothing = jnp.zeros_like(found[0, 0])
    return tuple(_added([found[pair] for pair in total] or [nothing]) for total in pairs)


def _unmix(
    back: Callable[..., Array], view: View, kernels: Kernels | None, parts: Parts, rates: Sequence[Array]
) -> Parts:
    """The transpose of `_mix`: what the rates of the totals send back to each part."""
    weights = [None] if kernels is None else kernels
    found: list[list[Array]] = [[] for _ in parts]
    for kernel, K in enumerate(weights):
        met = [(part, rate) for total, rate in zip(view.totals, rates, strict=True) for k, part in total if k == kernel]
        met = [(part, rate) for part, rate in met if part < len(parts)]
        for (part, _), pushed in zip(met, _apply_all(back, K, [rate for _, rate in met]), strict=True):
            found[part].append(pushed)
    return [_added(each) if each else jnp.zeros_like(part) for each, part in zip(found, parts, strict=True)]


def _apply_all(apply: Callable[..., Array], K: Any, parts: Parts) -> Sequence[Array]:
    if len(parts) < 2:
        return [apply(K, part) for part in parts]
    return list(jax.vmap(functools.partial(apply, K))(jnp.stack(parts)))


def _added(arrays: Sequence[Array]) -> Array:
    return sum(arrays[1:], arrays[0])


def _of_sum(site: Site, view: View, asked: slice) -> Evidence:
    """c_k = ±x_k. A mask of -inf takes nothing: the softmax after it has let no relevance through there."""
    signs = site.op.signs or (1,) * len(site.operands)
    finite = [jnp.where(jnp.isfinite(x), x * sign, 0) for x, sign in zip(site.operands, signs, strict=True)]
    parts = [view.parts(x) for x in finite]

    def reach(*operands: Parts) -> tuple[Array, ...]:
        return tuple(
            _added(same_rank(*(parts[at] for parts in operands for kernel, at in total if kernel == 0)))
            for total in view.totals
        )

    totals, back = jax.vjp(reach, *parts)

    def push(*rates: Array) -> Shares:
        pushed = back(rates)
        return {k: _joined(parts[k], pushed[k]).astype(x.dtype) for k, x in enumerate(site.operands)}

    gain = _gain_of_sum(parts if view.cancels else [], site)
    return Evidence(totals[asked], None, site.result, gain, push)


def _gain_of_sum(parts: Sequence[Parts], site: Site) -> Array:
    """Unit by unit: each has its own x_k."""
    sizes = same_rank(*(jnp.abs(part) for own in parts for part in own)) if parts else []
    return functools.reduce(jnp.maximum, sizes, jnp.ones((), site.result.dtype))


def _of_product(site: Site, view: View, asked: slice) -> Evidence:
    """Half of what is pushed goes through each factor, with the other one as weights (RULES section 4)."""
    a, b = (_parts(view, x, sure) for x, sure in zip(site.operands[:2], site.nonnegative[:2], strict=True))
    pairs = _pairs(view.totals, b, a)

    def reach(a: Parts, b: Parts) -> tuple[Array, ...]:
        found = {pair: site.call({0: a[pair[1]], 1: b[pair[0]]}) for total in pairs for pair in total}
        return _totals(pairs, found)

    totals, back = jax.vjp(reach, a, b)

    def push(*rates: Array) -> Shares:
        pushed = back(tuple(rate / 2 for rate in rates))
        return {k: _joined(parts, pushed[k]) for k, parts in enumerate((a, b))}

    return Evidence(totals[asked], None, site.result, _gain(a, b), push)


def _gain(kernels: Parts | None, parts: Parts | None) -> Array | float:
    """What a rate may be multiplied by: weights, then the operand, where evidence may cancel to less than its parts."""
    factors = [jnp.maximum(_largest(arrays), 1) for arrays in (kernels, parts) if arrays]
    if not factors:
        return 1.0
    product = functools.reduce(jnp.multiply, factors)
    return jnp.minimum(product, jnp.finfo(product.dtype).max)


def _largest(arrays: Parts) -> Array:
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(array), initial=0) for array in arrays])


def _joined(parts: Parts, pushed: Parts) -> Array:
    return _added([part * back for part, back in zip(parts, pushed, strict=True)])
