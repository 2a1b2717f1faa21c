"""The files that mutations start from.

They are models of ONNX's own, the demo's, small ones that use every way to say something, saved explanations, and Keras
files.

A corpus is a dict of files by name, the same in every process. A name begins with the family of the file. `full=False`
leaves out ONNX's node cases, which take seconds to make, and Keras files, which take seconds to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGEST_BASE = 250_000  # bytes of a model worth mutating: larger ones hold weights above all

node = helper.make_node


@cache
def corpus(full: bool = True) -> Mapping[str, bytes]:
    """Serialised models by name, in a fixed order."""
    found = {**dict(_handmade()), **dict(_stored()), **dict(_files("saved", "*.npz"))}
    if full:
        found |= {**dict(_node_cases()), **dict(_files("keras", "*.keras")), **dict(_files("keras", "*.h5"))}
    return {name: found[name] for name in sorted(found) if 0 < len(found[name]) <= LARGEST_BASE}


def _node_cases() -> Iterator[tuple[str, bytes]]:
    from tests.importers.cases import cases

    for name, case in cases("node").items():
        if case.model is not None:
            yield f"node/{name}", case.model.SerializeToString()


def _stored() -> Iterator[tuple[str, bytes]]:
    import onnx.backend.test

    data = Path(onnx.backend.test.__file__).parent / "data"
    demo = Path(__file__).parents[2] / "backtrace_jax" / "demo"
    for path in sorted([*data.glob("light/*.onnx"), *data.glob("*/*/model.onnx"), *demo.glob("*.onnx")]):
        yield f"stored/{path.parent.name}-{path.stem}", path.read_bytes()


def _files(family: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted((Path(__file__).parent / "files").glob(pattern)):
        yield f"{family}/{path.name}", path.read_bytes()


def weights(*shape: int) -> np.ndarray:
    """Small numbers of both signs."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    known: Mapping[str, Any] | None = None,
    shape: tuple[int | str, ...] = ("batch", 4),
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    """A model from the input x to the output y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (known or {}).items()]
    graph = helper.make_graph(nodes, "small", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def external(name: str, location: str = "weights.bin", dims: tuple[int, ...] = (4, 3), **entries: int) -> TensorProto:
    """A float tensor that lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _handmade() -> Iterator[tuple[str, bytes]]:
    for name, made in (*_networks(), *_growing(), *_controlled()):
        yield f"handmade/{name}", made.SerializeToString()


def _networks() -> Iterator[tuple[str, onnx.ModelProto]]:
    dense = [node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    yield "dense", model(dense, {"w": weights(4, 6), "b": weights(6), "v": weights(6, 3)})
    spatial = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "b", "b", "b", "s"], ["n"]),
        node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p", "", "scales"], ["z"], mode="linear"),
        node("Flatten", ["z"], ["y"]),
    ]
    known = {"w": weights(3, 2, 3, 3), "b": weights(3), "s": np.ones(3, np.float32)}
    yield "spatial", model(spatial, known | {"scales": np.array([1, 1, 2, 2], np.float32)}, ("batch", 2, 6, 6))
    lstm = [node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=3), node("Flatten", ["h"], ["y"])]
    yield "lstm", model(lstm, {"w": weights(1, 12, 4), "r": weights(1, 12, 3)}, (5, "batch", 4))
    einsum = [node("Einsum", ["x", "w"], ["e"], equation="bi,ij->bj"), node("Softmax", ["e"], ["y"])]
    yield "einsum", model(einsum, {"w": weights(4, 3)})
    split = [node("Split", ["x"], ["a", "b"], num_outputs=2), node("Concat", ["b", "a"], ["y"], axis=-1)]
    yield "split", model(split)
    outside = model(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["x", "v"], ["k"]), node("Add", ["h", "k"], ["y"])]
    )
    outside.graph.initializer.extend([external("w", offset=8), external("v", offset=16, length=48)])
    yield "external", outside


