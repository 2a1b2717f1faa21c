"""Mutations of a serialised model: of its bytes, of the message, and of what the message claims."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from .corpus import graph, node

Generator: TypeAlias = np.random.Generator

ABSURD = (0, 1, -1, -2, 3, 2**16, 2**20, 2**24, 2**28, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63 - 1, -(2**63))
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
TEXTS = ("", "\0x", "x", "y", "a" * 100_000, "\x1b[2J", "../../x", "%s%n", "é\n", "{0.__class__}", "__class__")


def _pick(rng: Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of the graph, of its sub-graphs and of functions."""
    waiting: list[Any] = [model.graph, *model.functions]
    found = []
    while waiting:
        current = waiting.pop()
        found += current.node
        waiting += [attribute.g for each in current.node for attribute in each.attribute if attribute.HasField("g")]
    return found


def _tensors(model: onnx.ModelProto) -> list[TensorProto]:
    held = [attribute.t for each in _nodes(model) for attribute in each.attribute if attribute.HasField("t")]
    return [*model.graph.initializer, *held]


def _attributes(model: onnx.ModelProto) -> list[AttributeProto]:
    return [attribute for each in _nodes(model) for attribute in each.attribute]


def _names(model: onnx.ModelProto) -> list[str]:
    return [name for each in _nodes(model) for name in (*each.input, *each.output)] + [
        i.name for i in model.graph.initializer
    ]


# What a tensor or a value claims to be


def absurd_dims(model: onnx.ModelProto, rng: Generator) -> None:
    """A size of a tensor."""
    tensor = _pick(rng, _tensors(model))
    if tensor.dims and rng.random() < 0.8:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = _pick(rng, ABSURD)
    else:
        tensor.dims.extend([_pick(rng, ABSURD)] * int(_pick(rng, (1, 2, 40, 2000))))


def absurd_input(model: onnx.ModelProto, rng: Generator) -> None:
    """A size, a type or the rank of an input."""
    declared = _pick(rng, model.graph.input).type.tensor_type
    choice = rng.integers(3)
    if choice == 0 and declared.shape.dim:
        _pick(rng, declared.shape.dim).dim_value = _pick(rng, ABSURD)
    elif choice == 1:
        declared.elem_type = int(rng.integers(-1, 30))
    else:
        for _ in range(int(_pick(rng, (1, 40, 1000)))):
            declared.shape.dim.add().dim_value = 1


def absurd_type(model: onnx.ModelProto, rng: Generator) -> None:
    """The type code of a tensor."""
    _pick(rng, _tensors(model)).data_type = int(_pick(rng, (*range(30), 999, -1)))


