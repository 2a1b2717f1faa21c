"""Intermediate values are found by value name, module name and glob."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.engine.layers import select_layers
from backtrace_jax.errors import SettingError
from backtrace_jax.ir import Source
from backtrace_jax.passes.build import Builder


def graph():
    """Two blocks, each of a linear map and an activation, an integer value, and a value of no module."""
    builder = Builder()
    x = builder.input("x", (2, 4), np.dtype(np.float32))
    for block in ("blocks.0", "blocks.1"):
        K = np.ones((4, 4), np.float32)
        builder.label(K, f"{block}.fc.weight")
        builder.source = Source(module=f"{block}.fc")
        x = builder.emit("matmul", x, K)
        builder.source = Source(module=f"{block}.act")
        x = builder.emit("tanh", x)
        builder.rename(x, f"{block}.out")
    builder.source = Source()
    best = builder.emit("argmax", x, axis=1, keepdims=False, last=False)
    return builder.finish({"y": builder.emit("neg", x), "best": best}).graph


VALUES = ["matmul", "blocks.0.out", "matmul.1", "blocks.1.out", "neg"]


def test_nothing_is_kept_unless_asked_for():
    assert select_layers(graph(), None) == {}


@pytest.mark.parametrize("wanted", ["all", ("all",)])
def test_all_means_every_float_value(wanted):
    assert select_layers(graph(), wanted) == {name: name for name in VALUES}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("matmul", {"matmul": "matmul"}),
        ("blocks.0.fc", {"blocks.0.fc": "matmul"}),
        ("blocks.1", {"blocks.1": "blocks.1.out"}),
        ("blocks", {"blocks": "blocks.1.out"}),
        (("neg", "blocks.0.act"), {"neg": "neg", "blocks.0.act": "blocks.0.out"}),
        ("blocks.*.fc", {"blocks.0.fc": "matmul", "blocks.1.fc": "matmul.1"}),
        ("matmul*", {"matmul": "matmul", "matmul.1": "matmul.1"}),
        ("blocks.?", {"blocks.0": "blocks.0.out", "blocks.1": "blocks.1.out"}),
    ],
)
def test_names_modules_and_globs(wanted, found):
    assert select_layers(graph(), wanted) == found


def test_the_owner_of_the_weights_stands_for_a_folded_module():
    builder = Builder()
    x = builder.input("x", (2, 4), np.dtype(np.float32))
    K = np.ones((4, 4), np.float32)
    builder.label(K, "conv1.weight")
    builder.source = Source(module="bn1")
    program = builder.finish({"y": builder.emit("matmul", x, K)})
    assert select_layers(program.graph, ("conv1", "bn1")) == {"conv1": "matmul", "bn1": "matmul"}


@pytest.mark.parametrize("wanted", ["argmax", "Blocks.0", "blocks.2", "x", ("neg", "no-such")])
def test_a_name_that_matches_nothing_is_refused_with_examples(wanted):
    with pytest.raises(SettingError, match=r"layers: nothing is called .*; names are, for example: matmul, "):
        select_layers(graph(), wanted)
