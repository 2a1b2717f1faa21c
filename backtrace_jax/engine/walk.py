"""The relevance walk: reads the equations backwards, hands relevance on by their rules, and keeps the books."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..errors import BacktraceError, SettingError
from ..ops import LINEAR, NORM, OPS, PRODUCT, QUOTIENT, SOFTMAX, SUM
from ..rules import CONSTANT, DEAD, LOST, WEIGHTED, Kept, Shares, Site, in_floats
from .books import KEPT, Booking, Books, Total, total
from .plan import Plan, Step
from .strain import multiplies, overflowed, slope_vanished, squares_overflowed, steepened, vanished

Values = Mapping[str, Any]


class Walked(NamedTuple):
    """Relevance of every value the walk reached, by name, and the books."""

    relevance: dict[str, Array]
    books: Books


def walk(
    plan: Plan,
    values: Values,
    starts: Mapping[str, Array],
    *,
    nonnegative: bool = False,
    masks: Values | None = None,
    reference: Values | None = None,
) -> Walked:
    """Walk relevance back.

    Args:
        plan: Which rule each equation gets.
        values: Every value of the forward pass, by name.
        starts: Relevance of the plan's outputs, in their shapes; in pairs two channels, [2, ...].
        nonnegative: Whether it is known not to be negative anywhere; the books then need one pass, not two.
        masks: Factors that values' relevance is multiplied by before it is handed on; what they cut off is booked as
            dead.
        reference: Every value at the reference input, for modes that compare with one.
    """
    tour = _Tour(plan, starts, nonnegative, masks or {})
    for step in plan.steps:
        tour.visit(step, values, reference)
    return Walked(tour.relevance, tour.booking.closed())


_Handed: TypeAlias = tuple[Shares, dict[str, list[Total]], Books | None, tuple[Array, ...]]


class _Tour:
    """One walk under way: relevance so far, what each value has received, and the books."""

    def __init__(self, plan: Plan, starts: Mapping[str, Array], nonnegative: bool, masks: Values) -> None:
        self.paired, self.conserving, self.masks = plan.paired, plan.conserving, masks
        self.relevance: dict[str, Array] = dict(starts)
        self.signless = dict.fromkeys(starts, nonnegative)
        self.received = {name: self._totals(start, nonnegative) for name, start in starts.items()}
        self.booking = Booking(paired=plan.paired)

    def visit(self, step: Step, values: Values, reference: Values | None) -> None:
        """Hand on what an equation's results have received, and add a row to the books, and those of its body."""
        names = [var.name for var in step.eqn.outvars if var.name in self.relevance]
        if not names:
            return self.booking.blank(len(step.nodes))
        sure = all(self.signless[name] for name in names) and step.keeps_sign
        cut = [self._cut(name, sure) for name in names if name in self.masks]
        shares, kept, inner, strain = self._shares(step, values, reference, sure)
        entries = {i: self._totals(share, sure) for i, share in shares.items()}
        handed = [entries[i] for i in entries if step.bears[i]]
        kept[CONSTANT] += [entries[i] for i in entries if not step.bears[i]]
        kept[DEAD] += cut
        received = [self.received[name] for name in names]
        self.booking.row(received, handed, *kept.values(), strain=strain)
        if inner is not None:
            self.booking.body(inner)
        for i in filter(step.bears.__getitem__, shares):
            self._hand_on(step.eqn.invars[i].name, shares[i], entries[i], sure)
        return None

    def _shares(self, step: Step, values: Values, reference: Values | None, sure: bool) -> _Handed:
        """Shares of the operands, totals of what was kept by cause, the rows of a body, and the strain."""
        if step.rule is None:
            return self._over_time(step, values, reference, sure)
        R, site = self.relevance[step.eqn.outvars[0].name], site_of(step, values, reference)
        site = _as_floats(site, R.dtype) if step.measured else site
        R, site = _in_turn(R, site) if step.eqn.op in WEIGHTED else (R, site)
        given = site
        R, site, broken = _finite(R, site) if step.breaks else (R, site, None)
        apply = partial(_applied, step, site)
        shares, kept = apply(R) if step.rule.paired or not self.paired else jax.vmap(apply)(R)
        _check_shares(step, shares, self.paired)
        totals = {cause: [self._totals(kept[cause], sure)] if cause in kept else [] for cause in KEPT}
        totals[DEAD] += [] if broken is None else [self._totals(broken, sure)]
        lost = [kept[LOST]] if LOST in kept else []
        lost += [] if broken is None else [overflowed(given, broken)]
        lost += [squares_overflowed(site, R)] if site.kind == NORM else []
        return shares, totals, None, self._strain(site, lost, None if self.conserving else (R, shares))

    def _strain(self, site: Site, lost: list[Array], slopes: tuple[Array, Shares] | None) -> tuple[Array, Array]:
        """What was lost for want of range, and whether all products vanished; those with slopes as well."""
        nothing = self.booking.nothing.signed
        if not multiplies(site):
            return self._loss(lost), nothing
        gone = vanished(*site.operands[:2])
        if slopes is not None:
            lost, gone = [*lost, steepened(*slopes)], gone | slope_vanished(site, slopes[0])
        return self._loss(lost), jnp.broadcast_to(gone.astype(nothing.dtype), nothing.shape)

    def _loss(self, lost: list[Array]) -> Array:
        return self.booking.sum([self._totals(each, True) for each in lost]).signed

    def _over_time(self, step: Step, values: Values, reference: Values | None, sure: bool) -> _Handed:
        from .recurrence import walk_over_time  # which walks bodies by this module

        assert step.body is not None
        shares, books = walk_over_time(step, values, self.relevance, nonnegative=sure, reference=reference)
        steps = jnp.array(step.body.own_rows, jnp.int32)
        own = [jnp.sum(book[steps], axis=0) for book in (books.signed, books.absolute)]
        return shares, {cause: [Total(*(each[2 + i] for each in own))] for i, cause in enumerate(KEPT)}, books, ()

    def _cut(self, name: str, sure: bool) -> Total:
        """Apply a mask, and give the totals of what it cuts off."""
        whole = self.relevance[name]
        mask = jnp.broadcast_to(self.masks[name].astype(whole.dtype), whole.shape)  # in pairs, for both channels
        self.relevance[name] = whole * mask
        return self._totals(whole * (1 - mask), sure)

    def _hand_on(self, name: str, share: Array, entry: Total, sure: bool) -> None:
        """Add a share, and its entry in the books, to what a value has received so far from its other consumers."""
        known = name in self.relevance
        # XLA would add up anew, for every reader, all that a residual stream has received: the square of the depth
        self.relevance[name] = lax.optimization_barrier(self.relevance[name] + share) if known else share
        self.received[name] = self.booking.sum([self.received[name], entry]) if known else entry
        self.signless[name] = sure and self.signless.get(name, True)

    def _totals(self, array: Array, nonnegative: bool) -> Total:
        return total(array, nonnegative, paired=self.paired)