def absurd_integers(model: onnx.ModelProto, rng: Generator) -> None:
    """An entry of a tensor of integers: a shape, a count, a position."""
    tensors = [each for each in _tensors(model) if each.data_type in (TensorProto.INT64, TensorProto.INT32)]
    tensor = _pick(rng, tensors)
    array = numpy_helper.to_array(tensor).copy()
    limits = np.iinfo(array.dtype)
    array.reshape(-1)[int(rng.integers(array.size))] = np.clip(_pick(rng, ABSURD), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def absurd_floats(model: onnx.ModelProto, rng: Generator) -> None:
    """Entries of a tensor that are no numbers."""
    tensors = [each for each in _tensors(model) if each.data_type == TensorProto.FLOAT]
    tensor = _pick(rng, tensors)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[:: int(rng.integers(1, 4))] = _pick(rng, (np.nan, np.inf, -np.inf, 1e38, 1e9, 0))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def lost_data(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor without its data, or with some of another type's."""
    tensor = _pick(rng, _tensors(model))
    tensor.ClearField(_pick(rng, ("raw_data", "float_data", "int64_data", "dims", "data_type", "name")))
    if rng.random() < 0.3:
        tensor.string_data.append(b"\xff" * 10)


def outside_data(model: onnx.ModelProto, rng: Generator) -> None:
    """A tensor said to lie in another file."""
    tensor = _pick(rng, _tensors(model))
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.9:
        tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=_pick(rng, LOCATIONS))
    for key in ("offset", "length", "checksum"):
        if rng.random() < 0.4:
            tensor.external_data.add(key=key, value=str(_pick(rng, (*ABSURD, 8, 48, "x", "1e3", "", "9" * 5000))))


# Attributes


def absurd_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """The value of an attribute."""
    attribute = _pick(rng, _attributes(model))
    attribute.i = _pick(rng, ABSURD) if attribute.type == AttributeProto.INT else attribute.i
    attribute.f = _pick(rng, (np.nan, np.inf, -1.0, 1e38)) if attribute.type == AttributeProto.FLOAT else attribute.f
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = _pick(rng, ABSURD)
    if attribute.type == AttributeProto.STRING:
        attribute.s = _pick(rng, (b"", b"\xff\xfe", b"a" * 100_000, b"ij,jk,kl,lm->im", b"...i->", b"abc->cba" * 99))
    for field, kind in (("i", AttributeProto.INT), ("f", AttributeProto.FLOAT)):
        if attribute.type != kind:
            attribute.ClearField(field)


def retyped_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute of another type, in name or in deed."""
    attribute = _pick(rng, _attributes(model))
    if rng.random() < 0.3:
        attribute.type = int(rng.integers(0, 15))
        return
    values = (1, -5, 2**62, 1.5, "text", [1, 2], [1.5], ["a"], numpy_helper.from_array(np.ones(3)), np.int64(7))
    held = attribute.name
    attribute.CopyFrom(helper.make_attribute(held, _pick(rng, values)))


def lost_attribute(model: onnx.ModelProto, rng: Generator) -> None:
    """An attribute dropped, doubled or renamed."""
    owner = _pick(rng, [each for each in _nodes(model) if each.attribute])
    position, choice = int(rng.integers(len(owner.attribute))), rng.integers(4)
    if choice == 0:
        del owner.attribute[position]
    elif choice == 1:
        owner.attribute.append(owner.attribute[position])
    elif choice == 2:
        owner.attribute[position].name = _pick(rng, ("lowering", "self", "axis", "body", "", "a" * 9999))
    else:
        owner.attribute[position].ref_attr_name = "nothing"


# Names and wiring


def rewired(model: onnx.ModelProto, rng: Generator) -> None:
    """A node reads another value: one before it, one after it, or itself."""
    owner = _pick(rng, [each for each in _nodes(model) if each.input])
    owner.input[int(rng.integers(len(owner.input)))] = _pick(rng, [*_names(model), "x"])


def renamed(model: onnx.ModelProto, rng: Generator) -> None:
    """A result under another name: another value's, none, or no name at all."""
    owner = _pick(rng, [each for each in _nodes(model) if each.output])
    owner.output[int(rng.integers(len(owner.output)))] = _pick(rng, [*_names(model), *TEXTS])


def odd_text(model: onnx.ModelProto, rng: Generator) -> None:
    """A name of something that should have a decent one."""
    text, owner = _pick(rng, TEXTS), _pick(rng, _nodes(model))
    choice = rng.integers(7)
    if choice < 3:
        setattr(owner, ("name", "op_type", "domain")[choice], text)
    elif choice == 3:
        _pick(rng, model.graph.output).name = text
    elif choice == 4:
        _pick(rng, model.graph.input).name = text
    elif choice == 5:
        _pick(rng, _tensors(model)).name = text
    else:
        nested = _pick(rng, ("(" * 500 + ")" * 500, "-" * 5000 + "1", "[" * 90 + "]" * 90, "['a', 3]", "[1]" * 5000))
        owner.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=nested)


def operands(model: onnx.ModelProto, rng: Generator) -> None:
    """Operands or results dropped or added."""
    owner, field = _pick(rng, _nodes(model)), _pick(rng, ("input", "output"))
    names = list(getattr(owner, field))
    changed = _pick(
        rng, (names[:-1], names[1:], [], names * 2, [*names, ""], [*names, "extra"], ["", *names], names * 500)
    )
    owner.ClearField(field)
    getattr(owner, field).extend(changed)


def shuffled(model: onnx.ModelProto, rng: Generator) -> None:
    """Nodes dropped, doubled or in another order."""
    nodes, choice = list(model.graph.node), rng.integers(3)
    chosen = int(rng.integers(len(nodes)))
    if choice == 0:
        del nodes[chosen]
    elif choice == 1:
        nodes.insert(chosen, nodes[chosen])
    else:
        nodes = [nodes[i] for i in rng.permutation(len(nodes))]
    nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


