"""Procedures: how often a graph is run and walked for one explanation (RULES section 11).

Relevance modes walk once. Gradient modes multiply what arrives with the input, compare with a reference input, or
average over a path or over noise. All but plain gradients end where values can vary smoothly: at float inputs, and at
the rows that integer inputs look up, whose attribution is then added up per token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from backtrace_jax.question.words import NODES
from backtrace_jax.rules import AgainstReference, AlongPath, Once, Procedure, WithNoise, in_floats
from backtrace_jax.runtime.numerics import random_key

from .body import Values
from .books import Books
from .forward import forward
from .quadrature import integrate
from .steps import Plan
from .walk import Walked, walk


class Outcome(NamedTuple):
    """What a procedure finds.

    Attributes:
        relevance: Relevance of the values it reached, by name.
        strain: What left the range of floats at every node (see `Books`); of several walks the most.
        books: The books of the walk; None where there are none to keep.
        completeness: How far the attribution is from adding up to the change of the answer, relative to that change;
            None: not defined.
    """

    relevance: dict[str, Array]
    strain: Array
    books: Books | None = None
    completeness: Array | None = None


@dataclass(frozen=True)
class Job:
    """One example to explain.

    Attributes:
        plan: The walk.
        weights: The graph's params, by name.
        inputs: The example, by name.
        reference: The reference input, by name; inputs left out stand at zero, tokens at rows of zeros.
        masks: Factors on the relevance of values, by name.
        values: Every value of the forward pass.
        start: Start relevance.
        nonnegative: Whether the start is known not to be negative.
        layers: Names of the values whose relevance is asked for, beside that of the inputs.
        ledger: Of what books are kept.
    """

    plan: Plan
    weights: Values
    inputs: Values
    reference: Values
    masks: Values
    values: Values
    start: Array
    nonnegative: bool
    layers: frozenset[str] = frozenset()
    ledger: str | None = NODES

    def walk(self, values: Values, reference: Values | None = None) -> Walked:
        """One walk over these values."""
        starts = {self.plan.output.name: self.start}
        wanted = {*self.layers, *(var.name for var in self.plan.inputs)}
        how = {"nonnegative": self.nonnegative, "masks": self.masks, "reference": reference, "ledger": self.ledger}
        return walk(self.plan, values, starts, **how, wanted=wanted)

    def forward(self, ends: Values) -> dict[str, Array]:
        """Every value when those at which the walk ends are these."""
        return forward(self.plan.graph, self.weights, self.inputs, ends, self.plan.kept)

    def answer(self, values: Values) -> Array:
        """What is explained, as one number: the output weighed by the start relevance."""
        return jnp.sum(self.start * values[self.plan.output.name])

    @cached_property
    def ends(self) -> dict[str, Array]:
        """Values where the walk ends."""
        return {var.name: self.values[var.name] for var in self.plan.inputs}

    @cached_property
    def reference_ends(self) -> dict[str, Array]:
        """The same at the reference input."""
        tokens = self.plan.tokens.inputs if self.plan.tokens else ()
        known = {var.name: self.reference[var.name] for var in tokens if var.name in self.reference}
        rows = forward(self.plan.graph, self.weights, {**self.inputs, **known}) if known else {}
        return {name: self._at_reference(name, value, rows, bool(known)) for name, value in self.ends.items()}

    def _at_reference(self, name: str, value: Array, rows: Values, tokens_known: bool) -> Array:
        if name in self.reference:
            return self.reference[name]
        is_input = any(var.name == name for var in self.plan.graph.inputs)
        return jnp.zeros_like(value) if is_input or not tokens_known else rows[name]

    @cached_property
    def reference_values(self) -> dict[str, Array]:
        """Every value at the reference input."""
        return self.forward(self.reference_ends)

    def completeness(self, attributions: Mapping[str, Array]) -> Array:
        """|Σ attribution - change| / |change| of the answer against the reference; 0 within the answers' rounding."""
        here, there = self.answer(self.values), self.answer(self.reference_values)
        found = sum((jnp.sum(each) for each in attributions.values()), jnp.zeros((), here.dtype))
        gap = jnp.abs(found - (here - there))
        rounding = 8 * jnp.finfo(here.dtype).eps * (jnp.abs(here) + jnp.abs(there))
        return jnp.where(gap <= rounding, 0, gap / jnp.abs(here - there))

    def per_token(self, attributions: Mapping[str, Array]) -> dict[str, Array]:
        """Attributions of ends, with those of looked-up rows added up under the integers that look them up."""
        tokens = self.plan.tokens
        if tokens is None:
            return dict(attributions)
        starts = {var.name: attributions[var.name] for var in tokens.outputs if var.name in attributions}
        return {**attributions, **walk(tokens, self.values, starts, ledger=None).relevance}


