"""How one equation shares the relevance of its result: what its rule gives, checked and added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from backtrace_jax.errors import BacktraceError, SettingError
from backtrace_jax.ops import LINEAR, NORM, PRODUCT, QUOTIENT, SOFTMAX, SUM
from backtrace_jax.question.words import NODES
from backtrace_jax.rules import DEAD, LOST, WEIGHTED, Kept, Shares, Site, divided, in_floats

from .books import KEPT, Total, relevance_of, total
from .steps import Step
from .strain import multiplies, overflowed, slope_vanished, squares_overflowed, steepened, vanished


class Shared(NamedTuple):
    """What an equation does with the relevance of its result.

    Attributes:
        shares: Of the operands, by position.
        entries: Their totals.
        kept: Totals of what was kept, by cause.
        strain: What was lost for want of range, and whether all products vanished, as 1 or 0; None: nothing, and no.
    """

    shares: Shares
    entries: dict[int, list[Total]]
    kept: dict[str, list[Total]]
    strain: tuple[Array | None, Array | None] = (None, None)


class Conditions(NamedTuple):
    """Under which conditions relevance is shared.

    Attributes:
        sure: Whether no share is negative anywhere.
        paired: Whether relevance has two channels.
        conserving: Whether it is shared out; otherwise it is a derivative.
        ledger: Of what books are kept.
        arriving: Whether the slope R/x of the result arrives, and not its relevance.
        turned: Positions of the operands whose slopes are handed on as relevance.
        waiting: Whether weights, too, may only be read once relevance is there, so that nothing is made of them before.
    """

    sure: bool
    paired: bool
    conserving: bool
    ledger: str | None = NODES
    arriving: bool = False
    turned: tuple[int, ...] = ()
    waiting: bool = False

    def booked(self, array: Array, value: Array | None = None, *, travels: bool = False) -> list[Total]:
        """Totals of relevance, or of slopes of a value, if they are booked: what travels on only in books of nodes."""
        books = self.ledger == NODES or (self.ledger is not None and not travels)
        return [total(array, self.sure, paired=self.paired, value=value)] if books else []


SiteArrays: TypeAlias = tuple[tuple[Any, ...], Any, Any]


def arrays_of(site: Site) -> SiteArrays:
    """The arrays of a site: operands, result, and those of the reference."""
    return site.operands, site.result, site.reference and arrays_of(site.reference)


def form_of(step: Step) -> tuple[Any, ...]:
    """All that `share` reads of a step, but for what it says in messages."""
    rule, eqn = step.rule, step.eqn
    assert rule is not None
    ruled = rule.function, rule.settings, rule.paired, rule.takers, step.slopes
    known = step.kind, step.bears, step.saturation, step.nonnegative, step.gate, step.breaks, step.measured
    return ruled, eqn.op, tuple(sorted(eqn.params.items())), known


def share(step: Step, like: Site, conditions: Conditions, given: tuple[Array, SiteArrays]) -> Shared:
    """Share the relevance of an equation's result among its operands.

    Args:
        step: The equation and its rule.
        like: Its site, but for the arrays.
        conditions: Under which conditions.
        given: Relevance of the result, and the arrays of the site.
    """
    R, site = given[0], _filled(like, given[1])
    assert step.rule is not None
    site = _as_floats(site, R.dtype) if step.measured else site
    R, site = _in_turn(R, site, conditions.waiting) if step.eqn.op in WEIGHTED else (R, site)
    whole = site
    R, met = _met(step, site, R, arriving=conditions.arriving)
    R, site, broken = _finite(R, site) if step.breaks else (R, site, None)
    apply = partial(_applied, step, site)
    shares, kept = apply(R) if step.rule.paired or not conditions.paired else jax.vmap(apply)(R)
    _check_shares(step, shares, conditions.paired)
    ended = {cause: [each[cause] for each in (met, kept) if cause in each] for cause in KEPT}
    ended[DEAD] += [] if broken is None else [broken]
    lost = [each[LOST] for each in (met, kept) if LOST in each]
    lost += [] if broken is None else [overflowed(whole, broken)]
    lost += [squares_overflowed(site, relevance_of(R, site.result) if step.slopes else R)] if site.kind == NORM else []
    derived = None if conditions.conserving else (R, shares)
    strain = _strain(site, lost, conditions, derived, R if step.slopes and conditions.ledger != NODES else None)
    values = {i: site.operands[i] if step.slopes else None for i in sorted(shares)}
    entries = {i: conditions.booked(shares[i], value, travels=step.bears[i]) for i, value in values.items()}
    shares = {i: relevance_of(shares[i], site.operands[i]) if i in conditions.turned else shares[i] for i in entries}
    booked = {cause: [entry for each in ended[cause] for entry in conditions.booked(each)] for cause in KEPT}
    return Shared(shares, entries, booked, strain)


def _met(step: Step, site: Site, R: Array, *, arriving: bool) -> tuple[Array, Kept]:
    """What has arrived in the form that an equation hands on, and what met no evidence on the way."""
    if step.slopes is None:
        return relevance_of(R, site.result) if arriving else R, {}
    return (R, {}) if arriving else divided(site, R)


def _filled(site: Site, arrays: SiteArrays) -> Site:
    operands, result, reference = arrays
    compared = site.reference and _filled(site.reference, reference)
    return replace(site, operands=operands, result=result, reference=compared)


def _strain(
    site: Site, lost: list[Array], conditions: Conditions, derived: tuple[Array, Shares] | None, slopes: Array | None
) -> tuple[Array | None, Array | None]:
    """What was lost for want of range, and whether all products vanished; those with derivatives, and with slopes for
    which no books of nodes tell, as well."""
    if not multiplies(site):
        return _loss(lost, conditions), None
    gone = vanished(*site.operands[:2])
    if derived is not None:
        lost, gone = [*lost, steepened(*derived)], gone | slope_vanished(site, derived[0])
    if slopes is not None:
        gone |= slope_vanished(site, slopes)
    return _loss(lost, conditions), jnp.broadcast_to(gone.astype(jnp.float64), (2,) if conditions.paired else ())


def _loss(lost: list[Array], conditions: Conditions) -> Array | None:
    """Magnitudes added up in their own type: whether they are a thousandth of the whole needs no more digits."""
    losses = [jnp.sum(each, tuple(range(conditions.paired, each.ndim))).astype(jnp.float64) for each in lost]
    return sum(losses[1:], losses[0]) if losses else None


def _applied(step: Step, site: Site, R: Array) -> tuple[Shares, Kept]:
    """What a rule gives, which may be the user's own.

    Raises:
        SettingError: When it fails, or gives something else than shares and what was kept back.
    """
    assert step.rule is not None
    try:
        found = step.slopes.function(site, R) if step.slopes else step.rule.apply(site, R)
    except BacktraceError:
        raise
    except Exception as error:
        raise SettingError(f"rule {step.rule_name!r} fails: {error!s:.120}, in: {step.eqn!s:.100}") from error
    if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Mapping) for part in found)):
        raise SettingError(
            f"rule {step.rule_name!r} should return two dicts: shares by operand, and what it kept by column of the "
            f"ledger, found {type(found).__name__}, in: {step.eqn!s:.100}"
        )
    if unknown := [column for column in found[1] if column not in (*KEPT, LOST)]:
        raise SettingError(f"rule {step.rule_name!r} keeps {unknown[0]!r}; the ledger's columns are: {', '.join(KEPT)}")
    return found


def _check_shares(step: Step, shares: Shares, paired: bool) -> None:
    """Refuse what a rule of the user's own leaves out or misshapes, before it is lost without a trace."""
    for i, (var, takes) in enumerate(zip(step.eqn.invars, step.taking, strict=True)):
        shape = (2, *var.shape) if paired else var.shape
        if takes and (i not in shares or shares[i].shape != shape):
            found = f"an array of shape {list(shares[i].shape)}" if i in shares else "nothing"
            raise SettingError(
                f"rule {step.rule_name!r} should give operand {i} of {step.eqn.op!r} a share of shape {list(shape)}, "
                f"found {found}, in: {step.eqn}"
            )