def other_operator(model: onnx.ModelProto, rng: Generator) -> None:
    """A node that computes something else."""
    owner = _pick(rng, _nodes(model))
    owner.op_type = _pick(rng, OPERATORS)
    if rng.random() < 0.5:
        owner.ClearField("attribute")


def other_opset(model: onnx.ModelProto, rng: Generator) -> None:
    """Another version, or none, or two."""
    entry = _pick(rng, model.opset_import)
    entry.version = int(_pick(rng, (*range(-1, 30), 2**31, 2**62)))
    if rng.random() < 0.2:
        model.opset_import.add(
            domain=_pick(rng, ("", "ai.onnx", "com.microsoft", "\0")), version=int(rng.integers(1, 25))
        )


# Graphs that unfold


def _inserted(model: onnx.ModelProto, rng: Generator, nodes: list[onnx.NodeProto], first: str, last: str) -> None:
    """Put nodes between the graph's first or any value and whoever reads it."""
    reader = _pick(rng, [each for each in model.graph.node if any(each.input)])
    position = next(i for i, name in enumerate(reader.input) if name)
    nodes[0].input[:] = [reader.input[position] if name == first else name for name in nodes[0].input]
    reader.input[position] = last
    place = list(model.graph.node).index(reader)
    rest = [onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend([*rest[:place], *nodes, *rest[place:]])


def doubled(model: onnx.ModelProto, rng: Generator) -> None:
    """A value joined with itself again and again."""
    count, operator = int(_pick(rng, (8, 30, 60, 500))), _pick(rng, ("Concat", "Add", "Mul", "MatMul"))
    settings: dict[str, Any] = {"axis": 0} if operator == "Concat" else {}
    names = ["start", *(f"doubled{i}" for i in range(count))]
    nodes = [node(operator, [a, a], [b], **settings) for a, b in pairwise(names)]
    _inserted(model, rng, nodes, "start", names[-1])


def chained(model: onnx.ModelProto, rng: Generator) -> None:
    """A long chain of nodes."""
    count, operator = int(_pick(rng, (50, 500, 5000))), _pick(rng, ("Relu", "Identity", "Neg", "Shape", "Unsqueeze"))
    names = ["start", *(f"chained{i}" for i in range(count))]
    extra = ["chained_axes"] if operator == "Unsqueeze" else []
    if extra:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0]), extra[0]))
    nodes = [node(operator, [a, *extra], [b]) for a, b in pairwise(names)]
    _inserted(model, rng, nodes, "start", names[-1])


def calling_itself(model: onnx.ModelProto, rng: Generator) -> None:
    """Functions that call themselves, or two of the next level each."""
    depth = int(_pick(rng, (1, 3, 16, 40, 2000)))
    cyclic = rng.random() < 0.5
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for level in range(depth):
        inner = f"f{level + 1}" if level + 1 < depth else ("f0" if cyclic else "Relu")
        domain = "f" if inner.startswith("f") else ""
        calls = [node(inner, ["a"], ["m"], domain=domain), node(inner, ["m"], ["b"], domain=domain)]
        model.functions.append(helper.make_function("f", f"f{level}", ["a"], ["b"], calls, opsets))
    model.opset_import.append(helper.make_opsetid("f", 1))
    _inserted(model, rng, [node("f0", ["start"], ["called"], domain="f")], "start", "called")


