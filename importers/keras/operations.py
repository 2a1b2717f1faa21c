"""Operations of keras.ops in functional models: `x + y`, `x[:, 0]`, `ops.reshape` and others of their kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import UnsupportedError

from .activations import ACTIVATIONS
from .merging import normalised
from .reductions import listed
from .registry import OPERATIONS, operation
from .tensor import Operand, Tensor, as_array
from .terms import as_float, common, term
from .writer import Writer

_FUNCTIONS = {
    "Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign",
    "Silu": "silu", "Tanh": "tanh", "Selu": "selu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh", "LogSigmoid": "log_sigmoid", "SparsePlus": "sparse_plus", "TanhShrink": "tanh_shrink",
    "Mish": "mish",
}  # fmt: skip


def operand(writer: Writer, value: Any, like: Tensor | None) -> Operand:
    """A tensor, or a number or array as a constant of the other operand's type."""
    if isinstance(value, Tensor):
        return value
    array = as_array(value)
    return writer.constant(array, None if like is None or array.dtype.kind == "b" else like.dtype)


def _tensor(*values: Any) -> Tensor | None:
    return next((each for each in values if isinstance(each, Tensor)), None)


def _function(name: str) -> Callable[..., Operand]:
    def write(writer: Writer, layer: Any, x: Tensor) -> Operand:
        return ACTIVATIONS[name](writer, x, x)

    return write


def _listed(axis: Any) -> list[int]:
    return [axis] if isinstance(axis, int) else list(axis)


OPERATIONS.update({name: _function(function) for name, function in _FUNCTIONS.items()})


@operation("Square")
def square(writer: Writer, layer: Any, x: Tensor) -> str:
    """A value times itself."""
    return writer.emit("Mul", x, x)


@operation("Rsqrt")
def rsqrt(writer: Writer, layer: Any, x: Tensor) -> str:
    """One over the root."""
    return writer.emit("Reciprocal", writer.emit("Sqrt", x))


