"""Whatever runs can be explained: every conformance case through which relevance can flow, in modes of every family.

The relevance is finite, and what every equation received is what it handed on and kept.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.steps import Plan
from backtrace_jax.engine.walk import walk
from backtrace_jax.errors import SettingError, UnsupportedError
from backtrace_jax.ir import Graph, Program, Var
from backtrace_jax.onnx_backend import prepare
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import exact_types
from tests.importers.cases import Case, cases
from tests.importers.test_conformance import CASES, NOT_PASSING
from tests.rules.running import CHEAP, DOUBLE, assert_books_close

MODES = ("default", "contrastive", "lrp-epsilon", "gradient-x-input")
WALKED: dict[str, str] = {}  # printed graph -> the case it came from; many cases lower to the same graph

SINGULAR: dict[str, str] = {}
"""Cases whose true gradient is infinite at their own inputs."""


WITHOUT_RULE = re.compile(
    "has no rule for '(dequantize|determinant|pow|prelu|quantize|remainder|sample)'|'dequantize' computes with integers"
)
"""Functions of several operands that all follow from inputs: modes that conserve relevance refuse them by name, and
modes that need smooth inputs those of integers."""


def plans_of(graph: Graph) -> dict[str, Plan]:
    """A plan per mode, from the first output that relevance can reach the inputs from; none where none carries it."""
    for output in graph.outputs:
        if output.is_float:
            try:
                plans = {name: _plan(graph, name, output) for name in MODES}
            except SettingError:
                continue
            return {name: plan for name, plan in plans.items() if plan is not None}
    return {}


def _plan(graph: Graph, mode: str, output: Var) -> Plan | None:
    try:
        return plan_walk(graph, find_mode(mode), output)
    except UnsupportedError as error:
        if not WITHOUT_RULE.search(str(error)):
            raise
        return None


def walk_all(program: Program, plans: dict[str, Plan], inputs: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """Values, and (relevance, books) per mode, of a positive start, from one compiled function."""
    output = next(iter(plans.values())).output

    def run(weights: Any, inputs: Any, start: Any) -> Any:
        values = forward(program.graph, weights, inputs)
        against = start.reshape(-1)[::-1].reshape(start.shape)
        starts = {name: jax.numpy.stack([start, against]) if plan.paired else start for name, plan in plans.items()}
        return values[output.name], {
            name: walk(plan, values, {output.name: starts[name]}) for name, plan in plans.items()
        }

    start = np.random.default_rng(0).uniform(0.5, 1.5, (1, *output.shape)[-max(1, len(output.shape)) :])
    arguments = dict(program.weights), inputs, start.reshape(output.shape).astype(output.dtype)
    compiled = jax.jit(run).lower(*arguments).compile(compiler_options=CHEAP)
    return jax.tree.map(np.asarray, compiled(*arguments))


def coarseness(dtype: np.dtype) -> float:
    """Relative rounding of a float type; what is computed in half precision adds up to half precision."""
    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except ValueError:
        return 0.0


def check_totality(case: Case) -> None:
    inputs, _ = case.data_sets[0]
    program, arrays = prepare(case.model).lower(inputs)
    program = simplify(with_float_type(program, DOUBLE))
    plans = plans_of(program.graph)
    if not plans:
        pytest.skip("no relevance flows: integers, comparisons, or nothing that depends on a float input")
    if WALKED.setdefault(str(program.graph), case.name) != case.name:
        pytest.skip(f"the same graph as {WALKED[str(program.graph)]}")
    types = {var.name: var.dtype for var in program.graph.inputs}
    tolerance = max(1e-9, 100 * max(coarseness(var.dtype) for var in program.graph.variables()))
    arrays = {name: array.astype(types[name]) for name, array in arrays.items()}
    with exact_types():
        value, walks = walk_all(program, plans, arrays)
    if not np.isfinite(value.astype(DOUBLE)).all():
        pytest.skip("the model itself gives NaN or Inf on these inputs")
    for name, (relevance, books) in walks.items():
        for var in plans[name].inputs:
            assert np.isfinite(relevance[var.name].astype(DOUBLE)).all() or case.name in SINGULAR, (name, var)
        if find_mode(name).conserving:
            assert_books_close(books, tolerance)


def few_of_each_operator(count: int) -> list[tuple[str, str]]:
    """The first cases of every operator; `python -m benchmarks.totality` runs all of them."""
    found: Counter[str] = Counter()
    chosen = []
    for kind, name in CASES:
        operator = cases(kind)[name].model.graph.node[0].op_type if kind == "node" else "a model"
        found[operator] += name not in NOT_PASSING and not name.endswith("_expanded")
        if name not in NOT_PASSING and not name.endswith("_expanded") and found[operator] <= count:
            chosen.append((kind, name))
    return chosen
