"""`memory="low"` computes values anew, block by block, and changes nothing of what comes back but the fingerprint."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from backtrace_jax import Explainer, Explanation, explain, explain_each
from backtrace_jax.engine.fingerprint import differences
from backtrace_jax.errors import SettingError
from backtrace_jax.explainer import stages
from tests.tiny import network, node, random

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
WIDTH, TOKENS = 6, 5


def unet() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Down and up again, with a skip around the bottom and residual blocks on the way."""
    nodes, x = [], "first"
    weights: dict[str, Any] = {"down": random(4, 2, 3, 3, seed=1), "up": random(4, 2, 2, 2, seed=2)}
    nodes += [node("Conv", ["x", "down"], ["early"], pads=[1] * 4), node("Relu", ["early"], ["skip"])]
    nodes += [node("MaxPool", ["skip"], [x], kernel_shape=[2, 2], strides=[2, 2])]
    for i in range(3):
        weights[f"W{i}"] = random(4, 4, 3, 3, seed=3 + i) / 12
        nodes += [node("Conv", [x, f"W{i}"], [f"conv{i}"], pads=[1] * 4), node("Relu", [f"conv{i}"], [f"relu{i}"])]
        nodes += [node("Add", [f"relu{i}", x], [f"sum{i}"])]
        x = f"sum{i}"
    nodes += [node("ConvTranspose", [x, "up"], ["upper"], strides=[2, 2]), node("Conv", ["skip", "side"], ["beside"])]
    nodes += [node("Concat", ["upper", "beside"], ["both"], axis=1), node("Flatten", ["both"], ["flat"])]
    nodes += [node("Gemm", ["flat", "head", "bias"], ["y"])]
    weights |= {"side": random(2, 4, 1, 1, seed=8), "head": random(4 * 36, 5, seed=9), "bias": random(5, seed=10)}
    return network(nodes, {"x": (FLOAT, ["batch", 2, 6, 6])}, **weights), {"x": random(2, 2, 6, 6, seed=11)}


def transformer() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Token ids, a mask that every block reads, and blocks of attention beside a residual stream."""
    nodes = [node("Gather", ["table", "ids"], ["x0"])]
    weights: dict[str, Any] = {"table": random(11, WIDTH)}
    nodes += [node("Cast", ["mask"], ["kept"], to=FLOAT), node("Sub", ["kept", "one"], ["off"])]
    nodes += [node("Mul", ["off", "large"], ["far"]), node("Unsqueeze", ["far", "axis"], ["bias"])]
    weights |= {"one": np.ones(1, np.float32), "large": np.full(1, 1e4, np.float32), "axis": np.array([1])}
    weights |= {"scale": np.ones(WIDTH, np.float32), "shift": np.zeros(WIDTH, np.float32)}
    for i in range(3):
        nodes.append(node("LayerNormalization", [f"x{i}", "scale", "shift"], [f"n{i}"]))
        for j, each in enumerate("qkv"):
            weights[f"{each}w{i}"] = random(WIDTH, WIDTH, seed=7 * i + j) / 2
            nodes.append(node("MatMul", [f"n{i}", f"{each}w{i}"], [f"{each}{i}"]))
        nodes += [
            node("Transpose", [f"k{i}"], [f"t{i}"], perm=[0, 2, 1]),
            node("MatMul", [f"q{i}", f"t{i}"], [f"s{i}"]),
        ]
        nodes += [node("Add", [f"s{i}", "bias"], [f"m{i}"]), node("Softmax", [f"m{i}"], [f"p{i}"], axis=2)]
        nodes += [node("MatMul", [f"p{i}", f"v{i}"], [f"a{i}"]), node("Add", [f"x{i}", f"a{i}"], [f"x{i + 1}"])]
    nodes += [node("ReduceMean", ["x3", "axis"], ["mean"], keepdims=0), node("MatMul", ["mean", "head"], ["y"])]
    declared = {"ids": (INT, ["batch", TOKENS]), "mask": (INT, ["batch", TOKENS])}
    inputs = {"ids": np.array([[1, 2, 3, 4, 0], [9, 8, 7, 6, 5]]), "mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])}
    return network(nodes, declared, head=random(WIDTH, 5, seed=99), **weights), inputs


def recurrent() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Two LSTMs, one above the other, and a skip around them."""
    nodes = [node("Transpose", ["x"], ["s0"], perm=[1, 0, 2])]
    weights: dict[str, Any] = {}
    for i in range(2):
        weights |= {f"W{i}": random(1, 16, 4, seed=i), f"R{i}": random(1, 16, 4, seed=2 + i)}
        nodes += [node("LSTM", [f"s{i}", f"W{i}", f"R{i}"], [f"h{i}"], hidden_size=4)]
        nodes += [node("Squeeze", [f"h{i}", "axis"], [f"o{i}"]), node("Add", [f"o{i}", f"s{i}"], [f"s{i + 1}"])]
    nodes += [node("ReduceMean", ["s2", "time"], ["last"], keepdims=0), node("MatMul", ["last", "head"], ["y"])]
    known = {"axis": np.array([1]), "time": np.array([0]), "head": random(4, 5, seed=9)}
    return network(nodes, {"x": (FLOAT, ["batch", 6, 4])}, **weights, **known), {"x": random(2, 6, 4, seed=11)}


