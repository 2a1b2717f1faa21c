"""What a tensor or a value claims to be: sizes, types, places of data."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .picking import ABSURD, Generator, pick, tensors

LOCATIONS = (
    "weights.bin",
    "../secret.bin",
    "/etc/passwd",
    "link.bin",
    "up/secret.bin",
    "/dev/zero",
    "/proc/self/mem",
    "pipe",
    "device",
    ".",
    "",
    "weights.bin\0",
    "a" * 5000,
    "../" * 2000 + "etc/passwd",
    "loop/loop/loop",
    "~/x",
    "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
)


def absurd_dims(model: onnx.ModelProto, rng: Generator) -> None:
    """A size of a tensor."""
    tensor = pick(rng, tensors(model))
    if tensor.dims and rng.random() < 0.8:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = pick(rng, ABSURD)
    else:
        tensor.dims.extend([pick(rng, ABSURD)] * int(pick(rng, (1, 2, 40, 2000))))


def absurd_input(model: onnx.ModelProto, rng: Generator) -> None:
    """A size, a type or the rank of an input."""
    declared = pick(rng, model.graph.input).type.tensor_type
    choice = rng.integers(3)
    if choice == 0 and declared.shape.dim:
        pick(rng, declared.shape.dim).dim_value = pick(rng, ABSURD)
    elif choice == 1:
        declared.elem_type = int(rng.integers(-1, 30))
    else:
        for _ in range(int(pick(rng, (1, 40, 1000)))):
            declared.shape.dim.add().dim_value = 1


def absurd_type(model: onnx.ModelProto, rng: Generator) -> None:
    """The type code of a tensor."""
    pick(rng, tensors(model)).data_type = int(pick(rng, (*range(30), 999, -1)))


def absurd_integers(model: onnx.ModelProto, rng: Generator) -> None:
    """An entry of a tensor of integers: a shape, a count, a position."""
    tensor = pick(rng, [each for each in tensors(model) if each.data_type in (TensorProto.INT64, TensorProto.INT32)])
    array = numpy_helper.to_array(tensor).copy()
    limits = np.iinfo(array.dtype)
    array.reshape(-1)[int(rng.integers(array.size))] = np.clip(pick(rng, ABSURD), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def absurd_floats(model: onnx.ModelProto, rng: Generator) -> None:
    """Entries of a tensor that are no numbers."""
    tensor = pick(rng, [each for each in tensors(model) if each.data_type == TensorProto.FLOAT])
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[:: int(rng.integers(1, 4))] = pick(rng, (np.nan, np.inf, -np.inf, 1e38, 1e9, 0))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def lost_data(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor without its data, or with some of another type's."""
    tensor = pick(rng, tensors(model))
    tensor.ClearField(pick(rng, ("raw_data", "float_data", "int64_data", "dims", "data_type", "name")))
    if rng.random() < 0.3:
        tensor.string_data.append(b"\xff" * 10)


def doubled_data(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor with its data twice, or with a byte too many or too few."""
    tensor = pick(rng, tensors(model))
    field, value = pick(rng, (("float_data", 1.0), ("int32_data", 1), ("int64_data", 1), ("string_data", b"x")))
    choice = rng.integers(3)
    if choice == 0:
        getattr(tensor, field).append(value)
    elif choice == 1:
        tensor.raw_data += b"\0" * int(pick(rng, (1, 4, 8, 1000)))
    else:
        tensor.raw_data = tensor.raw_data[: -int(pick(rng, (1, 4, 8)))]


def outside_data(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor said to lie in another file."""
    tensor = pick(rng, tensors(model))
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.9:
        tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=pick(rng, LOCATIONS))
    for key in ("offset", "length", "checksum"):
        if rng.random() < 0.4:
            tensor.external_data.add(key=key, value=str(pick(rng, (*ABSURD, 8, 48, "x", "1e3", "", "9" * 5000))))
