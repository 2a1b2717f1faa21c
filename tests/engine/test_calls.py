"""A module that is called several times gives all its calls, and a single one only by its number."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.engine.calls import calls_of
from backtrace_jax.engine.layers import select_layers, select_value
from backtrace_jax.errors import SettingError
from backtrace_jax.ir import Source
from backtrace_jax.passes.build import Builder


def graph(*steps):
    """tanh after tanh, each in a module, with its calls where they are known; "matmul ..." reads that weight."""
    builder = Builder()
    x = builder.input("x", (1, 4), np.dtype(np.float32))
    weights = {}
    for module, calls, *weight in steps:
        builder.source = Source(module=module, calls=tuple(calls))
        if weight:
            K = weights.setdefault(weight[0], np.full((4, 4), len(weights) + 1, np.float32))
            builder.label(K, weight[0])
            x = builder.emit("matmul", x, K)
        else:
            x = builder.emit("tanh", x)
    return builder.finish({"y": x}).graph


COUNTED = (
    ("block.act", ("block", "block.act")),
    ("block.act", ("block", "block.act:1")),
    ("", ()),
    ("block.act", ("block:1", "block.act:2")),
    ("block.act", ("block:1", "block.act:3")),
)


def test_calls_that_were_counted():
    assert calls_of(graph(*COUNTED)) == {
        "block": {"block": "tanh.1", "block:1": "tanh.4"},
        "block.act": {"block.act": "tanh", "block.act:1": "tanh.1", "block.act:2": "tanh.3", "block.act:3": "tanh.4"},
    }


def test_calls_that_were_not_counted_end_where_another_module_begins():
    found = calls_of(graph(("a.act", ()), ("a.norm", ()), ("a.act", ()), ("b", ()), ("a.act", ())))
    assert found == {
        "a": {"a": "tanh.2", "a:1": "tanh.4"},
        "a.act": {"a.act": "tanh", "a.act:1": "tanh.2", "a.act:2": "tanh.4"},
        "a.norm": {"a.norm": "tanh.1"},
        "b": {"b": "tanh.3"},
    }


def test_a_weight_that_is_read_again_begins_another_call():
    step = ("a.fc", (), "a.fc.weight")
    found = calls_of(graph(step, ("a.act", ()), step, step))
    assert found["a.fc"] == {"a.fc": "matmul", "a.fc:1": "matmul.1", "a.fc:2": "matmul.2"}
    assert found["a"] == {"a": "tanh", "a:1": "matmul.1", "a:2": "matmul.2"}


def test_the_owner_of_a_weight_is_counted_by_its_uses():
    found = calls_of(graph(("bn", (), "conv.weight"), ("bn2", (), "conv.weight")))
    assert found["conv"] == {"conv": "matmul", "conv:1": "matmul.1"}


def test_a_weight_that_another_module_shares_is_no_call():
    found = calls_of(graph(("embed", (), "embed.weight"), ("head", (), "embed.weight")))
    assert found == {"embed": {"embed": "matmul"}, "head": {"head": "matmul.1"}}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("block", {"block": "tanh.1", "block:1": "tanh.4"}),
        ("block:1", {"block:1": "tanh.4"}),
        ("block:0", {"block:0": "tanh.1"}),
        ("block.act:?", {"block.act:1": "tanh.1", "block.act:2": "tanh.3", "block.act:3": "tanh.4"}),
        ("tanh.2", {"tanh.2": "tanh.2"}),
    ],
)
def test_layers_give_all_calls(wanted, found):
    assert select_layers(graph(*COUNTED), wanted) == found


def test_a_single_value_is_named_by_its_call():
    built = graph(*COUNTED)
    for name, value in {"block:0": "tanh.1", "block:1": "tanh.4", "block.act:2": "tanh.3", "tanh.2": "tanh.2"}.items():
        assert select_value(built, name).name == value
    assert select_value(built, "block:2") is None
    assert select_value(built, "nowhere:0") is None
    with pytest.raises(SettingError, match=r"'block.act' is called 4 times; .*: block.act:0, block.act:1, block.act:2"):
        select_value(built, "block.act")
