"""Records what dl-backtrace 0.0.24 (MIT licence) makes of small Keras networks, for `test_dl_backtrace.py`.

The package pins an old TensorFlow, so it lives in an environment of its own, made with Python 3.11:

    python3.11 -m venv reference
    reference/bin/pip install dl-backtrace==0.0.24 tensorflow-cpu==2.14.1 numpy==1.26.4 tqdm onnx==1.16.2
    reference/bin/python tests/peers/record_dl_backtrace.py

That rewrites `dl_backtrace.npz` beside this file, and `dl_backtrace_file.npz` for a network whose weights are those of
an ONNX file (x, y, default/0, positive/0, negative/0); `... --file` rewrites the latter alone.
Only 0.0.24 may be used here: later versions are not open source.
A network is a list of values: value 0 is the input, value k the result of layer k. Per case the archive holds

    x, y                    inputs and outputs, examples first, channels last
    weights/k/i             the i-th weight of layer k, as Keras lays it out
    default/k               relevance of value k; at the last value it is the start relevance
    positive/k, negative/k  the two channels of contrastive relevance, between the ends only for LSTMs
    dense/...               the same at the first value, from a network that computes the same numbers and has its
                            first, linear layers written as one dense layer: the package's rule for those is sound

The package takes one example at a time, computes in float32, and multiplies everything by `multiplier` (100 unless
told), which is 1 here; `scaler` is the total handed out, and without one it is the output's own value.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="", TQDM_DISABLE="1")

import numpy as np
import tensorflow as tf
from dl_backtrace.tf_backtrace import Backtrace
from tensorflow import keras

EXAMPLES = 3
TREMBLE = 1e-5  # no case may stand so near a jump of its relevance that this change of its weights makes it jump
STEADY = 1e-2
TOKENS = 11
TIED = ("one_sigmoid_scaled",)
CLASSIFICATION, REGRESSION = "multi-class-classification", "bbox-regression"

Layer = tuple[str, dict[str, Any], tuple[int, ...]]


class Case(NamedTuple):
    """A network and how it is explained.

    Attributes:
        shape: Shape of one input.
        layers: (Keras class, settings, values it reads; none: the one before).
        seed: Of weights and inputs.
        gain: Size of the weights below the last layer; large ones saturate activations.
        values: What the inputs are: "normal", "whole" (small integers), "positive" or "tokens".
        task: What the reference is told the output is.
        scaler: Total relevance; None: the output's own value.
        dense: (value up to which the network is linear, activation after it, trailing layers that stay), or None.
    """

    shape: tuple[int, ...]
    layers: list[Layer]
    seed: int = 0
    gain: float = 1.0
    values: str = "normal"
    task: str = CLASSIFICATION
    scaler: float | None = 1.0
    dense: tuple[int, str, int] | None = None


def layer(kind: str, *reads: int, **settings: Any) -> Layer:
    return kind, settings, reads


def dense(units: int, activation: str = "linear", *reads: int) -> Layer:
    return layer("Dense", *reads, units=units, activation=activation)


def conv(filters: int, activation: str = "linear", *reads: int, **settings: Any) -> Layer:
    return layer("Conv2D", *reads, filters=filters, activation=activation, **{"kernel_size": 3, **settings})


def stack(activation: str, seed: int = 0, gain: float = 2.0) -> Case:
    return Case((12,), [dense(10, activation), dense(8, activation), dense(4, "softmax")], seed, gain)


def bare_conv(activation: str, gain: float = 2.0) -> Case:
    layers = [conv(3, activation), layer("Flatten"), dense(3, "softmax")]
    return Case((5, 5, 2), layers, gain=gain, dense=(1, activation, 1))


def pool(kind: str, values: str = "normal", **settings: Any) -> Case:
    return Case((5, 6, 3), [layer(kind, **settings), layer("Flatten"), dense(3, "softmax")], values=values)


FLATTEN, SOFTMAX = layer("Flatten"), dense(3, "softmax")
IMAGE = (8, 8, 2)

CASES = {
    "dense_linear": stack("linear"),
    "dense_relu": stack("relu"),
    "dense_tanh": stack("tanh"),
    "dense_sigmoid": stack("sigmoid", gain=5.0),
    "dense_softmax": stack("softmax", gain=3.0),
    "dense_swish": stack("swish", gain=4.0),
    "several_sigmoids": Case((12,), [dense(10, "relu"), dense(3, "sigmoid")]),
    "one_sigmoid": Case((12,), [dense(10, "relu"), dense(1, "sigmoid")], seed=17, scaler=None),
    "one_sigmoid_scaled": Case((12,), [dense(10, "relu"), dense(1, "sigmoid")], seed=17),
    "logits": Case((12,), [dense(10, "relu"), dense(8, "relu"), dense(4)], gain=2.0),
    "own_value": stack("relu")._replace(scaler=None),
    "regression": Case((12,), [dense(10, "relu"), dense(3)], task=REGRESSION),
    "conv_max_pool": Case(
        IMAGE,
        [conv(4, "relu", padding="same"), layer("MaxPooling2D"), conv(5, "relu"), FLATTEN, dense(6, "relu"), SOFTMAX],
    ),
    "conv_global_average": Case(
        (9, 8, 2), [conv(4, "relu", padding="same", strides=2), conv(5), layer("GlobalAveragePooling2D"), SOFTMAX]
    ),
    "conv_global_max": Case(
        IMAGE, [conv(4, "relu"), conv(5, "relu", strides=2), layer("GlobalMaxPooling2D"), dense(6, "relu"), SOFTMAX]
    ),
    "conv_add": Case(
        IMAGE,
        [
            conv(4, "relu", strides=2),
            conv(4, padding="same"),
            layer("Add", 1, 2),
            layer("Activation", activation="relu"),
            FLATTEN,
            SOFTMAX,
        ],
    ),
    "conv_concatenate": Case(
        IMAGE,
        [
            conv(3, "relu", padding="same"),
            conv(2, "relu", 0, kernel_size=4, padding="same"),
            layer("Concatenate", 1, 2),
            conv(4, "relu", strides=2),
            FLATTEN,
            SOFTMAX,
        ],
    ),
    "conv_average_pool": Case(
        IMAGE, [conv(4, "relu"), layer("AveragePooling2D"), conv(3, "relu"), FLATTEN, SOFTMAX], seed=2
    ),
    "conv_1d": Case(
        (10, 3),
        [
            layer("Conv1D", filters=5, kernel_size=3, activation="relu", padding="same"),
            layer("MaxPooling1D"),
            layer("Conv1D", filters=4, kernel_size=2, activation="linear"),
            layer("GlobalAveragePooling1D"),
            SOFTMAX,
        ],
        seed=8,
    ),
    "max_pool_ties": pool("MaxPooling2D", "whole", pool_size=3, strides=2, padding="same"),
    "global_max_ties": Case((3, 3, 6), [layer("GlobalMaxPooling2D"), dense(5, "relu"), SOFTMAX], values="whole"),
    "average_pool": pool("AveragePooling2D", pool_size=2)._replace(dense=(1, "linear", 1)),
    "average_pool_padded": pool("AveragePooling2D", padding="same")._replace(dense=(1, "linear", 1)),
    "lstm": Case((6, 4), [layer("LSTM", units=5), SOFTMAX], gain=1.5),
    "lstm_sequence": Case((6, 4), [layer("LSTM", units=5, return_sequences=True), FLATTEN, SOFTMAX], gain=1.5),
    "lstm_mean": Case(
        (6, 4), [layer("LSTM", units=5, return_sequences=True), layer("GlobalAveragePooling1D"), SOFTMAX], gain=1.5
    ),
    "lstm_stack": Case(
        (5, 4),
        [layer("LSTM", units=5, return_sequences=True), layer("LSTM", units=4), dense(5, "relu"), SOFTMAX],
        seed=2,
        gain=1.5,
    ),
    "conv_tanh": bare_conv("tanh"),
    "conv_sigmoid": bare_conv("sigmoid", gain=4.0),
    "conv_swish": bare_conv("swish", gain=4.0),
    "conv_one_sided": bare_conv("relu")._replace(values="positive"),
    "conv_transpose": Case(
        (3, 3, 2),
        [layer("Conv2DTranspose", filters=3, kernel_size=2, strides=2, activation="relu"), FLATTEN, SOFTMAX],
        dense=(1, "relu", 1),
    ),
    "batch_norm": Case(
        (12,),
        [dense(8), layer("BatchNormalization"), layer("Activation", activation="tanh"), SOFTMAX],
        gain=2.0,
        dense=(2, "tanh", 1),
    ),
    "activation_apart": Case(
        (12,),
        [
            dense(10),
            layer("Activation", activation="tanh"),
            dense(8),
            layer("Activation", activation="tanh"),
            dense(4),
            layer("Activation", activation="softmax"),
        ],
        gain=2.0,
    ),
    "embedding": Case(
        (6,),
        [layer("Embedding", input_dim=TOKENS, output_dim=4), FLATTEN, dense(8, "relu"), SOFTMAX],
        values="tokens",
    ),
}


class Network(NamedTuple):
    """A Keras model and the tensors of its values, in order."""

    model: keras.Model
    values: list[Any]


def chain(shape: tuple[int, ...], layers: list[Layer], dtype: str = "float32") -> Network:
    values = [keras.Input(shape, dtype=dtype)]
    for kind, settings, reads in layers:
        operands = [values[i] for i in reads] or values[-1:]
        values.append(getattr(keras.layers, kind)(**settings)(operands if len(operands) > 1 else operands[0]))
    return Network(keras.Model(values[0], values[-1]), values)


def build(case: Case) -> Network:
    network = chain(case.shape, case.layers, "int32" if case.values == "tokens" else "float32")
    generator = np.random.default_rng([case.seed, 1])
    weights = network.model.weights
    gains = [case.gain] * (len(weights) - 2) + [1.0, 1.0]
    network.model.set_weights([_weight(generator, *pair, case) for pair in zip(weights, gains, strict=True)])
    return network


def _weight(generator: np.random.Generator, weight: tf.Variable, gain: float, case: Case) -> np.ndarray:
    drawn = generator.standard_normal(weight.shape)
    if "variance" in weight.name:
        return np.exp(drawn / 2)
    if drawn.ndim == 1:
        return drawn / 2
    if case.values == "positive" and drawn.ndim == 4:
        drawn[..., ::2] = np.abs(drawn[..., ::2])
    return gain * drawn / np.sqrt(1 if "embedding" in weight.name else np.prod(weight.shape[:-1]))


def inputs(case: Case) -> np.ndarray:
    generator = np.random.default_rng([case.seed, 2])
    shape = (EXAMPLES, *case.shape)
    if case.values == "tokens":
        return generator.integers(0, TOKENS, shape).astype(np.int32)
    x = generator.standard_normal(shape).astype(np.float32)
    return {"normal": x, "positive": np.abs(x), "whole": np.rint(x)}[case.values]


def as_dense(case: Case, network: Network) -> Network:
    """The same function with its first, linear layers as one dense layer."""
    stage, activation, trailing = case.dense
    kind, settings, reads = case.layers[stage - 1]
    bare = {**settings, "activation": "linear"} if "activation" in settings else settings
    linear = chain(case.shape, [*case.layers[: stage - 1], (kind, bare, reads)]).model
    weights = network.model.get_weights()
    linear.set_weights(weights[: len(linear.weights)])
    size = int(np.prod(case.shape))
    units = np.concatenate([np.eye(size), np.zeros((1, size))]).reshape(-1, *case.shape).astype(np.float32)
    results = linear(units, training=False).numpy().reshape(size + 1, -1)
    kernel, bias = results[:-1] - results[-1], results[-1]
    twin = chain(case.shape, [FLATTEN, dense(len(bias), activation), *case.layers[len(case.layers) - trailing :]])
    twin.model.set_weights([kernel, bias, *weights[len(linear.weights) :]])
    return twin


def explained(network: Network, x: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """Relevance of every value, as `channel/value`, examples first."""
    tracer = Backtrace(model=network.model)
    found: dict[str, list[np.ndarray]] = {}
    for example in x[:, None]:
        values = tracer.predict(example)
        for channel, relevance in _channels(tracer, values, case).items():
            for number, value in enumerate(network.values):
                found.setdefault(f"{channel}/{number}", []).append(relevance[value.name])
    return {name: np.stack(arrays).astype(np.float32) for name, arrays in found.items()}


def _channels(tracer: Backtrace, values: dict[str, np.ndarray], case: Case) -> dict[str, dict[str, np.ndarray]]:
    settings = {"scaler": case.scaler, "multiplier": 1.0, "task": case.task}
    channels = {"default": tracer.eval(values, mode="default", **settings)}
    if case.task == REGRESSION:
        return channels  # the contrastive start of a regression fails in the package
    pairs = tracer.eval(values, mode="contrast", **settings)
    for channel in ("Positive", "Negative"):
        channels[channel.lower()] = {name: pair[channel] for name, pair in pairs.items()}
    return channels


def check_steady(name: str, case: Case, network: Network, x: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Refuse a case whose relevance jumps when its weights tremble: two exact libraries could disagree there."""
    weights, generator = network.model.get_weights(), np.random.default_rng([case.seed, 3])
    network.model.set_weights([w * (1 + TREMBLE * generator.standard_normal(w.shape)) for w in weights])
    for key, relevance in explained(network, x, case).items():
        moved, size = np.abs(relevance - found[key]).max(), np.abs(found[key]).max()
        if moved > STEADY * size:
            raise SystemExit(f"{name}: {key} moves by {moved / size:.1e} when the weights tremble: choose another seed")
    network.model.set_weights(weights)