def looping(model: onnx.ModelProto, rng: Generator) -> None:
    """A loop of very many steps."""
    carried = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [])}
    bodies = [
        [node("Identity", ["s"], ["u"])],
        [node("Concat", ["s", "s"], ["u"], axis=0)],
        [node("Tanh", ["s"], ["u"])],
        [node("Add", ["s", "s"], ["m"]), node("Unsqueeze", ["m", "loop_axes"], ["u"])],
    ]
    outputs = _pick(rng, (["c", "u"], ["c", "u", "s"], ["c", "u", "i"]))
    body = graph(_pick(rng, bodies), carried, outputs)
    for name, array in (
        ("loop_count", np.array(_pick(rng, ABSURD))),
        ("loop_axes", np.array([0])),
        ("yes", np.array(True)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    given = [_pick(rng, ("loop_count", "loop_count", "")), _pick(rng, ("yes", "")), "start"]
    results = ["looped", *(f"all{i}" for i in range(len(outputs) - 2))]
    _inserted(model, rng, [node("Loop", given, results, body=body)], "start", "looped")


STRUCTURAL: tuple[Callable[[onnx.ModelProto, Generator], None], ...] = (
    absurd_dims,
    absurd_input,
    absurd_type,
    absurd_integers,
    absurd_integers,
    absurd_integers,
    absurd_floats,
    lost_data,
    outside_data,
    absurd_attribute,
    absurd_attribute,
    absurd_attribute,
    retyped_attribute,
    lost_attribute,
    rewired,
    renamed,
    odd_text,
    operands,
    shuffled,
    other_operator,
    other_opset,
    doubled,
    chained,
    calling_itself,
    looping,
)


# Bytes


def flipped(data: bytes, rng: Generator) -> bytes:
    """Some bytes are others."""
    array = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(len(array), size=int(_pick(rng, (1, 2, 8, 64))))
    array[places] = rng.integers(256, size=len(places))
    return array.tobytes()


def truncated(data: bytes, rng: Generator) -> bytes:
    """The file ends early."""
    return data[: int(rng.integers(len(data)))]


def spliced(data: bytes, rng: Generator) -> bytes:
    """A part cut out, put in again elsewhere, or repeated."""
    low, high = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    place = int(rng.integers(len(data) + 1))
    return _pick(rng, (data[:low] + data[high:], data[:place] + data[low:high] + data[place:], data + data[low:] * 3))


def stuffed(data: bytes, rng: Generator) -> bytes:
    """A number with all its bits set, or noise, in the middle."""
    place = int(rng.integers(len(data) + 1))
    noise = rng.integers(256, size=20, dtype=np.uint8).tobytes()
    return data[:place] + _pick(rng, (b"\xff" * 9 + b"\x01", b"\x80" * 40, noise, b"\0" * 1000)) + data[place:]


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field on the wire."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def nested(data: bytes, rng: Generator) -> bytes:
    """An If in an If in an If: graph 7 -> node 1 -> attribute 5 -> g 6."""
    inner = node("Identity", ["yes"], ["t"]).SerializeToString()
    other = _field(1, inner) + _field(12, _field(1, b"t"))
    for _ in range(int(_pick(rng, (2, 20, 30, 34, 200, 10_000)))):
        branches = {b"then_branch": _field(1, inner) + _field(12, _field(1, b"t")), b"else_branch": other}
        graphs = [_field(1, name) + b"\xa0\x01\x05" + _field(6, branch) for name, branch in branches.items()]
        attributes = b"".join(_field(5, each) for each in graphs)
        inner = _field(1, b"yes") + _field(2, b"t") + _field(4, b"If") + attributes
    yes = numpy_helper.from_array(np.array(True), "yes").SerializeToString()
    return data + _field(7, _field(1, inner) + _field(5, yes))


def crowded(data: bytes, rng: Generator) -> bytes:
    """Very many empty messages in few bytes."""
    count = int(_pick(rng, (1000, 200_000)))
    return data + _field(7, _field(int(_pick(rng, (1, 5, 11, 12, 13))), b"") * count)


BYTES = (flipped, flipped, truncated, spliced, stuffed, nested, crowded)


def mutate(data: bytes, rng: Generator) -> tuple[bytes, list[str]]:
    """A hostile file from an honest one, and the names of what was done to it."""
    names = []
    for _ in range(int(rng.integers(1, 4))):
        try:
            model = onnx.ModelProto.FromString(data) if rng.random() < 0.88 else None
        except DecodeError:
            model = None
        if model is None:
            change = _pick(rng, BYTES)
            data = change(data, rng) if data else data
        else:
            change = _pick(rng, STRUCTURAL)
            data = _changed(model, change, rng, data)
        names.append(change.__name__)
    return data, names


def _changed(model: onnx.ModelProto, change: Callable[..., None], rng: Generator, data: bytes) -> bytes:
    """The model after a change, or as it was where there is nothing to change like that."""
    try:
        change(model, rng)
        return model.SerializeToString()
    except Exception:  # an earlier mutation left nothing to pick, or text that cannot be written
        return data