def _as_floats(site: Site, dtype: Any) -> Site:
    """The same arithmetic in floats; integers of 8 and 16 bits, which may overflow, are computed anew."""
    operands = tuple(in_floats(x, dtype) for x in site.operands)
    wide = site.result.dtype.itemsize > 2
    result = in_floats(site.result, dtype) if wide else site.op(*operands, **site.params)
    reference = site.reference and _as_floats(site.reference, dtype)
    return replace(site, operands=operands, result=result, reference=reference)


def _in_turn(R: Array, site: Site, waiting: bool) -> tuple[Array, Site]:
    """Relevance, and the site whose values may only be read once relevance is there.

    Evidence follows from the forward pass, so XLA would gather it for many layers ahead and keep it until its turn
    comes, which takes twice the memory in transformers.
    """
    held = {i: x for i, x in enumerate(site.operands) if waiting or site.bears[i]}  # others are free to be prepared
    R, held = lax.optimization_barrier((R, held))
    return R, replace(site, operands=tuple(held.get(i, x) for i, x in enumerate(site.operands)))


_BY_VALUE = (LINEAR, NORM, PRODUCT, QUOTIENT, SOFTMAX, SUM)  # kinds that share by what the values are


def _finite(R: Array, site: Site) -> tuple[Array, Site, Array | None]:
    """The site with 0 for NaN and Inf, so that 0 times them is 0; and what such results had received, which is dead.

    A value the answer depends on is finite, and stays as it is.
    """
    lost = None
    if site.kind in _BY_VALUE:
        sound = jnp.isfinite(site.result)
        R, lost = jnp.where(sound, R, 0), jnp.where(sound, 0, R)
    operands = tuple(map(_zeroed, site.operands))
    reference = site.reference and _finite(R, site.reference)[1]
    return R, replace(site, operands=operands, result=_zeroed(site.result), reference=reference), lost


def _zeroed(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0) if jnp.issubdtype(x.dtype, jnp.inexact) else x