def check_untied(name: str, found: dict[str, np.ndarray]) -> None:
    """Refuse a case in which a unit's two channels are equal: the package routes those against its own rule."""
    for key in [key for key in found if key.startswith("positive/") and not key.endswith("/0")]:
        positive, negative = found[key], found[key.replace("positive", "negative")]
        if np.any((np.abs(positive - negative) <= TREMBLE * positive) & (positive > TREMBLE * positive.max())):
            raise SystemExit(f"{name}: {key} holds units with equal channels: choose another seed")


def record(name: str, case: Case) -> dict[str, np.ndarray]:
    network, x = build(case), inputs(case)
    found = explained(network, x, case)
    check_steady(name, case, network, x, found)
    if name not in TIED:
        check_untied(name, found)
    arrays = {"x": x, "y": network.model(x, training=False).numpy(), **_kept(found, case)}
    for number, value in enumerate(network.values):
        for i, weight in enumerate(value.node.layer.get_weights()):
            arrays[f"weights/{number}/{i}"] = weight
    if case.dense:
        twin = explained(as_dense(case, network), x, case)
        arrays.update({f"dense/{key}": relevance for key, relevance in twin.items() if key.endswith("/0")})
    return {f"{name}/{key}": array for key, array in arrays.items()}


def _kept(found: dict[str, np.ndarray], case: Case) -> dict[str, np.ndarray]:
    """Drop contrastive relevance between the ends, to keep the file small; an LSTM's is of use."""
    if any(kind == "LSTM" for kind, *_ in case.layers):
        return found
    ends = ("/0", f"/{len(case.layers)}")
    return {key: relevance for key, relevance in found.items() if key.startswith("default") or key.endswith(ends)}


