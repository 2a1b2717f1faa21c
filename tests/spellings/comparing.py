"""Whether two simplified programs are the same network: the same operations on the same weights, value by value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from backtrace_jax.engine.forward import forward
from backtrace_jax.engine.plan import plan_walk
from backtrace_jax.engine.walk import walk
from backtrace_jax.importers import read
from backtrace_jax.ir import Eqn, Graph, Program, Var
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import exact_types

MODES = ("default", "contrastive", "lrp-epsilon-plus", "attnlrp")
TOLERANCE = 1e-6  # what float32 constants of a file leave of a number
_COMMUTATIVE = {"add", "mul", "maximum", "minimum"}


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """One example for a model: numbers of both signs, or tokens."""
    generator = np.random.default_rng(0)
    found = {}
    for info in model.graph.input:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        tokens = info.type.tensor_type.elem_type == onnx.TensorProto.INT64
        found[info.name] = generator.integers(0, 9, shape) if tokens else generator.normal(size=shape)
    return found


def simplified(model: onnx.ModelProto) -> Program:
    """What is explained of a model in float64, for a batch of one."""
    imported = read(model)
    shapes = {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in model.graph.input}
    return simplify(with_float_type(imported.lower(shapes), np.dtype(np.float64)))


def alike(a: Program, b: Program) -> bool:
    """Whether two programs differ in names, order and rounding at most, and share values alike."""
    names = [[v.name for v in each.graph.inputs] for each in (a, b)]
    return names[0] == names[1] and _alike(a, b)


def _alike(a: Program, b: Program) -> bool:
    """The same, whatever inputs are called: those of bodies are called after what they are given."""
    if [v.shape for v in a.graph.inputs] != [v.shape for v in b.graph.inputs]:
        return False
    match = _Match(a, b)
    return all(map(match.values, a.graph.outputs, b.graph.outputs))


class _Match:
    """Pairs of values found to be the same so far; a value has one partner."""

    def __init__(self, a: Program, b: Program) -> None:
        self.weights = a.weights, b.weights
        self.producers = a.graph.producers(), b.graph.producers()
        pairs = zip(a.graph.inputs, b.graph.inputs, strict=True)
        self.partners: dict[str, str] = {one.name: other.name for one, other in pairs}
        self.taken = set(self.partners.values())

    def values(self, x: Var, y: Var) -> bool:
        if x.name in self.weights[0] or y.name in self.weights[1]:
            return self._arrays(x, y)
        if x.name in self.partners or y.name in self.taken:
            return self.partners.get(x.name) == y.name
        one, other = self.producers[0].get(x.name), self.producers[1].get(y.name)
        if one is None or other is None or x.shape != y.shape or not self._equations(one, other):
            return False
        self.partners[x.name] = y.name
        self.taken.add(y.name)
        return True

    def _arrays(self, x: Var, y: Var) -> bool:
        one, other = self.weights[0].get(x.name), self.weights[1].get(y.name)
        return one is not None and other is not None and same_numbers(one, other)

    def _equations(self, one: Eqn, other: Eqn) -> bool:
        if one.op != other.op or len(one.invars) != len(other.invars) or not _same(one.params, other.params):
            return False
        orders = itertools.permutations(other.invars) if one.op in _COMMUTATIVE else [other.invars]
        return any(self._operands(one.invars, order) for order in orders)

    def _operands(self, ours: tuple[Var, ...], theirs: tuple[Var, ...]) -> bool:
        partners, taken = dict(self.partners), set(self.taken)
        if all(map(self.values, ours, theirs)):
            return True
        self.partners, self.taken = partners, taken
        return False


def same_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether arrays are equal up to rounding, and to axes of size 1 in front."""
    rank = max(one.ndim, other.ndim)
    one, other = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (one, other))
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    size = np.abs(one[np.isfinite(one)]).max(initial=0)
    return bool(np.isclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * size).all())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, Graph):
        return isinstance(other, Graph) and _alike(Program(one, {}), Program(other, {}))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=TOLERANCE))
    return one == other


def relevance(program: Program, inputs: Mapping[str, np.ndarray], mode: str) -> dict[str, np.ndarray]:
    """Relevance of the inputs in float64 for the first unit of the output, operation by operation: nothing is compiled.

    In contrastive mode the other units speak against it, each as much.
    """
    output = program.graph.outputs[0]
    plan = plan_walk(program.graph, find_mode(mode), output)
    start = np.zeros(math.prod(output.shape))
    start[0] = 1
    against = (1 - start) / max(start.size - 1, 1) if start.size > 1 else np.full(1, 0.25)
    starts = np.stack([start, against]).reshape(2, *output.shape) if plan.paired else start.reshape(output.shape)
    with exact_types(), jax.disable_jit():
        weights = {name: jnp.asarray(array) for name, array in program.weights.items()}
        values = forward(program.graph, weights, {name: jnp.asarray(array) for name, array in inputs.items()})
        walked = walk(plan, values, {output.name: jnp.asarray(starts)})
    return {var.name: np.asarray(walked.relevance[var.name]) for var in plan.inputs}


def difference(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Largest difference of relevance as a part of the largest magnitude; infinite where others bear it."""
    if found.keys() != wanted.keys():
        return np.inf
    return max(float(np.abs(found[name] - each).max() / np.abs(each).max()) for name, each in wanted.items())
