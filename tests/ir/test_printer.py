"""Graphs print the way jaxprs read."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from backtrace_jax.ir import Graph, Source
from backtrace_jax.ir.graph import Eqn, Var, format_dtype
from backtrace_jax.passes.build import Builder

F32 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "text"),
    [(np.float32, "f32"), (np.int64, "i64"), (np.uint8, "u8"), (np.bool_, "bool"), (ml_dtypes.bfloat16, "bf16")],
)
def test_dtypes(dtype, text):
    assert format_dtype(np.dtype(dtype)) == text


def test_graph():
    build = Builder()
    x = build.input("x", (1, 2, 4), F32)
    weight = np.ones((3, 2, 2), np.float32)
    build.label(weight, "conv.weight")
    build.source = Source("node_conv", "ai.onnx.Conv", "stem.0")
    y = build.emit("conv", x, weight, strides=(1,), padding=((0, 1),), dilation=(1,), groups=1)
    build.rename(y, "hidden")
    build.source = Source("node_flatten")
    program = build.finish({"y": build.emit("reshape", y, shape=(1, 12))})
    assert str(program.graph) == "\n".join(
        [
            "{ lambda conv.weight:f32[3,2,2] ; x:f32[1,2,4] . let",
            "    hidden:f32[1,3,4] = conv[strides=(1) padding=((0,1)) dilation=(1) groups=1] x conv.weight  # stem.0",
            "    reshape:f32[1,12] = reshape[shape=(1,12)] hidden  # node_flatten",
            "  in (reshape) }",
        ]
    )


def test_graphs_inside_equations():
    x, y = Var("x", (), F32), Var("y", (), F32)
    inner = Graph((x,), (), (Eqn("relu", (x,), (y,)),), (y,), ("y",))
    assert str(Eqn("scan", (x,), (y,), {"length": 3, "body": inner})) == "\n".join(
        [
            "y:f32[] = scan[length=3 body=",
            "    { lambda  ; x:f32[] . let",
            "        y:f32[] = relu[] x",
            "      in (y) }",
            "] x",
        ]
    )