NETWORKS = {build.__name__: build for build in (unet, transformer, recurrent)}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "U-Net, default": ("unet", {"layers": ["sum1", "skip"]}),
    "U-Net, contrastive": ("unet", {"mode": "contrastive", "conditions": {"sum2": [0, 2]}}),
    "U-Net, slopes": ("unet", {"mode": "lrp-epsilon", "layers": ["sum1", "skip"], "ledger": "total"}),
    "U-Net, composite": ("unet", {"mode": "lrp-epsilon-plus-flat"}),
    "U-Net, against a reference": ("unet", {"mode": "deeplift"}),
    "U-Net, noise": ("unet", {"mode": "smoothgrad"}),
    "transformer, attnlrp": ("transformer", {"mode": "attnlrp"}),
    "transformer, along a path": ("transformer", {"mode": "integrated-gradients"}),
    "recurrent, default": ("recurrent", {}),
}


@functools.cache
def built(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    return NETWORKS[name]()


def contents(explanation: Explanation) -> dict[str, bytes]:
    """All that an explanation says but for the fingerprint."""
    parts = {"": explanation, **explanation.channels}
    arrays = {"target": explanation.target, "completeness": explanation.completeness_error}
    for part, each in parts.items():
        arrays |= {f"{part} {name}": array for name, array in (each.relevance | each.layers).items()}
        for row, ledger in {} if each.ledger is None else {"": each.ledger, **each.ledger.by_node}.items():
            arrays |= {f"{part} {row} books": np.stack([ledger.signed, ledger.absolute])}
    return {name: np.asarray(array).tobytes() for name, array in (arrays | explanation.outputs).items()}


@pytest.fixture
def plans(monkeypatch):
    """The plans of what is compiled."""
    found, compile_model = [], stages.compile_model

    def noted(planned, *given):
        found.append(planned.request.plan)
        return compile_model(planned, *given)

    monkeypatch.setattr(stages, "compile_model", noted)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_everything_is_the_same_to_the_byte(call, plans):
    name, how = CALLS[call]
    model, inputs = built(name)
    high, low = (explain(model, inputs, **how, memory=memory) for memory in ("high", "low"))
    assert [len(plan.segments) > 1 for plan in plans] == [False, True]
    assert contents(low) == contents(high)
    assert differences(high.fingerprint, low.fingerprint) == {"memory": ("high", "low"), "prepare": (True, False)}
    assert np.abs(next(iter(low.relevance.values()))).max() > 0


def test_many_questions_are_answered_as_in_high_memory(plans):
    model, inputs = built("transformer")
    high, low = (explain_each(model, inputs, [0, 3, 1], ledger="total", memory=memory) for memory in ("high", "low"))
    assert [len(plan.segments) > 1 for plan in plans] == [False, True]
    assert [*map(contents, low)] == [*map(contents, high)]


@pytest.mark.optimised
def test_compiled_as_users_do_the_bytes_are_the_same():
    model, inputs = built("unet")
    high, low = (
        explain(model, inputs, mode="lrp-epsilon", ledger="total", memory=memory) for memory in ("high", "low")
    )
    assert contents(low) == contents(high)


def test_nothing_is_made_of_the_weights_in_advance():
    model, inputs = built("unet")
    explainer = Explainer(model, memory="low", prepare=True)
    assert explainer(inputs).fingerprint["prepare"] is False
    assert explainer.derived_bytes == 0


def test_what_does_not_exist_is_refused():
    with pytest.raises(SettingError, match=r"memory.*'least'.*high, low"):
        Explainer(built("unet")[0], memory="least")