@operation("Gelu")
def gelu(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """GELU, exact or approximate."""
    return ACTIVATIONS["gelu"](writer, x, x, approximate=layer.approximate)


@operation("Softmax", "LogSoftmax")
def softmax(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Softmax over axes, or its logarithm."""
    axes, name = listed(layer.axis, x.rank), type(layer).__name__
    if len(axes) == 1:
        return writer.emit(name, x, axis=axes[0])
    value = as_float(writer, x)
    logs = value - value.reduced("ReduceLogSumExp", axes, keepdims=True)
    return (logs.node("Exp") if name == "Softmax" else logs).name


@operation("Clip")
def clip(writer: Writer, layer: Any, x: Tensor) -> str:
    """Values between two bounds."""
    return writer.emit("Clip", x, *(operand(writer, each, x) for each in (layer.x_min, layer.x_max)))


@operation("Cast")
def cast(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Another type."""
    return writer.cast(x, str(layer.dtype))


@operation("Reshape")
def reshape(writer: Writer, layer: Any, x: Tensor) -> str:
    """Another shape; a dynamic size is the one that is left."""
    return writer.reshape(x, *(-1 if size is None else int(size) for size in layer.newshape))


@operation("Transpose")
def transpose(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Axes in another order."""
    return writer.transpose(x, tuple(reversed(range(x.rank))) if layer.axes is None else tuple(layer.axes))


@operation("Swapaxes")
def swapaxes(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Two axes in each other's place."""
    perm = list(range(x.rank))
    one, other = layer.axis1 % x.rank, layer.axis2 % x.rank
    perm[one], perm[other] = other, one
    return writer.transpose(x, perm)


@operation("ExpandDims")
def expand_dims(writer: Writer, layer: Any, x: Tensor) -> str:
    """New axes of size 1."""
    return writer.emit("Unsqueeze", x, writer.integers(*_listed(layer.axis)))


@operation("Squeeze")
def squeeze(writer: Writer, layer: Any, x: Tensor) -> str:
    """Without axes of size 1."""
    axes = [a for a, size in enumerate(x.shape) if size == 1] if layer.axis is None else _listed(layer.axis)
    return writer.emit("Squeeze", x, writer.integers(*axes))


@operation("Concatenate")
def concatenate(writer: Writer, layer: Any, xs: Sequence[Any]) -> str:
    """One after the other."""
    like = _tensor(*xs)
    return writer.emit("Concat", *(operand(writer, each, like) for each in xs), axis=layer.axis)


@operation("Stack")
def stack(writer: Writer, layer: Any, x: Sequence[Any]) -> str:
    """One above the other, along a new axis."""
    like = _tensor(*x)
    parts = [writer.emit("Unsqueeze", operand(writer, each, like), writer.integers(layer.axis)) for each in x]
    return writer.emit("Concat", *parts, axis=layer.axis)


@operation("Einsum")
def einsum(writer: Writer, layer: Any, *operands: Any) -> str:
    """A sum over named axes."""
    like = _tensor(*operands)
    return writer.emit("Einsum", *(operand(writer, each, like) for each in operands), equation=layer.subscripts)


@operation("Where")
def where(writer: Writer, layer: Any, condition: Any, x1: Any = None, x2: Any = None) -> Operand:
    """One value or the other."""
    if x1 is None or x2 is None:
        raise UnsupportedError("asks where a condition holds, as many places as there are; give both values")
    first, second = common(writer, x1, x2)
    return first.where(term(writer, condition, "bool"), second).name


@operation("Normalize")
def normalize(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """Divided by a norm."""
    epsilon = 1e-7 if layer.epsilon is None else float(layer.epsilon)
    if layer.order == 2:
        return normalised(writer, x, layer.axis, epsilon)
    value = as_float(writer, x)
    powers = abs(value) if layer.order == 1 else abs(value).node("Pow", float(layer.order))
    total = powers.reduced("ReduceSum", listed(layer.axis, x.rank), keepdims=True)
    norm = total if layer.order == 1 else total.node("Pow", 1 / layer.order)
    return (value / norm.node("Max", epsilon)).name


@operation("GetItem")
def get_item(writer: Writer, layer: Any, x: Tensor, key: Any) -> Operand:
    """Slices, single entries, new axes and an ellipsis."""
    items = list(key) if isinstance(key, list | tuple) else [key]
    taken = sum(each is not None and each is not Ellipsis for each in items)
    if Ellipsis not in items:
        items.append(Ellipsis)
    place = items.index(Ellipsis)
    items[place : place + 1] = [slice(None)] * (x.rank - taken)
    return _indexed(writer, x, items)


def _indexed(writer: Writer, x: Tensor, items: Sequence[Any]) -> Operand:
    value: Operand = x
    dropped, added, axis = [], [], 0
    for position, item in enumerate(items):
        if item is None:
            added.append(position - len(dropped))
            continue
        if isinstance(item, slice):
            value = _sliced(writer, value, axis, item)
        elif isinstance(item, int | np.integer):
            index = int(item)
            value = writer.slice(value, axis, index, index + 1 if index != -1 else None)
            dropped.append(axis)
        else:
            raise UnsupportedError(f"is indexed by {item!r}; slices and integers have an ONNX form")
        axis += 1
    value = writer.emit("Squeeze", value, writer.integers(*dropped)) if dropped else value
    return writer.emit("Unsqueeze", value, writer.integers(*added)) if added else value


def _sliced(writer: Writer, value: Operand, axis: int, item: slice) -> Operand:
    if item == slice(None):
        return value
    step = 1 if item.step is None else int(item.step)
    start = (0 if step > 0 else -1) if item.start is None else int(item.start)
    return writer.slice(value, axis, start, None if item.stop is None else int(item.stop), step)


@operation("ZerosLike", "OnesLike", "EmptyLike", "FullLike")
def filled_like(writer: Writer, layer: Any, x: Any, fill_value: Any = 0) -> Operand:
    """One number everywhere, in the shape of a value."""
    like = term(writer, x)
    number = 1 if type(layer).__name__ == "OnesLike" else fill_value
    return term(writer, number, str(getattr(layer, "dtype", None) or like.dtype)).expanded(like).name


@operation("Full")
def full(writer: Writer, layer: Any, fill_value: Any) -> Operand:
    """One value everywhere, in a given shape."""
    wide = term(writer, fill_value).node("Expand", writer.integers(*map(int, layer.shape)))
    return (wide.cast(str(layer.dtype)) if layer.dtype else wide).name


@operation("Glu")
def glu(writer: Writer, layer: Any, x: Tensor) -> Operand:
    """One half of an axis, gated by the other."""
    return ACTIVATIONS["glu"](writer, x, x, axis=layer.axis)
