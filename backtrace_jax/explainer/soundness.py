"""What a compiled function returned may hold NaN or Inf: examples without an answer, and what must not be handed out.

An example whose answer is no number (every token masked, 0/0 in a mean over nothing) has nothing to explain, and takes
none of the others with it: its relevance is 0, and what it was started with is dead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from backtrace_jax.engine.books import Books
from backtrace_jax.engine.compile import Result
from backtrace_jax.engine.compiled import Compiled
from backtrace_jax.errors import NumericsError, UnfitExampleError
from backtrace_jax.ir import Eqn, Graph
from backtrace_jax.ops import OPS, evaluate
from backtrace_jax.question.words import BINARY_SEGMENTATION, CLASS_SEGMENTATION, NODES

from .range import check_range, listed_few, wider


class Unanswered(NamedTuple):
    """The runs of the graph whose output is not finite, and what is said of them."""

    runs: np.ndarray
    caution: str = ""


def find_unanswered(compiled: Compiled, feeds: Mapping[str, np.ndarray], result: Result) -> Unanswered:
    """The runs whose output is NaN or Inf.

    Raises:
        NumericsError: When there are no others, or a run holds several examples, of which one may be to blame.
    """
    runs = _broken(result.outputs[compiled.output_name])
    if not len(runs):
        return Unanswered(runs)
    graph = compiled.program.graph
    types = {var.name: var.dtype for var in graph.inputs}
    example = {name: compiled.grouped(feeds[name])[runs[0]].astype(dtype) for name, dtype in types.items()}
    found = f"output {compiled.output_name!r} is NaN or Inf on "
    origin = _first_break(graph, compiled.program.weights, example)
    if compiled.rows > 1 or len(runs) == len(result.start):
        raise NumericsError(
            f"{found}these inputs{origin}; check their scale, and that every index lies inside its table"
            + ("" if compiled.output.dtype == np.float64 else "; or explain with dtype='float64'")
        )
    return Unanswered(runs, f"{found}examples {listed_few(runs)}{origin}; nothing explains them: their relevance is 0")


def without(result: Result, runs: np.ndarray) -> Result:
    """The result with all start relevance of some runs dead at the output."""
    if not len(runs):
        return result
    relevance, layers = (
        {name: _emptied(array, runs) for name, array in arrays.items()} for arrays in (result.relevance, result.layers)
    )
    start = np.where(np.isfinite(result.start), result.start, 0)
    completeness = None if result.completeness is None else _emptied(result.completeness, runs, np.nan)
    books = result.books and _without(result.books, runs, start)
    found = {"start": start, "relevance": relevance, "layers": layers, "books": books, "completeness": completeness}
    return result._replace(**found, strain=_emptied(result.strain, runs))


def _without(books: Books, runs: np.ndarray, start: np.ndarray) -> Books:
    signed, absolute = (_dead(book, runs, start[..., k]) for k, book in enumerate(books[:2]))
    return Books(signed, absolute, None)


def _emptied(array: np.ndarray, runs: np.ndarray, blank: float = 0.0) -> np.ndarray:
    array = array.copy()
    array[runs] = blank
    return array


def _dead(book: np.ndarray, runs: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Books [runs, nodes, columns, ...] in which the first node, the output's, keeps what it receives in some runs."""
    book = _emptied(book, runs)
    book[runs, :1, 0] = book[runs, :1, -1] = start[runs][:, None]
    return book


def check_result(
    compiled: Compiled,
    feeds: Mapping[str, np.ndarray],
    result: Result,
    unanswered: np.ndarray,
    *,
    named: bool = False,
) -> bool:
    """Refuse what could not be explained soundly.

    Args:
        compiled: What was run.
        feeds: The inputs.
        result: What it gave.
        unanswered: The runs without an answer.
        named: Whether the user named the target of every example.

    Returns:
        Whether relevance may be missing, as `check_range` says.

    Raises:
        NumericsError: Naming the input or node, and the examples, where relevance or its books are NaN or Inf.
        UnfitExampleError: When there is nothing to explain in some examples, or inputs lie beyond a rule's bounds.
    """
    _check_started(compiled, result, unanswered, named)
    _check_bounds(compiled, result, unanswered)
    conserving = compiled.request.mode.conserving
    if not conserving:  # what is not finite at an input then broke at a node
        check_range(compiled, feeds, result)
    for key, array in result.relevance.items():
        bad = _broken(array)
        if len(bad):
            raise NumericsError(
                f"relevance of input {key!r} is not finite in examples {listed_few(bad)}; {wider(compiled)}"
            )
    if conserving:
        _check_books(compiled, result)
    return conserving and check_range(compiled, feeds, result)


