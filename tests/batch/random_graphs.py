"""Random compositions of operators on a dynamic batch: some treat each example alone, most mix them somewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[[st.SearchStrategy], Any]


@dataclass
class Sketch:
    """A graph under construction: its nodes and constants, and the value at hand with its number of axes."""

    value: str = "x"
    rank: int = 2
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def emit(self, op: str, *operands: str, rank: int | None = None, outputs: int = 1, **attributes: Any) -> str:
        """Add a node; its first result is the value at hand."""
        names = [f"v{len(self.nodes)}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(operands), names, name=f"n{len(self.nodes)}", **attributes))
        self.value, self.rank = names[0], self.rank if rank is None else rank
        return names[0]

    def constant(self, array: object, dtype: type = np.int64) -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def axis(self, draw: Draw) -> int:
        """One of the axes of the value at hand."""
        return draw(st.integers(0, self.rank - 1))


def _entry(s: Sketch, draw: Draw) -> None:
    s.emit(draw(st.sampled_from(["Relu", "Tanh", "Exp", "Neg", "Sigmoid"])), s.value)


def _along(s: Sketch, draw: Draw) -> None:
    s.emit(draw(st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"])), s.value, axis=s.axis(draw))


def _centre(s: Sketch, draw: Draw) -> None:
    value, op = s.value, draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceMin"]))
    statistic = s.emit(op, value, axes=[s.axis(draw)], keepdims=1)
    s.emit(draw(st.sampled_from(["Sub", "Mul"])), value, statistic)


def _reduce(s: Sketch, draw: Draw) -> None:
    if s.rank > 2:
        s.emit("ReduceMean", s.value, axes=[s.axis(draw)], keepdims=0, rank=s.rank - 1)


def _sum_up(s: Sketch, draw: Draw) -> None:
    s.emit("CumSum", s.value, s.constant(s.axis(draw)), reverse=draw(st.integers(0, 1)))


def _turn(s: Sketch, draw: Draw) -> None:
    perm = list(range(s.rank))
    one, other = s.axis(draw), s.axis(draw)
    perm[one], perm[other] = perm[other], perm[one]
    s.emit("Transpose", s.value, perm=perm)


def _reshape(s: Sketch, draw: Draw) -> None:
    shape = draw(st.sampled_from([(-1, 4), (-1, 2, 2), (1, -1, 4), (4, -1), (0, -1), (-1, 2), (-1, 1, 4), (2, -1, 2)]))
    s.emit("Reshape", s.value, s.constant(shape), rank=len(shape))


def _lift(s: Sketch, draw: Draw) -> None:
    if s.rank < 4:
        s.emit("Unsqueeze", s.value, s.constant([s.axis(draw)]), rank=s.rank + 1)


def _double(s: Sketch, draw: Draw) -> None:
    value = s.value
    s.emit("Concat", value, s.emit("Neg", value), axis=s.axis(draw))


def _half(s: Sketch, draw: Draw) -> None:
    s.emit("Split", s.value, axis=s.axis(draw), outputs=2)


def _part(s: Sketch, draw: Draw) -> None:
    start, stop, step = draw(st.sampled_from([(0, 2, 1), (1, 99, 1), (-1, -99, -1), (0, 99, 2), (0, 99, 1)]))
    parts = (s.constant([each]) for each in (start, stop, s.axis(draw), step))
    s.emit("Slice", s.value, *parts)


def _pick(s: Sketch, draw: Draw) -> None:
    s.emit("Gather", s.value, s.constant([1, 0, 1]), axis=s.axis(draw))


def _best(s: Sketch, draw: Draw) -> None:
    s.emit("TopK", s.value, s.constant([1]), axis=s.axis(draw), outputs=2)


def _gram(s: Sketch, draw: Draw) -> None:
    value, perm = s.value, [*range(s.rank - 2), s.rank - 1, s.rank - 2]
    turned = s.emit("Transpose", value, perm=perm)
    s.emit("MatMul", *((value, turned) if draw(st.booleans()) else (turned, value)))


def _weigh(s: Sketch, draw: Draw) -> None:
    s.emit("MatMul", s.value, s.constant(np.arange(16).reshape(4, 4) / 8 - 1, np.float32))


def _shift(s: Sketch, draw: Draw) -> None:
    shape = draw(st.sampled_from([(4,), (1, 4), (3, 4), (3, 1)]))
    values = np.arange(np.prod(shape)).reshape(shape) * draw(st.sampled_from([0, 1])) + 1
    s.emit("Add", s.value, s.constant(values, np.float32))


def _count(s: Sketch, draw: Draw) -> None:
    value, rank = s.value, s.rank
    s.emit("Gather", s.emit("Shape", value), s.constant(s.axis(draw)))
    number = s.emit("Cast", s.value, to=TensorProto.FLOAT)
    s.rank = rank
    s.emit("Div", value, number)


def _across(s: Sketch, draw: Draw) -> None:
    if s.rank == 2:
        value = s.value
        s.rank = 3
        s.emit("Sub", s.emit("Unsqueeze", value, s.constant([0])), s.emit("Unsqueeze", value, s.constant([1])))


STEPS = (_entry, _along, _centre, _reduce, _sum_up, _turn, _reshape, _lift, _double, _half, _part, _pick, _best)
STEPS += (_gram, _weigh, _shift, _count, _across)


@st.composite
def graphs(draw: Callable) -> onnx.ModelProto:
    """A model of up to six steps on x [N, 4] or [N, 2, 4]."""
    shape = draw(st.sampled_from([["N", 4], ["N", 2, 4]]))
    sketch = Sketch(rank=len(shape))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=6)):
        step(sketch, draw)
    sketch.emit("Identity", sketch.value)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_empty_tensor_value_info(sketch.value)]
    graph = helper.make_graph(sketch.nodes, "random", inputs, outputs, sketch.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
