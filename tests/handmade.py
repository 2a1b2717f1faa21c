"""Explanations for tests of what is done with one: made by hand, of the demo's digits, and of a model of one node."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper

from backtrace_jax import demo, explain
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import COLUMNS, Ledger

SIZE = 2  # examples in every one of them


def ledger(*, nodes: tuple[str, ...] = (), seed: int = 0) -> Ledger:
    """Books of two examples that close."""
    signed = np.random.default_rng(seed).standard_normal((SIZE, len(COLUMNS)))
    signed[:, 0] = signed[:, 1:].sum(axis=1)
    by_node = {name: ledger(seed=number + 1) for number, name in enumerate(nodes)}
    return Ledger(signed, np.abs(signed), by_node)


def explanation(values: np.ndarray, relevance: np.ndarray, /, *, name: str = "x", **changes) -> Explanation:
    """Two examples of one input, explained for units 1 and 2 of an output with four."""
    scores = np.arange(SIZE * 4, dtype=np.float32).reshape(SIZE, 4)
    parts = {
        "relevance": {name: relevance},
        "inputs": {name: values},
        "outputs": {"logits": scores},
        "output": "logits",
        "target": np.array([1, 2]),
        "layers": {},
        "ledger": ledger(),
        "fingerprint": {"mode": "default"},
    }
    return Explanation(**{**parts, **changes})


@cache
def digits(mode: str) -> Explanation:
    """Two of the demo's digits, explained."""
    known = demo.sample("digits")
    return explain(known.model, known.inputs[:SIZE], mode=mode)


def model(*nodes: onnx.NodeProto, shape: tuple = ("batch", 3), dtype: int = TensorProto.FLOAT, name: str = "x"):
    """A model of a few nodes from one input to the output `y`."""
    x, y = (
        helper.make_tensor_value_info(name, dtype, shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    )
    graph = helper.make_graph(list(nodes), "small", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
