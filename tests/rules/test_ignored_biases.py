"""bias="ignore" leaves nothing to any bias: no operation that has one books a share of it, and the books close."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import helper

from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.ir import Program
from backtrace_jax.ops import SOFTMAX
from backtrace_jax.passes import simplify, with_float_type
from backtrace_jax.rules import MODES, find_mode, mode
from tests.importers.explaining import network
from tests.importers.nodes import floats
from tests.rules.running import DOUBLE, Walked, assert_books_close, walk_back

PICTURE, ROW, SERIES = floats(1, 4, 3, 3), floats(1, 4, seed=1), floats(1, 3, 4, seed=2)
INPUTS = {"picture": PICTURE, "row": ROW, "series": SERIES}
MICROSOFT = "com.microsoft"


def cell(gates: int) -> tuple[np.ndarray, ...]:
    """Weights, recurrent weights and biases of two units."""
    return floats(1, 2 * gates, 4, seed=3), floats(1, 2 * gates, 2, seed=4), floats(1, 4 * gates, seed=5)


VECTOR = floats(4, seed=6)
CASES: dict[str, tuple[str, str, tuple[np.ndarray, ...], dict[str, Any]]] = {
    "dense": ("Gemm", "row", (floats(4, 3, seed=7), floats(3, seed=8)), {}),
    "dense, half a bias": ("Gemm", "row", (floats(4, 3, seed=14), floats(3, seed=8)), {"beta": 0.5}),
    "convolution": ("Conv", "picture", (floats(2, 4, 2, 2, seed=9), floats(2, seed=10)), {}),
    "transposed convolution": ("ConvTranspose", "picture", (floats(4, 2, 2, 2, seed=9), floats(2, seed=10)), {}),
    "batch norm": ("BatchNormalization", "picture", (VECTOR, VECTOR + 1, VECTOR / 2, np.abs(VECTOR) + 1), {}),
    "layer norm": ("LayerNormalization", "series", (VECTOR, VECTOR + 1), {}),
    "group norm": ("GroupNormalization", "picture", (VECTOR, VECTOR + 1), {"num_groups": 2}),
    "instance norm": ("InstanceNormalization", "picture", (VECTOR, VECTOR + 1), {}),
    "LSTM": ("LSTM", "series", cell(4), {"hidden_size": 2}),
    "GRU": ("GRU", "series", cell(3), {"hidden_size": 2, "linear_before_reset": 1}),
    "attention": ("Attention", "series", (floats(4, 12, seed=11), floats(12, seed=12)), {"num_heads": 2}),
    "norm of a residual": ("SkipLayerNormalization", "series", (SERIES, VECTOR, VECTOR + 1), {}),
    "fused dense": ("FusedGemm", "row", (floats(4, 3, seed=15), floats(3, seed=8)), {"activation": "Tanh"}),
    "fused convolution": (
        "FusedConv",
        "picture",
        (floats(2, 4, 2, 2, seed=17), floats(2, seed=10)),
        {"activation": "Relu"},
    ),
    "fused GELU": ("GemmFastGelu", "row", (floats(4, 3, seed=16), floats(3, seed=8)), {}),
}
MICROSOFTS = ("Attention", "SkipLayerNormalization", "FusedGemm", "FusedConv", "GemmFastGelu")


@cache
def program() -> Program:
    """Every operation that has a bias, side by side, weighed without one."""
    nodes, weights, ends = [], {}, []
    for number, (op, source, operands, settings) in enumerate(CASES.values()):
        names = [f"w{number}_{i}" for i in range(len(operands))]
        weights.update(zip(names, operands, strict=True))
        domain = MICROSOFT if op in MICROSOFTS else ""
        nodes.append(helper.make_node(op, [source, *names], [f"r{number}"], name=op, domain=domain, **settings))
        nodes.append(helper.make_node("Reshape", [f"r{number}", "flat"], [f"f{number}"]))
        ends.append(f"f{number}")
    nodes.append(helper.make_node("Concat", ends, ["all"], axis=1))
    nodes.append(helper.make_node("MatMul", ["all", "head"], ["y"]))
    weights["flat"] = np.array([1, -1])
    model = network(nodes, INPUTS, opset=21, head=floats(216, 2, seed=13), **weights)
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return simplify(with_float_type(lower(load(model), {k: v.shape for k, v in INPUTS.items()}), DOUBLE))


def booked(found: Walked) -> dict[str, float]:
    """Shares of biases, in magnitude, by the operator that has one; a softmax' remainder is no share of a bias."""
    shares: dict[str, float] = {}
    own = found.books.absolute[:, 2].reshape(len(found.plan.nodes), -1).sum(1)  # of both channels, in pairs
    rows = dict(zip(found.plan.nodes, own, strict=True))
    for step in found.plan.steps:
        if step.kind != SOFTMAX:
            operator = step.eqn.source.operator.rpartition(".")[2]
            shares[operator] = shares.get(operator, 0) + sum(rows[name] for name in step.nodes)
    return shares


def walked(name: str, **options: str) -> Walked:
    start = np.array([[1.0, 0.5]])
    start = np.stack([start, start / 2]) if find_mode(name).paired else start
    rows = {name: array.astype(np.float64) for name, array in INPUTS.items()}
    return walk_back(program(), rows, start, mode=mode(name, **options))


TAKING = [name for name in MODES if "bias" in MODES[name].defaults]


@pytest.mark.parametrize("name", TAKING)
def test_nothing_is_booked_for_a_bias(name):
    ignored = walked(name, bias="ignore")
    assert_books_close(ignored.books)
    assert {operator: share for operator, share in booked(ignored).items() if share} == {}


def test_a_bias_that_is_kept_is_booked():
    """Or the test above could not fail: each of these operations has one."""
    kept = booked(walked("lrp-epsilon", bias="keep"))
    assert {op for op, *_ in CASES.values() if not kept[op]} == set()