def _applied(step: Step, site: Site, R: Array) -> tuple[Shares, Kept]:
    """What a rule gives, which may be the user's own.

    Raises:
        SettingError: When it fails, or gives something else than shares and what was kept back.
    """
    assert step.rule is not None
    try:
        found = step.rule.apply(site, R)
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


def site_of(step: Step, values: Values, reference: Values | None = None) -> Site:
    """What a rule sees of an equation."""
    eqn, op = step.eqn, OPS[step.eqn.op]
    operands, result = tuple(values[var.name] for var in eqn.invars), values[eqn.outvars[0].name]
    compared = site_of(step, reference) if reference is not None else None
    signs = step.nonnegative
    return Site(op, eqn.params, step.kind, step.bears, step.saturation, signs, step.gate, operands, result, compared)


def _as_floats(site: Site, dtype: Any) -> Site:
    """The same arithmetic in floats; integers of 8 and 16 bits, which may overflow, are computed anew."""
    operands = tuple(in_floats(x, dtype) for x in site.operands)
    wide = site.result.dtype.itemsize > 2
    result = in_floats(site.result, dtype) if wide else site.op(*operands, **site.params)
    reference = site.reference and _as_floats(site.reference, dtype)
    return replace(site, operands=operands, result=result, reference=reference)


def _in_turn(R: Array, site: Site) -> tuple[Array, Site]:
    """Relevance, and the site whose values may only be read once relevance is there.

    Evidence follows from the forward pass, so XLA would gather it for many layers ahead and keep it until its turn
    comes, which takes twice the memory in transformers.
    """
    bearing = {i: x for i, x in enumerate(site.operands) if site.bears[i]}  # weights stay free to be prepared
    R, bearing = lax.optimization_barrier((R, bearing))
    return R, replace(site, operands=tuple(bearing.get(i, x) for i, x in enumerate(site.operands)))


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
