"""Bounds on what a model may ask of the machine while it is lowered: a file of a few bytes can name terabytes.

Three things are bounded before anything is allocated or computed: the size of any one value of the graph, the bytes and
the arithmetic of what is computed at once from known values, and the number of nodes (functions that call functions and
unrolled loops included). What a large model really needs grows with the data in its files, and so do the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Eqn, Graph
from backtrace_jax.ops.cost import Cost, evaluation_cost

from .load import OnnxModel
from .schemas import infer_results, schema_of
from .verify import MOST_AXES, shortened

LARGEST_VALUE = 2**30
"""Bytes of any one value of a graph, for one example. Three quarters of it is what known values may take together.

Raise it before a call (`backtrace_jax.importers.onnx.limits.LARGEST_VALUE = 2**33`) where a model that can be trusted
needs more.
"""

MOST_UNFOLDED = 20_000
"""Nodes and steps that functions and loops may unfold to, beyond the nodes that the graph itself has."""

LONGEST_LOOP = 2**20
"""Steps of a loop whose number of steps is known."""

MOST_STEPS = 2**24
"""Steps that all loops of a graph take together; a loop inside another one counts as often as it runs. Adjustable."""

_PER_BYTE = 8  # bytes of known values allowed per byte of the model: packed integers become floats, once or twice
_WORK = 2**34  # arithmetic allowed in known values, in units of `evaluation_cost`: a few seconds
_WORK_PER_BYTE = 2**10
_EVALUATIONS = 8_000  # computations from known values, beyond two per node of the graph: each costs a millisecond
_COMPILED = 96  # different ones among them, beyond one in sixteen nodes: each costs a compilation
_LARGEST_REFERENCE = 2**18  # entries that ONNX's reference implementation may touch: it loops in Python
_UNSAFE_REFERENCE = {"RegexFullMatch", "ImageDecoder"}  # unbounded time, and a decoder of files
_SIZED_BY_VALUES = {  # operators whose result has the size that an operand's entries or an attribute say
    *("AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "DFT", "Expand", "EyeLike"),
    *("HammingWindow", "HannWindow", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad", "Range", "Resize"),
    *("RoiAlign", "STFT", "Tile", "Upsample", "AveragePool", "LpPool", "MaxPool", "Conv", "ConvTranspose"),
}
_FOUND = {"NonZero", "Unique"}  # operators with results of at most an integer per entry and axis; how many, data say
_ADVICE = "if the model can be trusted, raise backtrace_jax.importers.onnx.limits.LARGEST_VALUE"


class Limits:
    """What one lowering has used up so far of what it may use."""

    def __init__(self, model: OnnxModel, examples: int = 1) -> None:
        self._model = model
        self._largest = LARGEST_VALUE * examples
        self._bytes = self._work = self._nodes = self._evaluations = 0
        self._compiled: dict[int, Cost] = {}
        self._kept: set[int] = set()

    @cached_property
    def _stored(self) -> int:
        return self._model.stored_bytes()

    def begin(self, node: onnx.NodeProto, operands: Sequence[Any], opset: int | None) -> None:
        """Count a node, and refuse it when its results, by ONNX's own shape inference, would be too large.

        Raises:
            ModelError: When it is one too many, or too large.
        """
        self.count()
        if node.op_type in _FOUND and operands and isinstance(operands[0], np.ndarray):
            self.check_known((max(2 * operands[0].ndim, 8), operands[0].size), np.int64)  # sorting takes copies
        if node.op_type not in _SIZED_BY_VALUES:
            return
        known = all(operand is None or isinstance(operand, np.ndarray) for operand in operands)
        for shape, dtype in inferred_types(node, operands, opset):
            (self.check_known if known else self.check)(shape, dtype)

    def count(self, number: int = 1) -> None:
        """Count a node, a step of a loop, or a part that costs as much as some nodes.

        Raises:
            ModelError: When there are too many.
        """
        self._nodes += number
        if self._nodes > MOST_UNFOLDED + len(self._model.proto.graph.node):
            raise ModelError(
                f"loops and functions unfold to more than {MOST_UNFOLDED} nodes; refused. If the model can be trusted, "
                "raise backtrace_jax.importers.onnx.limits.MOST_UNFOLDED"
            )

    def check(self, shape: Sequence[int], dtype: Any) -> None:
        """Refuse a value of this type if it is no value or too large a one.

        Raises:
            ModelError: Naming the size.
        """
        if len(shape) > MOST_AXES:
            raise ModelError(f"a value would have {len(shape)} axes; at most {MOST_AXES} are possible")
        if any(size < 0 for size in shape):
            raise ModelError(f"a value would have the shape {tuple(shape)}; sizes cannot be negative")
        size = _size(shape, dtype)
        if size > self._largest:
            limit = f"more than the {_in_words(self._largest)} that one value may take"
            raise ModelError(f"a value of shape {tuple(shape)} would take {_in_words(size)}, {limit}; {_ADVICE}")

    def check_steps(self, count: int) -> None:
        """Refuse a loop of this many steps if they are too many.

        Raises:
            ModelError: Naming the number.
        """
        if count > LONGEST_LOOP:
            raise ModelError(
                f"a loop of {count} steps is longer than the {LONGEST_LOOP} that are allowed; if the model can be "
                "trusted, raise backtrace_jax.importers.onnx.limits.LONGEST_LOOP"
            )

    def keep(self, array: np.ndarray) -> None:
        """Book a known array that has got a name; the same memory seen in another shape counts once."""
        address = array.__array_interface__["data"][0]
        if address not in self._kept:
            self._kept.add(address)
            self._bytes += array.nbytes

    def evaluate(self, op: str, operands: Sequence[np.ndarray], params: Mapping[str, Any]) -> None:
        """Book an operation on known operands that is about to be computed.

        Raises:
            ModelError: When it needs too much memory or time.
        """
        self._evaluations += 1
        if self._evaluations > _EVALUATIONS + 2 * len(self._model.proto.graph.node):
            raise ModelError("loops and functions compute too many values from constants; refused")
        cost = evaluation_cost(op, operands, params)
        self._check_compiled(cost)
        for shape, dtype in cost.values:
            self.check(shape, dtype)
        largest = max((_size(*each) for each in cost.values), default=0)
        self._check_total(sum(operand.nbytes for operand in operands) + 2 * largest, LARGEST_VALUE * 5 // 4)
        self._work += cost.work
        if self._work > _WORK * max(1, LARGEST_VALUE >> 30) + _WORK_PER_BYTE * self._stored:
            raise ModelError(f"what the model computes from constants alone takes too much arithmetic; {_ADVICE}")

    def check_known(self, shape: Sequence[int], dtype: Any) -> None:
        """Refuse a known array if there would be too much of them together."""
        self.check(shape, dtype)
        self._check_total(_size(shape, dtype), LARGEST_VALUE * 3 // 4)

    def _check_compiled(self, cost: Cost) -> None:
        """Refuse too many different computations: each is compiled, however small it is."""
        self._compiled[id(cost)] = cost
        if len(self._compiled) > _COMPILED + len(self._model.proto.graph.node) // 16:
            raise ModelError("too many different computations from constants alone; fold constants before the export")

    def _check_total(self, more: int, allowed: int) -> None:
        total, allowed = self._bytes + more, allowed + _PER_BYTE * self._stored
        if total > allowed:
            limit = f"more than the {_in_words(allowed)} that they may take"
            raise ModelError(f"the known values of the model would take {_in_words(total)}, {limit}; {_ADVICE}")


def check_loops(graph: Graph) -> None:
    """Refuse a graph whose loops, those inside others as often as they run, take too many steps together.

    Raises:
        ModelError: Naming the node that takes most of them, and the number.
    """
    loops = _loops(graph)
    total = sum(map(_steps, loops))
    if total > MOST_STEPS:
        most = max(loops, key=_steps).source
        raise ModelError(
            f"node {shortened(most.node)!r} ({most.operator}): the loops of the model, nested ones multiplied, take "
            f"{total} steps, more than the {MOST_STEPS} that are allowed; if the model can be trusted, raise "
            "backtrace_jax.importers.onnx.limits.MOST_STEPS"
        )


def _loops(graph: Graph) -> list[Eqn]:
    return [eqn for eqn in graph.eqns if "length" in eqn.params]


def _steps(loop: Eqn) -> int:
    """Steps of a loop, and of those inside it."""
    return loop.params["length"] * (1 + sum(_steps(inner) for body in loop.bodies for inner in _loops(body)))


def check_reference(node: onnx.NodeProto, operands: Sequence[np.ndarray | None], opset: int | None) -> None:
    """Refuse what ONNX's reference implementation must not compute for an untrusted model.

    Raises:
        UnsupportedError: When it could read files, never end, or take too long.
    """
    if node.op_type in _UNSAFE_REFERENCE:
        raise UnsupportedError(f"operator {node.op_type} has no implementation yet; replace it in the model")
    if any(_is_outside(tensor) for attribute in node.attribute for tensor in _attribute_tensors(attribute)):
        raise UnsupportedError("an attribute is stored outside the model; store it inside")
    types = inferred_types(node, operands, opset)
    if node.op_type in _SIZED_BY_VALUES and not types:
        raise UnsupportedError(f"operator {node.op_type} of this opset has no implementation; convert the model")
    sizes = [0 if operand is None else operand.size for operand in operands]
    sizes += [math.prod(shape) for shape, _ in types]
    if max(sizes, default=0) > _LARGEST_REFERENCE:
        raise UnsupportedError(f"operator {node.op_type} has no implementation for values as large as these")


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterable[onnx.TensorProto]:
    yield from (attribute.t, *attribute.tensors)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def inferred_types(
    node: onnx.NodeProto, operands: Sequence[Any], opset: int | None
) -> list[tuple[tuple[int, ...], np.dtype]]:
    """Types of a node's tensor results as far as ONNX can tell them from its operands."""
    schema = schema_of(node.domain, node.op_type, opset)
    if schema is None:
        return []
    try:
        found = infer_results(schema, node, operands, opset)
    except Exception:  # a node that does not fit its schema: the operator itself says what is wrong
        return []
    return [_inferred(each.tensor_type) for each in found.values() if _is_complete(each)]


def _is_complete(found: onnx.TypeProto) -> bool:
    tensor = found.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _inferred(tensor: Any) -> tuple[tuple[int, ...], np.dtype]:
    text = tensor.elem_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
    dtype = np.dtype(np.float32) if text else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return tuple(dim.dim_value for dim in tensor.shape.dim), dtype


def _size(shape: Sequence[int], dtype: Any) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _in_words(size: int) -> str:
    """Bytes in the unit a reader expects."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**28 else f"{size / 2**20:.3g} MiB"
