"""Operators that give a value another shape or order: reshape, transpose, copies, concatenation, depth and space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Held
from .axes import each_from_front, from_front
from .casts import element_type
from .registry import operator


@operator("Constant")
def constant(
    lowering: Lowering,
    *,
    value: np.ndarray | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Value:
    """An array that the model holds."""
    if value is not None:
        return value
    floats, integers = (value_float, value_floats), (value_int, value_ints)
    given = [(number, np.float32) for number in floats] + [(number, np.int64) for number in integers]
    return next(np.asarray(number, dtype) for number, dtype in given if number is not None)


@operator("Identity")
def identity(lowering: Lowering, input: Held) -> Held:
    """The value itself."""
    return input


@operator("Dropout", since=12)
def dropout(
    lowering: Lowering,
    data: Value,
    ratio: Value | None = None,
    training_mode: Value | None = None,
    *,
    seed: int | None = None,
) -> Value | tuple[Value, ...]:
    """Nothing is dropped at inference, nor in training where the ratio is 0."""
    training = training_mode is not None and np.any(lowering.known(training_mode, "training_mode"))
    if training and (ratio is None or np.any(lowering.known(ratio, "the ratio to drop"))):
        raise UnsupportedError("the node drops entries at random (training_mode); export the model in evaluation mode")
    return _undropped(lowering, data)


@operator("Dropout", since=7)
def dropout_7(lowering: Lowering, data: Value, *, ratio: float = 0.5) -> Value | tuple[Value, ...]:
    """From opset 7 to 11 the operator always infers."""
    return _undropped(lowering, data)


@operator("Dropout", since=1)
def dropout_1(
    lowering: Lowering, data: Value, *, consumed_inputs: Any = None, is_test: int = 0, ratio: float = 0.5
) -> Value | tuple[Value, ...]:
    """Before opset 7 the mode is an attribute."""
    if not is_test:
        raise UnsupportedError("the node drops entries at random (is_test=0); export the model in evaluation mode")
    return _undropped(lowering, data)


def _undropped(lowering: Lowering, data: Value) -> Value | tuple[Value, ...]:
    return data if lowering.result_count == 1 else (data, np.ones(data.shape, np.bool_))


@operator("Shape", since=15)
def shape(lowering: Lowering, data: Value, *, start: int = 0, end: int | None = None) -> Value:
    """The sizes, or those of the axes from `start` to `end`."""
    return np.asarray(data.shape[start:end], np.int64)


@operator("Shape", since=1)
def shape_1(lowering: Lowering, data: Value) -> Value:
    """The sizes."""
    return shape(lowering, data)


@operator("Size")
def size(lowering: Lowering, data: Value) -> Value:
    """The number of entries."""
    return np.asarray(math.prod(data.shape), np.int64)


@operator("ConstantOfShape")
def constant_of_shape(lowering: Lowering, input: Value, *, value: np.ndarray | None = None) -> Value:
    """One number everywhere."""
    number = np.zeros(1, np.float32) if value is None else value
    shape = lowering.integers(input, "the shape")
    lowering.limits.check_known(shape, number.dtype)
    return np.full(shape, number.reshape(()))


@operator("EyeLike", since=9)
def eye_like(lowering: Lowering, input: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    """1 on a diagonal, 0 elsewhere, in the shape of a matrix."""
    rows, columns = input.shape
    lowering.limits.check_known(input.shape, np.float64)
    return np.eye(rows, columns, k, input.dtype if dtype is None else element_type(dtype))


@operator("Range")
def range_(lowering: Lowering, start: Value, limit: Value, delta: Value) -> Value:
    """Numbers from `start` up to `limit` by steps of `delta`."""
    low, high, step = (lowering.known(bound, "the number of entries").item() for bound in (start, limit, delta))
    lowering.limits.check_known((max(0, math.ceil((high - low) / step)),), start.dtype)
    return np.arange(low, high, step, dtype=start.dtype)


@operator("Reshape", since=14)
def reshape(lowering: Lowering, data: Value, shape: Value, *, allowzero: int = 0) -> Value:
    """Another shape; 0 keeps a size unless `allowzero`, -1 stands for what is left."""
    return _reshape(lowering, data, lowering.integers(shape, "the shape to reshape to"), bool(allowzero))


@operator("Reshape", since=5)
def reshape_5(lowering: Lowering, data: Value, shape: Value) -> Value:
    """Before opset 14, 0 always keeps a size."""
    return reshape(lowering, data, shape)


@operator("Reshape", since=1)
def reshape_1(lowering: Lowering, data: Value, *, shape: Sequence[int] = (), consumed_inputs: Any = None) -> Value:
    """Before opset 5 the shape is an attribute."""
    return _reshape(lowering, data, tuple(shape), False)


def _reshape(lowering: Lowering, data: Value, wanted: Sequence[int], allow_zero: bool) -> Value:
    sizes = [data.shape[i] if size == 0 and not allow_zero else size for i, size in enumerate(wanted)]
    if -1 in sizes:
        others = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = math.prod(data.shape) // others if others else 0
    return lowering.reshape(data, sizes)


@operator("Flatten")
def flatten(lowering: Lowering, input: Value, *, axis: int = 1) -> Value:
    """Two axes: those before `axis` together, and those from it on."""
    rank = len(input.shape)
    split = rank if axis == rank else from_front(axis, rank)
    return lowering.reshape(input, (math.prod(input.shape[:split]), math.prod(input.shape[split:])))


@operator("Squeeze", since=13)
def squeeze(lowering: Lowering, data: Value, axes: Value | None = None) -> Value:
    """Without the given axes of size 1; without all of them if none is given."""
    return squeeze_1(lowering, data, axes=None if axes is None else lowering.integers(axes, "the axes to squeeze"))


@operator("Squeeze", since=1)
def squeeze_1(lowering: Lowering, data: Value, *, axes: Sequence[int] | None = None) -> Value:
    """Before opset 13 the axes are an attribute."""
    rank = len(data.shape)
    ones = [axis for axis, size in enumerate(data.shape) if size == 1]
    dropped = ones if axes is None else [from_front(axis, rank) for axis in axes]
    if not set(dropped) <= set(ones):
        raise ModelError(f"axes {tuple(dropped)} of shape {data.shape} are not all of size 1")
    return lowering.reshape(data, [size for axis, size in enumerate(data.shape) if axis not in dropped])


@operator("Unsqueeze", since=13)
def unsqueeze(lowering: Lowering, data: Value, axes: Value) -> Value:
    """With new axes of size 1 at the given positions of the result."""
    return unsqueeze_1(lowering, data, axes=lowering.integers(axes, "the axes to insert"))


@operator("Unsqueeze", since=1)
def unsqueeze_1(lowering: Lowering, data: Value, *, axes: Sequence[int]) -> Value:
    """Before opset 13 the axes are an attribute."""
    rank = len(data.shape) + len(axes)
    inserted, sizes = each_from_front(axes, rank), iter(data.shape)
    return lowering.reshape(data, [1 if axis in inserted else next(sizes) for axis in range(rank)])


@operator("Transpose")
def transpose(lowering: Lowering, data: Value, *, perm: Sequence[int] | None = None) -> Value:
    """Axes in another order; reversed if none is given. Torch's older exporter counts some from the end."""
    rank = len(data.shape)
    order = tuple(reversed(range(rank))) if not perm else each_from_front(perm, rank)
    if len(order) != rank:
        raise ModelError(f"perm={list(perm or ())} is no order of the {rank} axes of what is transposed")
    return lowering.transpose(data, order)


