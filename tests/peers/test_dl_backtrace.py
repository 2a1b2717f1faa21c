"""Relevance equals that of dl-backtrace 0.0.24, wherever the package does what its paper and RULES.md say.

`dl_backtrace.npz` holds small Keras networks and what the package makes of them (`record_dl_backtrace.py` says what is
in it and how it is made). Here each network is built again as an ONNX model, channels first, and explained in float64.
`DEFECTS` lists where the package's numbers are wrong, and `expected` says from what the right ones are known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from backtrace_jax import Explanation, explain

RECORDED = dict(np.load(Path(__file__).with_name("dl_backtrace.npz")))
CASES: dict[str, dict[str, Any]] = json.loads(str(RECORDED.pop("cases")))
KINDS = {name: [kind for kind, *_ in case["layers"]] for name, case in CASES.items()}
RECURRENT = [name for name in CASES if "LSTM" in KINDS[name]]
FEEDFORWARD = [name for name in CASES if name not in RECURRENT]
CONTRASTED = [name for name in FEEDFORWARD if f"{name}/positive/0" in RECORDED]
CHANNELS = {"default": ("default",), "contrastive": ("positive", "negative")}
TOLERANCE = 1e-5

Arrays = Sequence[np.ndarray]

DEFECTS = {
    ("conv_tanh", "default"): "gates of a convolution compare p + n, not p - n + b, with the saturation range",
    ("conv_sigmoid", "default"): "as conv_tanh",
    ("conv_swish", "default"): "as conv_tanh, so that swish never closes anything",
    ("conv_one_sided", "contrastive"): "what goes to a side without evidence is lost in a convolution",
    ("average_pool", "contrastive"): "what goes to a side without evidence is lost in a pool",
    ("average_pool_padded", "default"): "NaN where the pool reaches into its padding, which is -inf",
    ("average_pool_padded", "contrastive"): "as average_pool",
    ("conv_average_pool", "contrastive"): "as average_pool",
    ("conv_transpose", "default"): "reads the relevance of a quarter of the outputs",
    ("conv_transpose", "contrastive"): "reads the relevance of a quarter of the outputs",
    ("batch_norm", "default"): "batch norm is passed over, and so is the activation behind it",
    ("batch_norm", "contrastive"): "batch norm is passed over",
    ("activation_apart", "default"): "an activation that is a layer of its own closes no gate",
    ("embedding", "default"): "a token gets the mean over its row, not the sum",
    ("embedding", "contrastive"): "a token gets the mean over its row, not the sum",
    ("logits", "contrastive"): "negative start relevance from negative outputs",
    (
        "one_sigmoid_scaled",
        "contrastive",
    ): "both channels start at the scaler, and of equals the negative one goes first",
}
"""(case, mode): what the package does wrong."""

SAME_NETWORK = {("activation_apart", "default"): "dense_tanh", ("logits", "contrastive"): "dense_relu"}
"""Other spellings of the same network (contrastive rules know no activations), which the package gets right."""

SATURATING = [("dense_tanh", -2, 2), ("dense_sigmoid", -4, 4), ("dense_softmax", -1, 2), ("dense_swish", -6, np.inf)]

UNKNOWN = {("conv_average_pool", "contrastive")}
"""No sound numbers: what comes out must be conserved, no more."""


def expected(name: str, channel: str, value: int = 0) -> np.ndarray:
    """The right relevance of a value, channels last."""
    mode = "default" if channel == "default" else "contrastive"
    name = SAME_NETWORK.get((name, mode), name)
    if name == "one_sigmoid_scaled" and mode == "contrastive":
        return _one_unit(channel, value)
    as_dense = f"{name}/dense/{channel}/{value}"
    recorded = RECORDED[as_dense if as_dense in RECORDED else f"{name}/{channel}/{value}"]
    rows = CASES[name]["layers"][0][1].get("output_dim", 1) if value == 0 else 1
    return recorded * rows


def _one_unit(channel: str, value: int) -> np.ndarray:
    """Channels that start at 1 and 1 - a (RULES 10): the first goes where the larger one of a and 1 - a goes."""
    a = RECORDED["one_sigmoid/y"]
    shares = RECORDED[f"one_sigmoid/positive/{value}"] / a, RECORDED[f"one_sigmoid/negative/{value}"] / (1 - a)
    total = 1 if channel == "positive" else 1 - a
    return total * np.where((a > 0.5) == (channel == "positive"), *shares)


class Nodes:
    """ONNX nodes in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"constant{len(self.constants)}"))
        return self.constants[-1].name

    def __call__(self, operator: str, *operands: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, operands, [f"node{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]


def activate(nodes: Nodes, z: str, activation: str) -> str:
    if activation == "swish":
        return nodes("Mul", z, nodes("Sigmoid", z))
    operators = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softmax": "Softmax"}
    return z if activation == "linear" else nodes(operators[activation], z)


def dense(nodes: Nodes, x: str, weights: Arrays, units: int, activation: str) -> str:
    return activate(nodes, nodes("Gemm", x, *map(nodes.constant, weights)), activation)


def conv(nodes: Nodes, x: str, weights: Arrays, activation: str, operator: str = "Conv", **keras: Any) -> str:
    kernel, bias = weights  # [..., in, out], of a transposed one [..., out, in]; ONNX has the last one first
    constants = nodes.constant(np.moveaxis(kernel, (-1, -2), (0, 1))), nodes.constant(bias)
    return activate(nodes, nodes(operator, x, *constants, **windows(kernel.ndim - 2, **keras)), activation)


def windows(rank: int, strides: int = 1, padding: str = "valid", **_: Any) -> dict[str, Any]:
    return {"strides": [strides] * rank, "auto_pad": {"same": "SAME_UPPER", "valid": "VALID"}[padding]}


def pool(nodes: Nodes, x: str, weights: Arrays, operator: str, rank: int = 2, pool_size: int = 2, **keras: Any) -> str:
    return nodes(operator, x, kernel_shape=[pool_size] * rank, **windows(rank, **{"strides": pool_size, **keras}))


def global_pool(nodes: Nodes, x: str, weights: Arrays, operator: str) -> str:
    return nodes("Flatten", nodes(operator, x), axis=1)


def lstm(nodes: Nodes, x: str, weights: Arrays, units: int, return_sequences: bool = False) -> str:
    """Keras has the gates in the order i, f, g, o and examples first; ONNX i, o, f, g and time first."""
    kernel, recurrent, bias = (np.concatenate([np.split(w, 4, -1)[k] for k in (0, 3, 1, 2)], -1) for w in weights)
    constants = [nodes.constant(w.T[None]) for w in (kernel, recurrent, np.concatenate([bias, np.zeros_like(bias)]))]
    every = nodes("LSTM", nodes("Transpose", x, perm=[1, 0, 2]), *constants, hidden_size=units)
    nodes.nodes[-1].output.append(f"{every}_last")
    if not return_sequences:
        return nodes("Squeeze", f"{every}_last", nodes.constant(np.array([0])))
    return nodes("Transpose", nodes("Squeeze", every, nodes.constant(np.array([1]))), perm=[1, 0, 2])


LAYERS: dict[str, Callable[..., str]] = {
    "Dense": dense,
    "Conv2D": conv,
    "Conv1D": conv,
    "Conv2DTranspose": partial(conv, operator="ConvTranspose"),
    "MaxPooling2D": partial(pool, operator="MaxPool"),
    "MaxPooling1D": partial(pool, operator="MaxPool", rank=1),
    "AveragePooling2D": partial(pool, operator="AveragePool"),
    "GlobalAveragePooling2D": partial(global_pool, operator="GlobalAveragePool"),
    "GlobalAveragePooling1D": partial(global_pool, operator="GlobalAveragePool"),
    "GlobalMaxPooling2D": partial(global_pool, operator="GlobalMaxPool"),
    "BatchNormalization": lambda nodes, x, weights: nodes(
        "BatchNormalization", x, *map(nodes.constant, weights), epsilon=1e-3
    ),
    "Activation": lambda nodes, x, weights, activation: activate(nodes, x, activation),
    "Embedding": lambda nodes, x, weights, **_: nodes("Gather", nodes.constant(weights[0]), x),
    "Flatten": lambda nodes, x, weights: nodes("Flatten", x, axis=1),
    "Add": lambda nodes, x, weights: nodes("Add", *x),
    "Concatenate": lambda nodes, x, weights: nodes("Concat", *x, axis=1),
    "LSTM": lstm,
}


def is_image(name: str) -> bool:
    """Whether channels are last in Keras and first here; the features of a sequence are last in both."""
    return len(CASES[name]["shape"]) > 1 and name not in RECURRENT


def weights_of(name: str, layer: int) -> list[np.ndarray]:
    return [RECORDED[key] for key in RECORDED if key.startswith(f"{name}/weights/{layer}/")]


def add_layer(nodes: Nodes, name: str, number: int, read: list[str]) -> None:
    """Append the nodes of one layer; its result is called value1, value2, ..."""
    kind, settings, _ = CASES[name]["layers"][number - 1]
    rank = len(CASES[name]["shape"]) + 1
    if kind == "Flatten" and is_image(name):
        read = [nodes("Transpose", read[0], perm=[0, *range(2, rank), 1])]
    if kind == "GlobalAveragePooling1D" and not is_image(name):
        read = [nodes("Transpose", read[0], perm=[0, 2, 1])]
    LAYERS[kind](nodes, read if len(read) > 1 else read[0], weights_of(name, number), **settings)
    nodes.nodes[-1].output[0] = f"value{number}"


def onnx_model(name: str) -> onnx.ModelProto:
    nodes, x = Nodes(), inputs_of(name)
    layers = CASES[name]["layers"]
    for number, (_, _, reads) in enumerate(layers, start=1):
        add_layer(nodes, name, number, [f"value{read}" for read in reads or (number - 1,)])
    value = helper.make_tensor_value_info("value0", helper.np_dtype_to_tensor_dtype(x.dtype), ["batch", *x.shape[1:]])
    result = helper.make_empty_tensor_value_info(f"value{len(layers)}")
    graph = helper.make_graph(nodes.nodes, name, [value], [result], nodes.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def inputs_of(name: str) -> np.ndarray:
    x = RECORDED[f"{name}/x"]
    return np.moveaxis(x, -1, 1) if is_image(name) else x


@lru_cache
def explained(name: str, mode: str) -> Explanation:
    case = CASES[name]
    settings = {"task": case["task"], "scaler": case["scaler"], "layers": "all" if mode == "default" else None}
    return explain(onnx_model(name), inputs_of(name), mode=mode, dtype="float64", **settings)


def assert_close(name: str, found: np.ndarray, wanted: np.ndarray) -> None:
    """Compare relevance of ours, channels first, with relevance as recorded."""
    found = np.moveaxis(found, 1, -1) if is_image(name) and wanted.ndim > 2 else found
    assert difference(found, wanted) <= TOLERANCE


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a part of the largest magnitude."""
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Most of the time goes into compiling; the numbers here are few."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", FEEDFORWARD)
def test_default(name):
    explanation = explained(name, "default")
    assert_close(name, explanation.outputs[explanation.output], RECORDED[f"{name}/y"])
    assert_close(name, explanation.relevance["value0"], expected(name, "default"))
    assert explanation.ledger.error.max() <= 1e-12


@pytest.mark.parametrize("name", [name for name in FEEDFORWARD if (name, "default") not in DEFECTS])
def test_default_inside(name):
    layers = explained(name, "default").layers
    for number in range(1, len(KINDS[name]) + 1):
        assert_close(name, layers[f"value{number}"], RECORDED[f"{name}/default/{number}"])


@pytest.mark.parametrize("name", CONTRASTED)
def test_contrastive(name):
    explanation = explained(name, "contrastive")
    channels = {"positive": explanation.positive["value0"], "negative": explanation.negative["value0"]}
    for channel, found in channels.items():
        if (name, "contrastive") not in UNKNOWN:
            assert_close(name, found, expected(name, channel))
        start = expected(name, channel, len(KINDS[name]))
        np.testing.assert_allclose(totals(found), totals(start), rtol=1e-5)
    np.testing.assert_array_equal(explanation.relevance["value0"], channels["positive"] - channels["negative"])


FROM_FILE = Path(__file__).parents[1] / "cases" / "conv1d_bias_behind_squeeze.onnx"


@pytest.mark.parametrize("mode", CHANNELS)
def test_a_file_with_its_biases_behind_moves(mode):
    """The package explains the Keras network whose weights the file has; tf2onnx wrote it as Conv, Squeeze, Add."""
    recorded = dict(np.load(Path(__file__).with_name("dl_backtrace_file.npz")))
    explanation = explain(FROM_FILE, recorded["x"], mode=mode, dtype="float64")
    assert difference(explanation.outputs[explanation.output], recorded["y"]) <= TOLERANCE
    found = {
        "default": explanation.relevance["input"],
        **({} if mode == "default" else {c: getattr(explanation, c)["input"] for c in CHANNELS[mode]}),
    }
    for channel in CHANNELS[mode]:
        assert difference(found[channel], recorded[f"{channel}/0"]) <= TOLERANCE
    assert explanation.ledger.error.max() <= 1e-12


@pytest.mark.parametrize("name", ["dense_relu", "several_sigmoids", "conv_max_pool"])
@pytest.mark.parametrize("mode", CHANNELS)
def test_given_start(name, mode):
    """The recorded start relevance itself; a contrastive one is positive for one channel, negative for the other."""
    positive, *negative = (RECORDED[f"{name}/{channel}/{len(KINDS[name])}"] for channel in CHANNELS[mode])
    start = positive - sum(negative)
    explanation = explain(onnx_model(name), inputs_of(name), mode=mode, start=start, dtype="float64")
    wanted, *other = (RECORDED[f"{name}/{channel}/0"] for channel in CHANNELS[mode])
    assert_close(name, explanation.relevance["value0"], wanted - sum(other))


@pytest.mark.parametrize(("name", "mode"), DEFECTS)
def test_defect(name, mode):
    """The recorded numbers are not the right ones, so that nothing above rests on them."""
    for channel in CHANNELS[mode]:
        recorded, start = RECORDED[f"{name}/{channel}/0"], RECORDED[f"{name}/{channel}/{len(KINDS[name])}"]
        if (name, mode) in UNKNOWN:
            assert np.any(totals(recorded) < 0.99 * totals(start))
        else:
            assert not difference(recorded, expected(name, channel)) <= 10 * TOLERANCE  # NaN is a defect as well


@pytest.mark.parametrize(("name", "lower", "upper"), SATURATING)
def test_gates_close(name, lower, upper):
    kernel, bias = weights_of(name, 1)
    z = RECORDED[f"{name}/x"] @ kernel + bias
    assert ((z < lower).any() and (z > lower).any()) or lower == -np.inf
    assert ((z > upper).any() and (z < upper).any()) or upper == np.inf


def totals(relevance: np.ndarray) -> np.ndarray:
    """Relevance of each example."""
    return relevance.reshape(len(relevance), -1).sum(axis=1, dtype=np.float64)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, where 0 / 0 is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


def proportional(c: np.ndarray, R: np.ndarray, b: Any = 0.0) -> np.ndarray:
    """RULES 1.1 and 3: shares [channel, term, unit] of R [channel, unit] for contributions [term, unit]."""
    return ratio(np.abs(c), np.abs(c).sum(axis=0) + np.abs(b)) * R[:, None]


def contrasted(c: np.ndarray, R: np.ndarray, b: Any = 0.0) -> np.ndarray:
    """RULES 1.2, of units that are not 0."""
    p, n = np.maximum(c, 0).sum(axis=0), np.maximum(-c, 0).sum(axis=0)
    up, down = ratio(np.maximum(c, 0), p), ratio(np.maximum(-c, 0), n)
    positive_up = (p - n + b > 0) == (R[0] >= R[1])
    sides = np.where(positive_up, up, down), np.where(positive_up, down, up)
    return np.stack([np.where((p > 0) & (n > 0), side, up + down) * r for side, r in zip(sides, R, strict=True)])


GATE_SHARES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "signal takes all": lambda gate, signal: np.zeros_like(gate),
    "default": lambda a, b: ratio(np.abs(a * b - a), np.abs(a * b - a) + np.abs(a * b - b)),
    "contrastive": lambda a, b: ratio(np.abs(b), np.abs(a) + np.abs(b)),
}
"""What part of the relevance of gate · signal the gate gets; two of them are the package's."""


def lstm_forward(x: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> list[Arrays]:
    """Per step x, h and c before it, what goes into the gates i, f, g, o from x and from h, the gates, c and h."""
    h, c, steps = np.zeros(len(recurrent)), np.zeros(len(recurrent)), []
    for row in x:
        from_x, from_h = (row @ kernel + bias).reshape(4, -1), (h @ recurrent).reshape(4, -1)
        z = from_x + from_h
        i, f, g, o = gates = np.where(np.arange(4)[:, None] == 2, np.tanh(z), 1 / (1 + np.exp(-z)))
        steps.append([row, h, c, from_x, from_h, gates, f * c + i * g, o * np.tanh(f * c + i * g)])
        c, h = steps[-1][-2:]
    return steps


def lstm_back(steps: list[Arrays], weights: Arrays, R: np.ndarray, share: Any, gate_share: Any) -> np.ndarray:
    """Relevance of the inputs [channel, time, feature] from that of every step's h [channel, time, unit]."""
    kernel, recurrent, bias = (np.stack(np.split(w, 4, -1)) for w in weights)

    def product(R: np.ndarray, gate: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return gate_share(gate, signal) * R, (1 - gate_share(gate, signal)) * R

    R_x, R_h, R_c = np.zeros((len(R), len(steps), kernel.shape[1])), 0.0, 0.0
    for time in reversed(range(len(steps))):
        x, h, c, from_x, from_h, (i, f, g, o), c_after, _ = steps[time]
        R_o, through_c = product(R[:, time] + R_h, o, np.tanh(c_after))
        R_keep, R_new = np.moveaxis(share(np.stack([f * c, i * g]), through_c + R_c), 1, 0)
        (R_f, R_c), (R_i, R_g) = product(R_keep, f, c), product(R_new, i, g)
        R_h = 0.0
        for k, R_k in enumerate((R_i, R_f, R_g, R_o)):
            to_x, to_h = np.moveaxis(share(np.stack([from_x[k], from_h[k]]), R_k), 1, 0)
            R_x[:, time] += share(x[:, None] * kernel[k], to_x, bias[k]).sum(axis=-1)
            R_h = R_h + share(h[:, None] * recurrent[k], to_h).sum(axis=-1)
    return R_x


def lstm_relevance(name: str, mode: str, gates: str) -> list[np.ndarray]:
    """Relevance of the input, per channel, from what was recorded at the result of the last LSTM."""
    last = KINDS[name].count("LSTM")
    at_last = [RECORDED[f"{name}/{channel}/{last}"] for channel in CHANNELS[mode]]
    examples = zip(RECORDED[f"{name}/x"].astype(np.float64), np.stack(at_last, axis=1), strict=True)
    return list(np.stack([_through_lstms(name, x, R, mode, gates) for x, R in examples], axis=1))


def _through_lstms(name: str, x: np.ndarray, R: np.ndarray, mode: str, gates: str) -> np.ndarray:
    share, walks = {"default": proportional, "contrastive": contrasted}[mode], []
    for layer in range(1, KINDS[name].count("LSTM") + 1):
        weights = [w.astype(np.float64) for w in weights_of(name, layer)]
        walks.append((lstm_forward(x, *weights), weights))
        x = np.stack([h for *_, h in walks[-1][0]])
    if R.ndim == 2:  # only the last step has a result
        R = R[:, None] * (np.arange(len(x)) == len(x) - 1)[:, None]
    for steps, weights in reversed(walks):
        R = lstm_back(steps, weights, R, share, GATE_SHARES[gates])
    return R


@pytest.mark.parametrize("mode", CHANNELS)
@pytest.mark.parametrize("name", RECURRENT)
def test_lstm_as_the_reference_walks_it(name, mode):
    for channel, found in zip(CHANNELS[mode], lstm_relevance(name, mode, gates=mode), strict=True):
        assert_close(name, found, RECORDED[f"{name}/{channel}/0"])


@pytest.mark.parametrize("name", RECURRENT)
def test_lstm_in_the_mode_of_the_reference(name):
    explanation = explained(name, "dlbacktrace-0.0.24")
    assert_close(name, explanation.outputs[explanation.output], RECORDED[f"{name}/y"])
    assert_close(name, explanation.relevance["value0"], RECORDED[f"{name}/default/0"])
    assert explanation.ledger.error.max() <= 1e-12


@pytest.mark.parametrize("name", RECURRENT)
def test_lstm_default(name):
    (wanted,) = lstm_relevance(name, "default", gates="signal takes all")
    assert_close(name, explained(name, "default").relevance["value0"], wanted)


@pytest.mark.parametrize("name", RECURRENT)
def test_lstm_contrastive(name):
    explanation = explained(name, "contrastive")
    positive, negative = lstm_relevance(name, "contrastive", gates="signal takes all")
    assert_close(name, explanation.positive["value0"], positive)
    assert_close(name, explanation.negative["value0"], negative)
