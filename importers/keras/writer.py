"""Writes ONNX nodes under the names of the layers they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..onnx import CALLS, SCOPES
from .exclusions import NoRoadError
from .tensor import Operand, Shape, Tensor, as_array, dims, element, name_of

OPSET = 23
_NEWER = {"CumProd": 26}  # operators that a later opset brought
IR_VERSION = 11
_COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_MEANT = (("f", "i"), ("i", "f"), ("u", "f"))  # kinds of number: declared, and read


class Writer:
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: dict[str, Tensor] = {}
        self.hosts: dict[str, Any] = {}
        self._stored: dict[Any, str] = {}
        self._sources: dict[str, Tensor] = {}
        self._kept: list[Any] = []  # what `_stored` knows by identity must stay alive
        self._names: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._scopes: list[str] = []
        self.opset = OPSET

    @property
    def scope(self) -> str:
        """Path of the layer that is being written, `outer/inner`."""
        return "/".join(self._scopes)

    @contextmanager
    def inside(self, name: str) -> Iterator[str]:
        """Write a layer; a further call of the same layer is told apart by its number."""
        path = "/".join((*self._scopes, name))
        calls = self._names[f"call of {path}"]
        self._names[f"call of {path}"] += 1
        self._scopes.append(f"{name}:{calls}" if calls else name)
        try:
            yield self.scope
        finally:
            self._scopes.pop()

    def input(self, name: str, shape: Shape, dtype: str) -> Tensor:
        """Declare an input of the model."""
        tensor = Tensor(self._unique(name), shape, dtype)
        self._inputs[tensor.name] = tensor
        return tensor

    def host(self, tensor: Tensor, layer: Any, shape: Shape) -> Tensor:
        """Let what a layer makes of an input be the input instead; the layer runs before the model.

        Raises:
            UnsupportedError: When something else reads the input as well.
        """
        if self._inputs.get(tensor.name) is not tensor or tensor.name in self.hosts:
            raise NoRoadError("stands behind another layer, or beside one; put it right behind an input of its own")
        self.hosts[tensor.name] = layer
        self._inputs[tensor.name] = Tensor(tensor.name, shape, "int64")
        return self._inputs[tensor.name]

    def emit(self, op_type: str, *operands: Operand | None, **attributes: Any) -> str:
        """Write a node of one result; returns the result's name."""
        return self.emit_all(op_type, *operands, results=1, **attributes)[0]

    def emit_all(self, op_type: str, *operands: Operand | None, results: int, **attributes: Any) -> list[str]:
        """Write a node; returns the names of its results."""
        self.opset = max(self.opset, _NEWER.get(op_type, 0))
        stem = f"{self.scope}/{op_type}" if self._scopes else op_type
        names = [self._unique(stem) for _ in range(results)]
        node = helper.make_node(op_type, [name_of(each) for each in operands], names, names[0], **attributes)
        calls = list(accumulate(self._scopes, "{}/{}".format))
        plain = "/".join(scope.partition(":")[0] for scope in self._scopes)
        helper.set_metadata_props(node, {SCOPES: repr(["", plain, names[0]]), CALLS: repr(calls)})
        self.nodes.append(node)
        return names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A constant; equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        return self._store(key, "constant", array)

    def integers(self, *values: int) -> str:
        """A constant vector of integers, as shapes and axes are given."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float | int, like: Tensor) -> str:
        """A scalar of the type of a tensor."""
        return self.constant(np.array(value, like.dtype))

    def weight(self, layer: Any, attribute: str, form: Callable[[np.ndarray], np.ndarray] | None = None) -> str:
        """A weight of a layer, stored once however often the layer is called.

        Args:
            layer: The layer.
            attribute: Name of its weight.
            form: How ONNX wants it laid out.
        """
        key = (id(layer), attribute, form and form.__qualname__)
        if key in self._stored:
            return self._stored[key]
        self._kept.append(layer)
        array = as_array(getattr(layer, attribute))
        return self._store(key, f"{self.scope}/{attribute}", array if form is None else form(array))

    def _store(self, key: Any, stem: str, array: np.ndarray) -> str:
        if key not in self._stored:
            name = self._stored[key] = self._unique(stem)
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return self._stored[key]

    def _unique(self, stem: str) -> str:
        name = stem
        while name in self._taken:
            self._names[stem] += 1
            name = f"{stem}_{self._names[stem]}"
        self._taken.add(name)
        return name

    # -- values in other forms ---------------------------------------------------------------------------------------

    def transpose(self, value: Operand, perm: Sequence[int]) -> Operand:
        """Axes in another order."""
        return value if tuple(perm) == tuple(range(len(perm))) else self.emit("Transpose", value, perm=list(perm))

    def cast(self, value: Tensor, dtype: str) -> Operand:
        """The value in another type."""
        if value.dtype == dtype:
            return value
        name = self.recast(value, dtype)
        self._sources[name] = self.source(value)
        return name

    def source(self, value: Tensor) -> Tensor:
        """What the value was before it was cast."""
        return self._sources.get(value.name, value)

    def recast(self, value: Operand, dtype: str) -> str:
        """The value in another type, whatever type it has."""
        return self.emit("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def size(self, value: Operand, start: int, end: int | None = None) -> str:
        """The sizes along the axes from start to end; known once the model is lowered at an example's shapes."""
        return self.emit("Shape", value, start=start, **({} if end is None else {"end": end}))

    def reshape(self, value: Operand, *sizes: int | str) -> str:
        """Another shape, of numbers and of what `size` found."""
        parts = [each if isinstance(each, str) else self.integers(each) for each in sizes]
        target = self.emit("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return self.emit("Reshape", value, target)

    def slice(self, value: Operand, axis: int, start: int, end: int | None, step: int = 1) -> str:
        """Part of the value along an axis."""
        last = end if end is not None else (np.iinfo(np.int64).max if step > 0 else np.iinfo(np.int64).min)
        ends = [self.integers(each) for each in (start, last, axis, step)]
        return self.emit("Slice", value, *ends)

    def reverse(self, value: Operand, axis: int) -> str:
        """The value backwards along an axis."""
        return self.slice(value, axis, -1, None, -1)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def rename(self, tensor: Tensor, name: str, since: int) -> None:
        """Give a result of the nodes written since then a name of its own; inputs and earlier results keep theirs."""
        made = {each for node in self.nodes[since:] for each in node.output}
        if tensor.name not in made or name in self._taken:
            return
        self._taken.add(name)
        for node in self.nodes[since:]:
            for names in (node.input, node.output):
                for position, each in enumerate(names):
                    if each == tensor.name:
                        names[position] = name
        tensor.name = name

    def finish(self, name: str, outputs: dict[str, Tensor]) -> onnx.ModelProto:
        """The model, with these outputs."""
        self._read_as_they_are_meant()
        declared = [self._output(each, tensor) for each, tensor in outputs.items()]
        inputs = [
            helper.make_tensor_value_info(tensor.name, element(tensor.dtype), dims(tensor.shape))
            for tensor in self._inputs.values()
        ]
        graph = helper.make_graph(self.nodes, name, inputs, declared, list(self._initializers.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSION,
            producer_name="backtrace-jax",
        )

    def _output(self, name: str, tensor: Tensor) -> onnx.ValueInfoProto:
        if tensor.name != name:
            node = helper.make_node("Identity", [tensor.name], [name], f"output {name}")
            self.nodes.append(node)
        return helper.make_tensor_value_info(name, element(tensor.dtype), dims(tensor.shape))

    def output_names(self, names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name; a value that already has the name is the output itself."""
        found: dict[str, Tensor] = {}
        for stem, tensor in zip(names, tensors, strict=True):
            own = tensor.name == stem and stem not in found and stem not in self._inputs
            found[stem if own else self._unique(stem)] = tensor
        return found

    def _read_as_they_are_meant(self) -> None:
        """Token ids declared as floats, and pixels declared as integers, become what the model reads them as.

        Keras declares every input a float by default and lets an Embedding cast it; relevance of a token exists only
        where the token is an integer, that of a pixel only where it is a real number.
        """
        for tensor in self._inputs.values():
            readers = [node for node in self.nodes if tensor.name in node.input and node.op_type != "Shape"]
            others = [node for node in readers if node.op_type not in _COMPARISONS]
            casts = {_cast_type(node) for node in others}
            (target,) = casts if len(casts) == 1 else (None,)
            if target is None or (np.dtype(tensor.dtype).kind, np.dtype(target).kind) not in _MEANT:
                continue
            compared = [node for node in readers if node.op_type in _COMPARISONS]
            self._compare_as(tensor, compared)
            tensor.dtype = target

    def _compare_as(self, tensor: Tensor, readers: Sequence[onnx.NodeProto]) -> None:
        """Masks are still computed in the declared type."""
        if not readers:
            return
        name, declared = self._unique(f"{tensor.name}/declared"), element(tensor.dtype)
        self.nodes.insert(0, helper.make_node("Cast", [tensor.name], [name], name, to=declared))
        for node in readers:
            node.input[:] = [name if each == tensor.name else each for each in node.input]


def _cast_type(node: onnx.NodeProto) -> str | None:
    if node.op_type != "Cast":
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i)).name