def _growing() -> Iterator[tuple[str, onnx.ModelProto]]:
    """A known value whose size a few integers decide, added to the input."""
    integers, number = np.array([1, 4]), np.ones((1, 1), np.float32)
    table = {
        "constant_of_shape": ([node("ConstantOfShape", ["n"], ["k"])], {"n": integers}),
        "expand": ([node("Expand", ["o", "n"], ["k"])], {"n": integers, "o": number}),
        "tile": ([node("Tile", ["o", "n"], ["k"])], {"n": integers, "o": number}),
        "pad": ([node("Pad", ["o", "n"], ["k"])], {"n": np.array([0, 0, 0, 3]), "o": number}),
        "one_hot": ([node("OneHot", ["i", "d", "v"], ["k"])], {"i": np.array([1]), "d": np.array(4), "v": weights(2)}),
        "resize": ([node("Resize", ["o", "", "", "n"], ["k"])], {"n": integers, "o": number}),
        "eye": ([node("EyeLike", ["o"], ["e"]), node("Tile", ["e", "n"], ["k"])], {"n": integers, "o": number}),
        "range": (
            [node("Range", ["a", "d", "s"], ["i"]), node("Cast", ["i"], ["k"], to=1)],
            {"a": np.array(0), "d": np.array(4), "s": np.array(1)},
        ),
        "window": ([node("HannWindow", ["d"], ["k"])], {"d": np.array(4)}),
    }
    for name, (nodes, known) in table.items():
        yield name, model([*nodes, node("Add", ["x", "k"], ["y"])], known)
    moved = {"expand": "Expand", "tile": "Tile"}
    for name, operator in moved.items():
        yield f"{name}_input", model([node(operator, ["x", "n"], ["y"])], {"n": np.array([1, 1])})
    pads = {"n": np.array([0, 0, 0, 3])}
    yield "pad_input", model([node("Pad", ["x", "n"], ["y"], mode="reflect")], pads)


def graph(
    nodes: list[onnx.NodeProto], inputs: Mapping[str, tuple[int, list[int]]], outputs: list[str]
) -> onnx.GraphProto:
    """A sub-graph."""
    given = [helper.make_tensor_value_info(name, *declared) for name, declared in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(nodes, "body", given, results)


def _controlled() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Branches, loops, functions and sequences."""
    branches: dict[str, Any] = {
        "then_branch": graph([node("Relu", ["x"], ["t"])], {}, ["t"]),
        "else_branch": graph([node("Neg", ["x"], ["e"])], {}, ["e"]),
    }
    yield "if_known", model([node("If", ["c"], ["y"], **branches)], {"c": np.array(True)})
    decided = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "o"], ["c"])]
    yield "if", model([*decided, node("If", ["c"], ["y"], **branches)], {"o": np.array(0, np.float32)})
    carried = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [1, 4])}
    body = graph(
        [node("Identity", ["c"], ["d"]), node("Tanh", ["s"], ["u"]), node("Abs", ["s"], ["a"])],
        carried,
        ["d", "u", "a"],
    )
    loop = [node("Loop", ["m", "t", "x"], ["z", "all"], body=body), node("ReduceSum", ["all", "axes"], ["y"])]
    yield "loop", model(loop, {"m": np.array(3), "t": np.array(True), "axes": np.array([0])}, (1, 4))
    while_ = [node("Loop", ["", "t", "x"], ["y", "all"], body=body)]
    yield "loop_without_bound", model(while_, {"t": np.array(True)}, (1, 4))
    grown = graph([node("Identity", ["c"], ["d"]), node("Concat", ["s", "s"], ["u"], axis=0)], carried, ["d", "u"])
    yield (
        "loop_growing",
        model([node("Loop", ["m", "t", "x"], ["y"], body=grown)], {"m": np.array(3), "t": np.array(True)}, (1, 4)),
    )
    step = graph(
        [node("Add", ["s", "e"], ["u"]), node("Relu", ["u"], ["o"])], {"s": (1, [4]), "e": (1, [4])}, ["u", "o"]
    )
    scan = [node("Scan", ["z", "x"], ["last", "y"], body=step, num_scan_inputs=1)]
    yield "scan", model(scan, {"z": np.zeros(4, np.float32)}, (5, 4))
    yield "functions", model([node("twice", ["x"], ["y"], domain="local")], functions=list(_functions()))
    sequence = [node("SequenceConstruct", ["x", "x"], ["q"]), node("ConcatFromSequence", ["q"], ["y"], axis=1)]
    yield "sequence", model(sequence)


def _functions() -> Iterator[onnx.FunctionProto]:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    once = [node("LeakyRelu", ["a"], ["b"], name="inner")]
    once[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    yield helper.make_function("local", "once", ["a"], ["b"], once, opsets, ["slope"])
    calls = [
        node("once", ["a"], ["m"], domain="local", slope=0.1),
        node("once", ["m"], ["b"], domain="local", slope=0.2),
    ]
    yield helper.make_function("local", "twice", ["a"], ["b"], calls, opsets)
