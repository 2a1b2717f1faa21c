"""Graphs of a few nodes, planned, run and walked by the engine, compiled as cheaply as XLA can."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from backtrace_jax.engine.books import KEPT, Books
from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Plan
from backtrace_jax.engine.walk import walk
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder
from backtrace_jax.passes.check import check
from backtrace_jax.rules import BIAS, CONSTANT, DEAD, Mode, find_mode
from backtrace_jax.runtime.numerics import exact_types

DOUBLE, SINGLE, INDEX = map(np.dtype, (np.float64, np.float32, np.int64))
CHEAP: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
if jax.__version_info__ < (0, 11):  # later ones have these emitters only
    CHEAP["xla_cpu_use_fusion_emitters"] = False
COMPILED: dict[Any, Any] = {}


class Walked(NamedTuple):
    """Values and relevance by name, and the books step by step of the plan."""

    plan: Plan
    values: dict[str, np.ndarray]
    relevance: dict[str, np.ndarray]
    books: Books

    @property
    def result(self) -> np.ndarray:
        """Value of the output."""
        return self.values[self.plan.output.name]

    def kept(self, cause: str) -> np.ndarray:
        """What all steps kept back for one cause: [signed, absolute], in pairs [signed, absolute] x [for, against]."""
        column = 2 + KEPT.index(cause)
        return np.array([totals[:, column].sum(0) for totals in self.books[:2]])


def walk_back(
    program: Program,
    inputs: Mapping[str, np.ndarray],
    start: np.ndarray,
    *,
    output: int = 0,
    wrt: Collection[str] | None = None,
    mode: str | Mode = "default",
    reference: Mapping[str, np.ndarray] | None = None,
) -> Walked:
    """Walk relevance from an output to the inputs; graphs that print alike are compiled once.

    `reference` is the input that modes such as DeepLIFT compare with.
    """
    graph = check(program.graph)
    key = (str(graph), output, str(wrt), mode)
    compared = None if reference is None else dict(reference)
    with exact_types():
        if key not in COMPILED:
            plan = plan_walk(graph, find_mode(mode), graph.outputs[output], wrt)
            COMPILED[key] = plan, _compile(plan, dict(program.weights), dict(inputs), start, compared)
        plan, function = COMPILED[key]
        return Walked(plan, *jax.tree.map(np.asarray, function(dict(program.weights), dict(inputs), start, compared)))


def _compile(plan: Plan, *arguments: Any) -> Any:
    def run(weights: Any, inputs: Any, start: Any, reference: Any) -> Any:
        values = forward(plan.graph, weights, inputs)
        before = None if reference is None else forward(plan.graph, weights, reference)
        return values, *walk(plan, values, {plan.output.name: start}, reference=before)

    return jax.jit(run).lower(*arguments).compile(compiler_options=CHEAP)


def assert_books_close(books: Books, tolerance: float = 1e-12) -> None:
    """What every step received is what it handed on and kept back, relative to the magnitudes it dealt with."""
    scale = np.maximum(books.absolute.max(1, initial=0), np.finfo(np.float32).tiny)
    error = np.abs(books.signed[:, 0] - books.signed[:, 1:].sum(1)) / scale
    assert (error <= tolerance).all(), f"books are off by {error}"


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-12) -> None:
    """Equal to the given precision, entry by entry and relative to the largest entry where there is cancellation."""
    size = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * size, strict=True)


def walk_op(
    op: str,
    operands: Sequence[Any],
    R: np.ndarray,
    constant: Collection[int] = (),
    mode: str | Mode = "default",
    **params: Any,
) -> Walked:
    """One operation on inputs x0, x1, ... by position; those at the positions in `constant` are constants instead."""
    builder, arrays = Builder(), [np.asarray(x) for x in operands]
    named = {i: f"x{i}" for i in range(len(arrays)) if i not in constant}
    values = [builder.input(named[i], x.shape, x.dtype) if i in named else x for i, x in enumerate(arrays)]
    program = builder.finish({"y": builder.emit(op, *values, **params)})
    return walk_back(program, {name: arrays[i] for i, name in named.items()}, R, mode=mode)


def agree(
    walked: Walked, shares: Mapping[int, np.ndarray], constant: Collection[int] = (), dead: np.ndarray | float = 0.0
) -> None:
    """Inputs got their shares, by position, those of constants are in the ledger, and nothing else was kept."""
    for i in shares.keys() - set(constant):
        close(walked.relevance[f"x{i}"], shares[i])
    kept = np.concatenate([np.ravel(shares[i]) for i in constant] or [np.zeros(1)])
    for cause, amounts in {CONSTANT: kept, DEAD: np.ravel(dead), BIAS: np.zeros(1)}.items():
        np.testing.assert_allclose(walked.kept(cause), [amounts.sum(), np.abs(amounts).sum()], rtol=1e-12, atol=1e-12)
    assert_books_close(walked.books)
