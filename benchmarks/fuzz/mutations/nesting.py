"""Graphs inside graphs: loops in loops, branches in branches, functions in functions and in the bodies of loops."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..corpus import graph, node
from .picking import Generator, pick
from .unfolding import inserted

_CARRIED = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "s": (TensorProto.FLOAT, [])}
_COUNTS = (0, 1, 2, 3, 10, 1000, 2**20, 2**20 + 1, 2**40, 2**62, -1)


def _known(model: onnx.ModelProto, **values: object) -> None:
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))


def _renamed(level: int) -> dict[str, tuple[int, list[int]]]:
    return {f"{name}{level}": declared for name, declared in _CARRIED.items()}


def loops_in_loops(model: onnx.ModelProto, rng: Generator) -> None:
    """A loop whose body is a loop whose body is a loop; their lengths multiply."""
    depth, counts = int(pick(rng, (2, 3, 5, 12, 20))), [pick(rng, _COUNTS) for _ in range(3)]
    _known(model, yes=True, **{f"count{i}": count for i, count in enumerate(counts)})
    inner = [node(pick(rng, ("Tanh", "Identity", "Neg")), [f"s{depth}"], [f"u{depth}"])]
    for level in range(depth, 0, -1):
        outputs = [f"c{level}", f"u{level}", *([f"s{level}"] if rng.random() < 0.3 else [])]
        body = graph(inner, _renamed(level), outputs)
        results = [f"u{level - 1}", *(f"all{level}" for _ in outputs[2:])]
        given = [f"count{int(rng.integers(3))}", "yes", f"s{level - 1}"]
        inner = [node("Loop", given, results, body=body)]
    inner[0].output[0], inner[0].input[2] = "looped", "start"
    inserted(model, rng, inner, "start", "looped")


def branches_in_branches(model: onnx.ModelProto, rng: Generator) -> None:
    """A choice in a branch of a choice, known or not; branches may disagree in type, shape or count."""
    depth = int(pick(rng, (2, 4, 8, 14, 20)))
    _known(model, yes=True, zero=np.float32(0), new=np.array([0]))
    others = (("Neg", ["start"]), ("Shape", ["start"]), ("Unsqueeze", ["start", "new"]), ("Nothing", ["start"]))
    operator, read = pick(rng, others)
    other = graph([node(operator, read, ["other"])], {}, ["other"])
    inner = [node("Relu", ["start"], ["chosen"])]
    condition = pick(rng, ("yes", "decided"))
    for _ in range(depth):
        branch = graph(inner, {}, ["chosen"] * (1 + int(rng.random() < 0.05)))
        inner = [node("If", [condition], ["chosen"], then_branch=branch, else_branch=other)]
    decided = [node("ReduceMax", ["start"], ["largest"], keepdims=0), node("Greater", ["largest", "zero"], ["decided"])]
    reader = pick(rng, [each for each in model.graph.node if any(each.input)])
    start = next(name for name in reader.input if name)
    rest = [node("Identity", [start], ["start"]), *decided, *inner]
    inserted(model, rng, rest, "nothing", "chosen")


def functions_in_functions(model: onnx.ModelProto, rng: Generator) -> None:
    """Functions one inside the other, through the bodies of loops and branches of choices."""
    depth, count = int(pick(rng, (2, 5, 20, 40, 300))), pick(rng, _COUNTS)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("n", 1)]
    _known(model, count=count)
    for level in range(depth):
        last = level + 1 == depth
        call = node("Tanh", ["s"], ["u"]) if last else node(f"n{level + 1}", ["s"], ["u"], domain="n")
        body = graph([call], _CARRIED, ["c", "u"])
        known = [
            node("Constant", [], ["m"], value_int=int(np.clip(count, -1, 2**62))),
            node("Constant", [], ["t"], value=numpy_helper.from_array(np.array(True))),
        ]
        looped = [*known, node("Loop", ["m", "t", "a"], ["b"], body=body)]
        chosen = [*known, node("If", ["t"], ["b"], then_branch=_branch(call), else_branch=_branch(call))]
        plain = [node(call.op_type, ["a"], ["b"], domain=call.domain)]
        nodes = pick(rng, (looped, chosen, plain))
        model.functions.append(helper.make_function("n", f"n{level}", ["a"], ["b"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("n", 1))
    inserted(model, rng, [node("n0", ["start"], ["called"], domain="n")], "start", "called")


def _branch(call: onnx.NodeProto) -> onnx.GraphProto:
    inner = onnx.NodeProto()
    inner.CopyFrom(call)
    inner.input[0] = "a"
    return graph([inner], {}, ["u"])
