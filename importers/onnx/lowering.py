"""The state of one lowering, which every operator function gets as its first argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Program, Var
from backtrace_jax.passes.build import Builder, Value

from .limits import Limits
from .load import OnnxModel
from .ordering import in_order
from .scope import Held, Scope, TensorSequence, opsets_of

_TOGETHER = 16  # known operands of one compiled computation
LowerNode = Callable[["Lowering", onnx.NodeProto], None]


class Lowering(Builder):
    """The graph under construction, the values of the ONNX names seen so far, and shorthands for operators.

    Attributes:
        model: The model.
        scope: The names that can be seen where lowering is at.
        functions: The model's own functions, by domain, name and overload.
        limits: What lowering may still use up.
        result_count: How many results the node being lowered has.
        draws: How often nodes have drawn random numbers, by name.
    """

    def __init__(self, model: OnnxModel, lower_node: LowerNode, scope: Scope | None = None, examples: int = 1) -> None:
        """Begin a graph of so many examples; `lower_node` is called for every node of a sub-graph."""
        super().__init__()
        self.model = model
        self.scope = scope or Scope(opsets_of(model.proto.opset_import))
        self.result_count = 1
        self.draws: Counter[str] = Counter()
        self.limits = Limits(model, examples)
        self.functions = {(each.domain, each.name, each.overload): each for each in model.proto.functions}
        self._lower_node = lower_node

    @property
    def opsets(self) -> dict[str, int]:
        """Opset of each imported domain; the standard one is called "ai.onnx"."""
        return self.scope.opsets

    def define(self, name: str, value: Held) -> None:
        """Bind an ONNX name to its value.

        Raises:
            UnsupportedError: For complex numbers that depend on the inputs: relevance is shared among real ones.
        """
        if not name:
            return
        if isinstance(value, Var) and value.dtype.kind == "c":
            raise UnsupportedError(f"{name!r} is complex: relevance is for real numbers; keep both parts as values")
        self.scope.define(name, value)
        if isinstance(value, np.ndarray):
            self.limits.keep(value)
            self.label(value, name)
        elif isinstance(value, Var):
            self.rename(value, name)

    def input(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Var:
        """Add an input of the graph, unless it is too large."""
        self.limits.check(shape, dtype)
        return super().input(name, shape, dtype)

    def emit(self, op: str, *operands: Value, **params: Any) -> Any:
        """Add an equation, or compute it at once; either only within the limits on sizes and arithmetic."""
        known = [operand for operand in operands if isinstance(operand, np.ndarray)]
        if len(known) == len(operands):
            self.limits.evaluate(op, known, params)
            return super().emit(op, *operands, **params)
        results = super().emit(op, *operands, **params)
        for var in results if isinstance(results, tuple) else (results,):
            self.limits.check(var.shape, var.dtype)
        return results

    def lower_nodes(self, nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> list[Held]:
        """Lower nodes one after the other, and give the values of these names."""
        for node in in_order(nodes):
            self._lower_node(self, node)
        return [self._result(name) for name in names]

    def _result(self, name: str) -> Held:
        found = self.scope.find(name)
        if found is None:
            raise ModelError(f"result {name!r} is an operand that was not given")
        return found

    def inline(self, graph: onnx.GraphProto, operands: Sequence[Held]) -> list[Held]:
        """Lower a sub-graph where lowering is at; it sees the names around it."""
        with self.inside(Scope(self.opsets, self.scope, self.scope.attributes)):
            return self.lower_nodes(*self._begin(graph, operands))

    def body(self, graph: onnx.GraphProto, operands: Sequence[Value]) -> tuple[Program, list[Value]]:
        """Lower a sub-graph as a graph of its own.

        Args:
            graph: The sub-graph.
            operands: What its inputs are: known arrays, or variables whose types they have.

        Returns:
            The graph, whose last inputs are the values around it that it reads; and these values.
        """
        captured: dict[str, tuple[Var, Var]] = {}

        def capture(name: str, value: Held) -> Held:
            if isinstance(value, TensorSequence):
                return TensorSequence(tuple(capture(f"{name}[{i}]", item) for i, item in enumerate(value.items)))
            if not isinstance(value, Var):
                return value
            if value.name not in captured:
                captured[value.name] = value, inner.input(name, value.shape, value.dtype)
            return captured[value.name][1]

        inner = Lowering(self.model, self._lower_node, Scope(self.opsets, self.scope, self.scope.attributes, capture))
        inner.source = self.source
        inner._labels = self._labels  # arrays keep their names
        inner.draws = self.draws
        inner.limits = self.limits
        _check_count(graph, operands)
        pairs = zip(graph.input, operands, strict=True)
        inputs = [x if isinstance(x, np.ndarray) else inner.input(info.name, x.shape, x.dtype) for info, x in pairs]
        results = inner.lower_nodes(*inner._begin(graph, inputs))
        tensors = {str(i): result for i, result in enumerate(results) if isinstance(result, np.ndarray | Var)}
        if len(tensors) < len(results):
            raise UnsupportedError("a sequence is built over time; only tensors can be")
        program = inner.finish(tensors)
        return program, [outer for outer, _ in captured.values()]

    def _begin(self, graph: onnx.GraphProto, operands: Sequence[Held]) -> tuple[Iterable[onnx.NodeProto], list[str]]:
        """Define inputs and initialisers of a sub-graph; give its nodes and the names of its results."""
        self.limits.count()
        _check_count(graph, operands)
        for info, operand in zip(graph.input, operands, strict=True):
            self.define(info.name, operand)
        for tensor in graph.initializer:
            self.define(tensor.name, self.model.array(tensor))
        return graph.node, [info.name for info in graph.output]

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[None]:
        """Lower in another scope for a while."""
        outer, source, count = self.scope, self.source, self.result_count
        self.scope = scope
        try:
            yield
        finally:
            self.scope, self.source, self.result_count = outer, source, count

    def integers(self, value: Value | Sequence[int], what: str) -> tuple[int, ...]:
        """Sizes or positions as Python integers, from a known array or an attribute."""
        array = self.known(value, what) if isinstance(value, np.ndarray | Var) else value
        return tuple(int(number) for number in np.asarray(array).reshape(-1))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values one after the other along an axis; of known ones nothing is compiled, however many they are."""
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        if len(arrays) < len(values):
            return self.emit("concat", *values, axis=axis)
        total = sum(array.shape[axis] for array in arrays)
        shape = tuple(total if i == axis else size for i, size in enumerate(arrays[0].shape))
        self.limits.check_known(shape, arrays[0].dtype)
        return np.concatenate(arrays, axis)

    def fold(self, op: str, values: Sequence[Value]) -> Value:
        """An operation of any number of operands, from the first on; known ones are taken some at a time."""
        first, *others = values
        if len(values) <= _TOGETHER or not all(isinstance(value, np.ndarray) for value in values):
            return self.emit(op, *values) if others else first
        for start in range(0, len(others), _TOGETHER - 1):
            first = self.emit(op, first, *others[start : start + _TOGETHER - 1])
        return first

    def along_channels(self, value: Value, rank: int) -> Value:
        """One number per channel, shaped to meet results [N, C, *spatial] of this rank; per-position shapes stay."""
        return self.reshape(value, (1, *value.shape, *(1,) * (rank - 1 - len(value.shape))))


def _check_count(graph: onnx.GraphProto, operands: Sequence[Held]) -> None:
    if len(graph.input) != len(operands):
        raise ModelError(f"sub-graph {graph.name!r} takes {len(graph.input)} inputs, found {len(operands)}")
