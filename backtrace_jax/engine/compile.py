"""Compiles an explanation: forward pass, start relevance and relevance walk of one example, batched by `vmap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from backtrace_jax.ops import OPS
from backtrace_jax.question.tasks import Task
from backtrace_jax.question.words import NODES, Question
from backtrace_jax.rules import Mode
from backtrace_jax.runtime.numerics import Device, compiled, exact_types
from backtrace_jax.runtime.recipes import made_once

from .books import Books, total
from .forward import forward
from .pieces import Flat, Routine, compile_traced, first_ones, lengths, runs
from .prepare import Split, split, types_of
from .procedures import Job, attribute
from .steps import Plan
from .walk import site_of


class Result(NamedTuple):
    """What one compiled call gives for a chunk of examples; every array has the chunk as its first axis.

    Arrays are JAX's where they are computed and NumPy's once they are on the host. In pairs, relevance has two
    channels after the chunk.

    Attributes:
        outputs: Every output of the model, and the value explained, by name.
        target: What was explained of it.
        start: Total start relevance, signed and absolute.
        relevance: Relevance of the inputs that bear it, by name.
        layers: Relevance of the values asked for.
        books: What every node of the plan received, handed on and kept, or what all kept together; None: no books.
        strain: What left the range of floats at every node, as in the books; once settled, whether it is too much.
        completeness: How far the attribution is from adding up, in modes where that is defined.
        bounds: Smallest and largest operand, and how far one lies beyond its bound, by the name of the node whose rule
            takes bounds for granted.
    """

    outputs: dict[str, Any]
    target: Any
    start: Any
    relevance: dict[str, Any]
    layers: dict[str, Any]
    books: Books | None
    strain: Any
    completeness: Any
    bounds: dict[str, Any]


class Constant(NamedTuple):
    """What all examples share, beside the weights.

    Attributes:
        reference: The reference input, by name.
        masks: Factors on the relevance of values, by name.
    """

    reference: Mapping[str, Any]
    masks: Mapping[str, Any]


Weights = Mapping[str, Any]
Prepared = tuple[Weights, list[Any]]


@dataclass(frozen=True)
class Request:
    """What is compiled: a plan, how relevance starts, and the names of the values whose relevance is kept.

    Attributes:
        plan: The walk.
        mode: Its rules.
        task: How relevance starts.
        layers: Name of the value for each name the user asked for.
        precision: Of contractions.
        contrasted: Whether the target is contrasted with another class.
        ledger: Of what books are kept: of nodes, of the whole graph, or none, as in modes that share nothing out.
    """

    plan: Plan
    mode: Mode
    task: Task
    layers: Mapping[str, str]
    precision: str
    contrasted: bool = False
    ledger: str | None = NODES

    @property
    def reached(self) -> frozenset[str]:
        """Names of the inputs that receive relevance."""
        tokens = self.plan.tokens.inputs if self.plan.tokens else ()
        return frozenset(var.name for var in (*self.plan.inputs, *tokens))


def explain_example(
    request: Request, weights: Weights, constant: Constant, inputs: Mapping[str, Any], asked: Question
) -> Result:
    """Explain one example; pure, for `vmap` and `jit`."""
    values = forward(request.plan.graph, weights, inputs, kept=request.plan.kept)
    return answer(request, weights, constant, inputs, values, asked)._replace(**unasked(request, values))


def answer(
    request: Request,
    weights: Weights,
    constant: Constant,
    inputs: Mapping[str, Any],
    values: Mapping[str, Array],
    asked: Question,
) -> Result:
    """What a question about one example is answered, from the values of its forward pass; `unasked` is left out."""
    plan, mode, task = request.plan, request.mode, request.task
    start, target = task.begin(values[plan.output.name], asked)
    masks = {n: jnp.moveaxis(mask, 1, -1) if n in plan.graph.turned else mask for n, mask in constant.masks.items()}
    layers = frozenset(request.layers.values())
    job = Job(plan, weights, inputs, constant.reference, masks, values, start, task.nonnegative, layers, request.ledger)
    outcome = attribute(job, mode.procedure)
    return Result(
        {},
        target,
        jnp.stack(total(start, task.nonnegative, paired=plan.paired), axis=-1),
        {var.name: outcome.relevance[var.name] for var in plan.graph.inputs if var.name in request.reached},
        {key: _relevance(outcome.relevance, values, name, plan) for key, name in request.layers.items()},
        outcome.books and outcome.books._replace(strain=None),
        outcome.strain,
        outcome.completeness,
        {},
    )


def unasked(request: Request, values: Mapping[str, Array]) -> dict[str, Any]:
    """The fields of a result that are the same whatever is asked."""
    plan, graph = request.plan, request.plan.graph
    named = dict(zip(graph.output_names, graph.outputs, strict=True))
    if plan.output not in graph.outputs:
        named[plan.output.name] = plan.output
    bounds = {step.eqn.outvars[0].name: rule.bounds(site_of(step, values)) for step, rule in plan.bounded}
    return {"outputs": {name: values[var.name] for name, var in named.items()}, "bounds": bounds}


def _relevance(found: Mapping[str, Array], values: Mapping[str, Array], name: str, plan: Plan) -> Array:
    """Relevance of a value, with the axes the model gave it; a value the walk does not pass has none."""
    value = values[name]
    R = found[name] if name in found else jnp.zeros((2, *value.shape) if plan.paired else value.shape, value.dtype)
    return jnp.moveaxis(R, -1, 2 if plan.paired else 1) if name in plan.graph.turned else R


@dataclass(frozen=True)
class Explain:
    """A compiled explanation.

    Attributes:
        prepare: From the weights to those with what is derived from them, once per model.
        call: From that, what examples share, the inputs and the questions of a chunk (or of several, and their number)
            to the result.
        derived_bytes: Memory of what is derived.
        call_bytes: Memory that a call takes beside the weights; unbounded where it is compiled in pieces.
    """

    prepare: Callable[[Weights], Prepared]
    call: Any
    derived_bytes: int

    @property
    def call_bytes(self) -> int | None:
        """Memory that a call takes beside its arguments; None where it is not known, as of what is in pieces."""
        known = self.call.memory_analysis() if isinstance(self.call, jax.stages.Compiled) else None
        return known and known.temp_size_in_bytes + known.output_size_in_bytes


def compile_explain(
    request: Request,
    weights: Weights,
    constant: Constant,
    examples: Any,
    device: Device,
    *,
    prepare: bool = True,
    chunks: int = 1,
    make: Callable[..., Made] | None = None,
) -> Explain:
    """Compile for chunks shaped like `examples` = (inputs, question), on one device; weights stay arguments.

    With `prepare`, what follows from the weights alone is computed by a function of its own. Where a call takes several
    `chunks`, arrays [chunks, chunk, ...], it is told how many of them to explain, one after the other in the same
    memory, and leaves the others alone. What is compiled may be made otherwise than by tracing (`make`).
    """
    given = request, weights, constant, examples, device
    with exact_types(request.precision):
        if make is None:
            told = "explain", request, types_of((weights, constant, examples)), prepare, chunks, lengths(), OPS
            made = made_once(told, device, partial(make_explain, *given, prepare=prepare, chunks=chunks))
        else:
            made = make(*given, chunks=chunks)
    run = runs(made.run, made.answers.once if chunks == 1 else made.answers.several)
    derived_bytes = sum(each.size * each.dtype.itemsize for each in made.derived)
    return Explain(preparing(made.derive, request.precision), run, derived_bytes)


def make_explain(
    request: Request,
    weights: Weights,
    constant: Constant,
    examples: Any,
    device: Device,
    *,
    prepare: bool,
    chunks: int,
    by: Callable[..., Any] = compiled,
) -> Made:
    """Trace an explanation and compile it, or do something else `by` which each function is compiled."""

    def explained(weights: Weights, constant: Constant, inputs: Any, asked: Question) -> Result:
        return jax.vmap(lambda *one: explain_example(request, weights, constant, *one))(inputs, asked)

    where = {"device": device, "precision": request.precision, "by": by}
    parts = split(explained, weights, constant, *examples, hoist=prepare)
    answers = Answers(parts.tree, types_of(parts.calling.out_avals))
    derived = types_of(parts.deriving.out_avals)
    derive = compile_traced(parts.deriving, derive_from, weights, **where)
    call, given = (
        answers.once if chunks == 1 else answers.several,
        given_types(weights, derived, constant, examples, chunks),
    )
    return Made(derive, compile_traced(parts.calling, call, *given, **where), derived, answers)


def given_types(
    weights: Weights, derived: list[Any], constant: Constant, examples: Any, chunks: int
) -> tuple[Any, ...]:
    """What a call is given, as types."""
    if chunks == 1:
        return (weights, derived), constant, *examples
    several = jax.tree.map(lambda each: jax.ShapeDtypeStruct((chunks, *each.shape), each.dtype), examples)
    return (weights, derived), constant, *several, jax.ShapeDtypeStruct((), np.int32)


@dataclass(frozen=True)
class Answers:
    """What is done with the traced function of a chunk.

    Attributes:
        tree: Structure of its result.
        types: Of all that it gives.
    """

    tree: Any
    types: list[Any]

    def once(self, run: Flat, prepared: Prepared, constant: Constant, inputs: Any, asked: Question) -> Result:
        """The result for a chunk."""
        return jax.tree.unflatten(self.tree, run(Split.arguments(*prepared, constant, inputs, asked)))

    def several(
        self, run: Flat, prepared: Prepared, constant: Constant, inputs: Any, asked: Question, count: Any
    ) -> Result:
        """Results for as many of several chunks as are used."""
        types = jax.tree.unflatten(self.tree, self.types)
        return first_ones(lambda some: self.once(run, prepared, constant, *some), (inputs, asked), count, types)


class Made(NamedTuple):
    """What is compiled: what derives, what answers, what is derived, and what is done with them."""

    derive: Routine
    run: Routine
    derived: list[Any]
    answers: Answers


def derive_from(run: Flat, weights: Weights) -> list[Any]:
    """What is derived from the weights."""
    return run(jax.tree.leaves(weights))


def preparing(derive: Routine, precision: str) -> Callable[[Weights], Prepared]:
    """The function from the weights to those with what is derived from them."""
    run = runs(derive, derive_from)

    def prepared(weights: Weights) -> Prepared:
        with exact_types(precision):
            return weights, run(weights)

    return prepared