def _check_books(compiled: Compiled, result: Result) -> None:
    if result.books is None:
        return
    bad = _broken(result.books.absolute)
    if len(bad):
        node = compiled.request.plan.nodes[_broken(result.books.absolute[bad[0]])[0]]
        whose = f" of node {node!r}" if compiled.request.ledger == NODES else ""
        raise NumericsError(f"the books{whose} are not finite in examples {listed_few(bad)}; {wider(compiled)}")


def _check_bounds(compiled: Compiled, result: Result, unanswered: np.ndarray) -> None:
    """Refuse inputs outside the bounds that a rule shares by: it would hand on shares of the wrong sign."""
    for step, rule in compiled.request.plan.bounded:
        found = result.bounds[step.eqn.outvars[0].name]
        beyond = np.setdiff1d(np.flatnonzero(found[:, 2] > 0), unanswered)
        if len(beyond):
            low, high = found[beyond, 0].min(), found[beyond, 1].max()
            given = ", ".join(f"{key}={value}" for key, value in rule.settings if key in ("low", "high"))
            inputs = ", ".join(repr(var.name) for var in compiled.request.plan.inputs)
            raise UnfitExampleError(
                f"input {inputs} lies beyond the bounds {given:.120} of mode {compiled.request.mode.name!r}: the first "
                f"layer reads from {low:.6g} to {high:.6g} in examples {listed_few(beyond)}; pass bounds that it keeps"
            )


def _check_started(compiled: Compiled, result: Result, unanswered: np.ndarray, named: bool) -> None:
    """Refuse masks without a unit, and rivals that turned out to be the predicted class."""
    blank = result.start[..., 1] == 0  # of magnitudes, which are 0 where all is
    blank = blank if blank.ndim == 1 else blank.all(axis=1)
    blank[unanswered] = False
    empty, name = np.flatnonzero(blank).tolist(), compiled.request.task.name
    if empty and compiled.request.contrasted and not named:
        raise UnfitExampleError(f"against= is the very class predicted in examples {empty}; pass target= as well")
    if empty and name in (BINARY_SEGMENTATION, CLASS_SEGMENTATION):
        raise UnfitExampleError(
            f"the mask of examples {empty} is empty: no unit of output {compiled.output_name!r} is above thresholding "
            "or of the target class; lower thresholding, choose another target, or leave those examples out"
        )


def _broken(array: np.ndarray) -> np.ndarray:
    """Rows that hold NaN or Inf."""
    finite = np.isfinite(array)
    if finite.all():  # as nearly always, and much faster to tell than of each row
        return np.arange(0)
    return np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))


def _first_break(graph: Graph, weights: Mapping[str, Any], example: Mapping[str, np.ndarray]) -> str:
    """The node and operator of the first equation that turns finite operands into NaN or Inf; empty if there is none.

    Args:
        graph: The graph.
        weights: Its weights.
        example: One example's inputs, in the shapes of the graph.
    """
    values: dict[str, Any] = {**weights, **example}
    for eqn in graph.eqns:
        results = evaluate(eqn.op, [values[var.name] for var in eqn.invars], eqn.params)
        values.update(zip((var.name for var in eqn.outvars), results if OPS[eqn.op].many else (results,), strict=True))
        if _breaks(eqn, values):
            return f", first in node {eqn.source.node!r} ({eqn.source.operator})"
    return ""


def _breaks(eqn: Eqn, values: Mapping[str, Any]) -> bool:
    """Whether an equation made NaN, or Inf out of finite operands."""
    results, operands = (
        [np.asarray(values[var.name]) for var in variables if var.is_float] for variables in (eqn.outvars, eqn.invars)
    )
    if all(np.isfinite(array).all() for array in results):
        return False
    made_nan = any(np.isnan(array).any() for array in results) and not any(np.isnan(array).any() for array in operands)
    return made_nan or all(np.isfinite(array).all() for array in operands)