FILE = Path(__file__).parents[1] / "cases" / "conv1d_bias_behind_squeeze.onnx"
"""A Keras network of 1-D convolutions as tf2onnx wrote it."""

FILE_CASE = Case(
    (8, 8),
    [
        layer("Conv1D", filters=8, kernel_size=3, activation="relu", padding="same", dilation_rate=2),
        layer("MaxPooling1D"),
        layer("Conv1D", filters=8, kernel_size=2, activation="relu"),
        layer("GlobalAveragePooling1D"),
        dense(10, "softmax"),
    ],
)


def record_file() -> dict[str, np.ndarray]:
    """What the package makes of the network that the file holds, in Keras layers with the file's weights."""
    from onnx import load, numpy_helper

    graph = load(FILE).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = [name for node in graph.node if node.op_type in ("Conv", "Add", "Gemm") for name in node.input]
    given = [arrays[name] for name in read if name in arrays]  # kernel and bias of each layer in turn
    weights = [w[:, :, 0].transpose(2, 1, 0) if w.ndim == 4 else w for w in given]
    network, x = chain(FILE_CASE.shape, FILE_CASE.layers), inputs(FILE_CASE)
    pairs = zip(weights, network.model.weights, strict=True)
    network.model.set_weights([w.reshape(variable.shape) for w, variable in pairs])
    found = explained(network, x, FILE_CASE)
    check_steady(FILE.name, FILE_CASE, network, x, found)
    check_untied(FILE.name, found)
    return {"x": x, "y": network.model(x, training=False).numpy(), **_kept(found, FILE_CASE)}


def main() -> None:
    np.savez_compressed(Path(__file__).with_name("dl_backtrace_file.npz"), **record_file())
    if "--file" in sys.argv:
        return
    arrays: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        arrays.update(record(name, case))
    arrays["cases"] = np.array(json.dumps({name: case._asdict() for name, case in CASES.items()}))
    np.savez_compressed(Path(__file__).with_name("dl_backtrace.npz"), **arrays)


if __name__ == "__main__":
    main()
