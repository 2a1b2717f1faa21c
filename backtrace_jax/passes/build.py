"""Builds a graph equation by equation, evaluating at once whatever has known operands only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors import DataDependentError, ModelError
from backtrace_jax.ir.graph import Eqn, Graph, Program, Source, Var
from backtrace_jax.ops import MOVE, OPS, SELECT, evaluate, result_types

Known: TypeAlias = np.ndarray
Value: TypeAlias = np.ndarray | Var
"""A value while a graph is built: a known array or a variable of the graph."""

_TEMPORARY = "\0"  # marks names that the builder made up and replaces when the graph is closed


class Builder:
    """Collects equations; known operands become params of the graph the moment an equation reads them."""

    def __init__(self) -> None:
        self.source = Source()
        self._inputs: list[Var] = []
        self._eqns: list[Eqn] = []
        self._params: dict[int, tuple[Var, np.ndarray]] = {}
        self._names: dict[str, str] = {}
        self._labels: dict[int, tuple[str, np.ndarray]] = {}
        self._taken: dict[str, int] = {}
        self._quantities: set[str] = set()
        self._count = 0

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Var:
        """Add an input of the graph."""
        var = Var(self._unique(name), shape, np.dtype(dtype))
        self._inputs.append(var)
        return var

    def label(self, array: np.ndarray, name: str) -> None:
        """Give a known array the name it shall have should it become a param."""
        self._labels.setdefault(id(array), (name, array))

    def label_of(self, value: Value) -> str:
        """The name a known array was given; empty if it has none."""
        return self._labels[id(value)][0] if id(value) in self._labels else ""

    def rename(self, var: Var, name: str) -> None:
        """Give a computed variable the model's own name; the first name given stays."""
        if var.name.startswith(_TEMPORARY) and var.name not in self._names:
            self._names[var.name] = self._unique(name)

    def inputs_of(self, value: Value) -> frozenset[str]:
        """Names of the graph's inputs that a value is computed from."""
        needed = {value.name} if isinstance(value, Var) else set()
        for eqn in reversed(self._eqns):
            if any(var.name in needed for var in eqn.outvars):
                needed.update(var.name for var in eqn.invars)
        return frozenset(var.name for var in self._inputs if var.name in needed)

    def holds_quantities(self, value: Value) -> bool:
        """Whether integers were made of floats by quantisation, and since then only moved, selected or widened."""
        return isinstance(value, Var) and value.name in self._quantities

    def _note_quantities(self, eqn: Eqn) -> None:
        moved = OPS[eqn.op].kind in (MOVE, SELECT) or eqn.op == "cast"
        if eqn.op == "quantize" or (moved and any(x.is_integer and x.name in self._quantities for x in eqn.invars)):
            self._quantities.update(var.name for var in eqn.outvars)

    def emit(self, op: str, *operands: Value, **params: Any) -> Any:
        """Add an equation and return its result, or a tuple of results where the operation has several.

        Known operands only: the result is computed here and is known as well.
        """
        known = [operand for operand in operands if isinstance(operand, np.ndarray)]
        if len(known) == len(operands):
            return evaluate(op, known, params)
        invars = tuple(self._as_var(operand) for operand in operands)
        types = result_types(op, invars, params)
        outvars = tuple(Var(self._temporary(op), shape, dtype) for shape, dtype in types)
        self._eqns.append(Eqn(op, invars, outvars, params, self.source))
        self._note_quantities(self._eqns[-1])
        return outvars if OPS[op].many else outvars[0]

    def scan(
        self,
        body: Program,
        first: Sequence[Value],
        sequences: Sequence[Value],
        length: int,
        *,
        constants: Sequence[Value] = (),
        reverse: bool = False,
    ) -> tuple[list[Value], list[Value]]:
        """Add a body graph that runs once per time step.

        Args:
            body: Takes states, one entry of each sequence, and constants; gives new states, then one entry of each
                result. Its weights become operands of the equation.
            first: The states before the first step.
            sequences: What the steps read, each [length, ...].
            length: Number of steps.
            constants: What every step reads besides the body's weights: values that are not known.
            reverse: Whether time runs backwards.

        Returns:
            The last states, and the results of all steps, each [length, ...].
        """
        graph = replace(body.graph, inputs=(*body.graph.inputs, *body.graph.params), params=())
        operands = (*first, *sequences, *constants, *(body.weights[var.name] for var in body.graph.params))
        settings = {"states": len(first), "sequences": len(sequences), "length": length, "reverse": reverse}
        results = self.emit("scan", *operands, body=graph, **settings)
        last = len(graph.outputs)
        return list(results[: len(first)]), list(results[len(first) : last])

    def known(self, value: Value, what: str) -> np.ndarray:
        """The array itself, where an operator cannot do without knowing it.

        Raises:
            DataDependentError: When the value depends on the model's inputs.
        """
        if isinstance(value, np.ndarray):
            return value
        inputs = self.inputs_of(value)
        raise DataDependentError(
            f"{what} depends on the values of the inputs ({', '.join(sorted(inputs))}), so it is not known beforehand; "
            "make it a constant of the model",
            inputs,
        )

    def derived(self, original: Value, array: np.ndarray) -> np.ndarray:
        """A known array made from another one, under the other one's name."""
        name = self.label_of(original)
        if name:
            self.label(array, name)
        return array

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The same entries in another shape; known arrays keep their name."""
        shape = tuple(shape)
        if value.shape == shape:
            return value
        if math.prod(value.shape) != math.prod(shape):
            raise ModelError(f"shape {value.shape} cannot be reshaped to {shape}")
        if isinstance(value, np.ndarray):
            return self.derived(value, value.reshape(shape))
        return self.emit("reshape", value, shape=shape)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """Axes in another order; known arrays keep their name."""
        perm = tuple(perm)
        if perm == tuple(range(len(value.shape))):
            return value
        if isinstance(value, np.ndarray):
            return self.derived(value, value.transpose(perm))
        return self.emit("transpose", value, perm=perm)

    def part(self, value: Value, axis: int, low: int, high: int) -> Value:
        """The positions from `low` up to `high` along an axis."""
        axis %= len(value.shape)
        if (low, high) == (0, value.shape[axis]):
            return value
        start = tuple(low if k == axis else 0 for k in range(len(value.shape)))
        limit = tuple(high if k == axis else size for k, size in enumerate(value.shape))
        return self.emit("slice", value, start=start, limit=limit, stride=(1,) * len(limit))

    def stack(self, values: Sequence[Value], axis: int) -> Value:
        """Values side by side along a new axis."""
        shape = values[0].shape
        single = [self.reshape(value, (*shape[:axis], 1, *shape[axis:])) for value in values]
        return single[0] if len(single) == 1 else self.emit("concat", *single, axis=axis)

    def scale(self, value: Value, factor: int | float) -> Value:
        """The value times a number; known arrays keep their name."""
        if factor == 1:
            return value
        number = np.asarray(factor).astype(value.dtype)
        if isinstance(value, np.ndarray):
            return self.derived(value, np.asarray(value * number))
        return self.emit("mul", value, number)

    def cast(self, value: Value, dtype: np.dtype) -> Value:
        """The value in another dtype; known arrays keep their name."""
        if value.dtype == dtype:
            return value
        if isinstance(value, np.ndarray):
            return self.derived(value, value.astype(dtype))
        return self.emit("cast", value, dtype=np.dtype(dtype).name)

    def finish(self, outputs: Mapping[str, Value]) -> Program:
        """Close the graph with these outputs, by the model's own names."""
        variables = {name: self._as_var(value) for name, value in outputs.items()}
        params = tuple(var for var, _ in self._params.values())
        eqns = tuple(self._renamed(eqn) for eqn in self._eqns)
        results = tuple(self._final(var) for var in variables.values())
        graph = Graph(tuple(self._inputs), params, eqns, results, tuple(outputs))
        return Program(graph, {var.name: array for var, array in self._params.values()})

    def _as_var(self, value: Value) -> Var:
        if isinstance(value, Var):
            return value
        if id(value) not in self._params:
            name = self._labels.get(id(value), ("constant", value))[0]
            self._params[id(value)] = Var(self._unique(name), value.shape, value.dtype), value
        return self._params[id(value)][0]

    def _renamed(self, eqn: Eqn) -> Eqn:
        invars, outvars = (tuple(map(self._final, variables)) for variables in (eqn.invars, eqn.outvars))
        return Eqn(eqn.op, invars, outvars, eqn.params, eqn.source)

    def _final(self, var: Var) -> Var:
        if var.name.startswith(_TEMPORARY) and var.name not in self._names:
            self._names[var.name] = self._unique(var.name.split(_TEMPORARY)[1])
        return Var(self._names.get(var.name, var.name), var.shape, var.dtype)

    def _temporary(self, op: str) -> str:
        self._count += 1
        return f"{_TEMPORARY}{op}{_TEMPORARY}{self._count}"

    def _unique(self, name: str) -> str:
        candidate, count = name, self._taken.get(name, 0)
        while candidate in self._taken:
            count += 1
            candidate = f"{name}.{count}"
        self._taken[name] = count  # where to go on counting: thousands may ask for the same name
        self._taken.setdefault(candidate, 0)
        return candidate