def _once(job: Job, procedure: Once) -> Outcome:
    walked = job.walk(job.values)
    if not procedure.times_input:
        books = None if job.ledger is None else walked.books
        return Outcome(walked.relevance, walked.books.strain, books)
    found = {name: R * in_floats(job.values[name], R.dtype) for name, R in walked.relevance.items()}
    return Outcome(job.per_token(found), walked.books.strain)


def _against_reference(job: Job, procedure: AgainstReference) -> Outcome:
    reference = job.reference_values
    walked = job.walk(job.values, reference)
    multipliers = walked.relevance
    found = {name: m * _change(job.values[name], reference[name], m.dtype) for name, m in multipliers.items()}
    completeness = job.completeness({name: found[name] for name in job.ends})
    return Outcome(job.per_token(found), walked.books.strain, completeness=completeness)


def _change(x: Array, before: Array, dtype: Any) -> Array:
    return in_floats(x, dtype) - in_floats(before, dtype)


def _along_path(job: Job, procedure: AlongPath) -> Outcome:
    ends, reference = job.ends, job.reference_ends

    change = {name: x - reference[name] for name, x in ends.items()}

    def at(place: Array) -> tuple[Array, dict[str, Array], Array]:
        values = job.forward({k: reference[k] + place.astype(x.dtype) * change[k] for k, x in ends.items()})
        gradients, books = job.walk(values)
        return job.answer(values), {name: gradients[name] * change[name] for name in ends}, books.strain

    found, strains = integrate(at, procedure.steps, job.start.dtype)
    return Outcome(job.per_token(found), jnp.max(strains, axis=0), completeness=job.completeness(found))


def _with_noise(job: Job, procedure: WithNoise) -> Outcome:
    key = random_key(procedure.seed)
    ends = job.ends

    def add(total: dict[str, Array], sample: Array) -> tuple[dict[str, Array], Array]:
        keys = jax.random.split(jax.random.fold_in(key, sample), len(ends))
        noisy = {k: _disturbed(x, each, procedure.noise) for (k, x), each in zip(ends.items(), keys, strict=True)}
        gradients, books = job.walk(job.forward(noisy))
        return {k: total[k] + gradients[k] for k in total}, books.strain

    blank = jax.tree.map(jnp.zeros_like, ends)
    total, strains = jax.lax.scan(add, blank, jnp.arange(procedure.samples))
    found = {name: each / procedure.samples for name, each in total.items()}
    return Outcome(job.per_token(found), jnp.max(strains, axis=0))


def _disturbed(x: Array, key: Array, noise: float) -> Array:
    """Gaussian noise whose standard deviation is a fraction of the value's range (Smilkov et al. 2017, section 3)."""
    return x + noise * (jnp.max(x) - jnp.min(x)) * jax.random.normal(key, x.shape, x.dtype)


_PROCEDURES: dict[type, Callable[[Job, Any], Outcome]] = {
    Once: _once,
    AgainstReference: _against_reference,
    AlongPath: _along_path,
    WithNoise: _with_noise,
}


def attribute(job: Job, procedure: Procedure) -> Outcome:
    """Explain one example by a procedure."""
    return _PROCEDURES[type(procedure)](job, procedure)