@operator("Expand")
def expand(lowering: Lowering, input: Value, shape: Value) -> Value:
    """Copies along axes of size 1, as broadcasting makes them."""
    result = np.broadcast_shapes(input.shape, lowering.integers(shape, "the shape to expand to"))
    return input if result == input.shape else lowering.emit("expand", input, shape=result)


@operator("Tile", since=6)
def tile(lowering: Lowering, input: Value, repeats: Value) -> Value:
    """Copies of the whole value one after the other along each axis."""
    counts = lowering.integers(repeats, "the number of copies")
    if all(count == 1 for count in counts):
        return input
    pairs = [(1, size) for size in input.shape]
    copies = lowering.reshape(input, [n for pair in pairs for n in pair])
    wide = [n for count, size in zip(counts, input.shape, strict=True) for n in (count, size)]
    result = [count * size for count, size in zip(counts, input.shape, strict=True)]
    return lowering.reshape(lowering.emit("expand", copies, shape=tuple(wide)), result)


@operator("Concat", since=4)
def concat(lowering: Lowering, *inputs: Value, axis: int) -> Value:
    """Values one after the other along an axis."""
    axis = from_front(axis, len(inputs[0].shape))
    return inputs[0] if len(inputs) == 1 else lowering.concat(inputs, axis)


@operator("Concat", since=1)
def concat_1(lowering: Lowering, *inputs: Value, axis: int = 1) -> Value:
    """Before opset 4 the axis may be left out."""
    return concat(lowering, *inputs, axis=axis)


@operator("DepthToSpace")
def depth_to_space(lowering: Lowering, input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Channels rearranged into blocks of the image; in a channel's number the block comes first (DCR) or last (CRD)."""
    n, channels, height, width = input.shape
    depth, block = channels // blocksize**2, (blocksize, blocksize)
    split, perm = {
        "DCR": ((n, *block, depth, height, width), (0, 3, 4, 1, 5, 2)),
        "CRD": ((n, depth, *block, height, width), (0, 1, 4, 2, 5, 3)),
    }[mode]
    blocks = lowering.transpose(lowering.reshape(input, split), perm)
    return lowering.reshape(blocks, (n, depth, height * blocksize, width * blocksize))


@operator("SpaceToDepth")
def space_to_depth(lowering: Lowering, input: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    """Blocks of the image rearranged into channels, the inverse of DepthToSpace."""
    n, channels, height, width = input.shape
    rows, columns = height // blocksize, width // blocksize
    blocks = lowering.reshape(input, (n, channels, rows, blocksize, columns, blocksize))
    perm = {"DCR": (0, 3, 5, 1, 2, 4), "CRD": (0, 1, 3, 5, 2, 4)}[mode]
    return lowering.reshape(lowering.transpose(blocks, perm), (n, channels * blocksize**2, rows, columns))
