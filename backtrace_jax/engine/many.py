"""Many questions about the same examples: one forward pass and one gathering of evidence, then a walk for all of them.

The walk is batched over some questions at a time, a number that follows from the sizes of the model's values and never
from how many questions there are; the last ones are filled up. So the answer to a question does not depend on what else
is asked. What does not depend on the question stays on the device between the walks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from backtrace_jax.ir import Graph
from backtrace_jax.ops import OPS
from backtrace_jax.question.words import Question
from backtrace_jax.runtime.interrupting import interruptible
from backtrace_jax.runtime.numerics import Device, exact_types, within_memory
from backtrace_jax.runtime.recipes import made_once

from .chunks import padded
from .compile import Constant, Prepared, Request, Result, Weights, answer, derive_from, preparing, unasked
from .forward import forward
from .halves import halve
from .pieces import Flat, Routine, compile_traced, lengths, runs
from .prepare import Split, size_of, split, types_of

FEWEST, MOST = 2, 8
"""Questions per walk; fewer than the fewest only for want of memory."""

RECYCLED, LARGEST = 6 * 2**20, 2**28
"""Bytes of the largest value of a walk, for all its questions at once: up to which there are more than the fewest, and
beyond which there are fewer.

A walk holds about four such values. What is larger than 32 MiB glibc returns to the system after every call, and to get
it back takes a fifth of a walk: ResNet-18, mode "default", two questions 31 ms each, four 36 (29 where memory is kept).
BERT-base gains nothing from four.
"""


class Asking(NamedTuple):
    """What is asked about a chunk of examples.

    Attributes:
        questions: Examples first, then questions.
        masks: Factors on the relevance of values, by name, questions first; the same for all examples.
    """

    questions: Question
    masks: Mapping[str, Any]


def questions_at_once(graph: Graph, chunk: int, platform: str, *, paired: bool) -> int:
    """Questions per walk, a power of two that follows from the sizes of the graph's values."""
    each = chunk * (2 if paired else 1)
    largest = max([1, *(each * math.prod(v.shape) * v.dtype.itemsize for eqn in graph.eqns for v in eqn.outvars)])
    wanted = min(MOST, max(FEWEST, RECYCLED // largest)) if platform == "cpu" else MOST
    return 2 ** (max(1, min(wanted, LARGEST // largest)).bit_length() - 1)


@dataclass(frozen=True)
class ExplainMany:
    """A compiled explanation of many questions.

    Attributes:
        prepare: From the weights to those with what is derived from them, once per model.
        begin: From that, what examples share and the inputs of a chunk to `unasked`, and what stays on the device.
        walk: From that, what examples share, the inputs, what stays on the device, and some questions to the rest.
        derived_bytes: Memory of what is derived from the weights.
        held_bytes: Memory of what stays on the device.
    """

    prepare: Callable[[Weights], Prepared]
    begin: Any
    walk: Any
    derived_bytes: int
    held_bytes: int


def explain_questions(
    request: Request, weights: Weights, constant: Constant, inputs: Any, asking: Asking
) -> tuple[dict[str, Any], Result]:
    """Explain a chunk of examples, some questions about each: what is unasked, and the results, questions second."""

    def example(inputs: Mapping[str, Any], questions: Question) -> tuple[dict[str, Any], Result]:
        values = forward(request.plan.graph, weights, inputs, kept=request.plan.kept)

        def one(asked: Question, masks: Mapping[str, Any]) -> Result:
            return answer(request, weights, constant._replace(masks=masks), inputs, values, asked)

        return unasked(request, values), jax.vmap(one)(questions, asking.masks)

    return jax.vmap(example)(inputs, asking.questions)


def compile_many(
    request: Request,
    weights: Weights,
    constant: Constant,
    inputs: Any,
    asking: Asking,
    device: Device,
    *,
    prepare: bool = True,
) -> ExplainMany:
    """Compile for chunks shaped like these inputs, and for as many questions about each; weights stay arguments."""

    def explained(weights: Weights, *rest: Any) -> tuple[dict[str, Any], Result]:
        return explain_questions(request, weights, *rest)

    where = {"device": device, "precision": request.precision}

    def make() -> _Made:
        parts = split(explained, weights, constant, inputs, asking, hoist=prepare)
        seen, result = jax.tree.unflatten(parts.tree, range(parts.tree.num_leaves))
        asked = _places((weights, constant, inputs), asking)
        halves = halve(parts.calling, asked, len(jax.tree.leaves(seen)), anew=bool(request.plan.segments))
        derived, held = types_of(parts.deriving.out_avals), types_of(halves.held)
        answers, given = _Answers(*map(jax.tree.structure, (seen, result))), ((weights, derived), constant, inputs)
        return _Made(
            compile_traced(parts.deriving, derive_from, weights, **where),
            compile_traced(halves.early, answers.begin, *given, **where),
            compile_traced(halves.late, answers.walk, *given, held, asking, **where),
            answers,
            (size_of(parts.deriving.jaxpr.outvars), size_of(halves.early.jaxpr.outvars[halves.first :])),
        )

    with exact_types(request.precision):
        told = request, types_of((weights, constant, inputs, asking)), prepare, lengths(), OPS
        made = made_once(("many", *told), device, make)
    return ExplainMany(
        preparing(made.derive, request.precision),
        runs(made.begin, made.answers.begin),
        runs(made.walk, made.answers.walk),
        *made.sizes,
    )


@dataclass(frozen=True)
class _Answers:
    """What is done with the two halves of a traced function: structures of what is unasked, and of the rest."""

    seen: Any
    result: Any

    def begin(self, run: Flat, prepared: Prepared, constant: Constant, inputs: Any) -> tuple[dict[str, Any], list[Any]]:
        """What is unasked, and what stays on the device."""
        found = run(Split.arguments(*prepared, constant, inputs))
        return jax.tree.unflatten(self.seen, found[: self.seen.num_leaves]), found[self.seen.num_leaves :]

    def walk(
        self, run: Flat, prepared: Prepared, constant: Constant, inputs: Any, held: list[Any], asking: Asking
    ) -> Result:
        """The rest of the result."""
        found = run([*Split.arguments(*prepared, constant, inputs, asking), *held])
        return jax.tree.unflatten(self.result, found)


class _Made(NamedTuple):
    """What is compiled: what derives, the two halves, what is done with them, and bytes of what is derived and held."""

    derive: Routine
    begin: Routine
    walk: Routine
    answers: _Answers
    sizes: tuple[int, int]


def _places(before: Any, asking: Asking) -> range:
    """Positions of what is asked among flat arguments."""
    first = len(jax.tree.leaves(before))
    return range(first, first + len(jax.tree.leaves(asking)))


def run_questions(
    begin: Callable[[Any], tuple[dict[str, Any], Any]],
    walk: Callable[[Any, Any, Asking], Result],
    inputs: Any,
    asking: Asking,
    sizes: tuple[int, int],
    progress: Callable[[int, int], object] | None,
) -> list[Result]:
    """Answer questions about examples, a chunk of examples after the other and of each some questions at a time.

    Args:
        begin: From the inputs of a chunk to `unasked`, and what the walks read.
        walk: From the inputs of a chunk, what the walks read, and some questions to the rest of the result.
        inputs: By name, examples first.
        asking: All questions.
        sizes: Examples of a chunk, and questions at a time.
        progress: Called with (answers done, answers in all).

    Returns:
        A result for every question; all of them hold the same arrays of what is unasked.
    """
    (count, asked), (chunk, at_once) = asking.questions.target.shape[:2], sizes
    seen: list[Any] = []
    found: list[list[Result]] = [[] for _ in range(asked)]
    for (part, questions), size in padded((inputs, asking.questions), count, chunk):
        first, held = _waited(chunk, lambda part=part: begin(part))
        seen.append(jax.tree.map(lambda array, size=size: np.asarray(array)[:size], first))
        for some, places in _some(questions, asking.masks, asked, at_once):
            result = _on_host(chunk, lambda part=part, held=held, some=some: walk(part, held, some))
            for i, place in enumerate(places):
                found[place].append(jax.tree.map(lambda array, i=i, size=size: array[:size, i], result))
            if progress:
                progress((len(seen) - 1) * chunk * asked + size * (places[-1] + 1), count * asked)
    with within_memory(chunk):
        joined = jax.tree.map(lambda *pieces: np.concatenate(pieces), *seen)
        return [jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)._replace(**joined) for parts in found]


def _some(questions: Question, masks: Any, count: int, at_once: int) -> Iterator[tuple[Asking, range]]:
    """Some questions at a time, and which they are; the last one stands for those that are missing."""
    for first in range(0, count, at_once):
        chosen = np.minimum(np.arange(first, first + at_once), count - 1)
        asked = jax.tree.map(lambda array, chosen=chosen: array[:, chosen], questions)
        some = Asking(asked, {name: mask[chosen] for name, mask in masks.items()})
        yield some, range(first, min(first + at_once, count))


def _waited(chunk: int, call: Callable[[], Any]) -> Any:
    with within_memory(chunk):  # some of what fails is only told when the result is waited for
        return interruptible(lambda: jax.block_until_ready(call()))


def _on_host(chunk: int, call: Callable[[], Any]) -> Any:
    return jax.tree.map(np.asarray, _waited(chunk, call))
