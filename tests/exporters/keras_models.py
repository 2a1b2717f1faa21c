"""The networks as functional Keras models, for Keras 2 (with TensorFlow) and Keras 3 alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from .weights import HEADS, LENGTH, OVER_TOKENS, SHAPES, WIDTH, WORDS, angles, weights_of

HEAD = WIDTH // HEADS


class Twin:
    """Layers named after the weights that they take.

    Attributes:
        layers: Keras' layers.
        ops: Operations on symbols: `keras.ops`, or TensorFlow's under the same names.
        weights: The network's weights by their names in torch.
    """

    def __init__(self, keras: Any, ops: Any, name: str) -> None:
        self.keras, self.layers, self.ops, self.name = keras, keras.layers, ops, name
        self.weights = weights_of(name)
        self.filled: list[tuple[Any, list[np.ndarray]]] = []

    def model(self) -> Any:
        """The network, with its weights."""
        kind = "int32" if self.name in OVER_TOKENS else "float32"
        x = self.layers.Input(SHAPES[self.name][1:], name="x", dtype=kind)
        found = self.keras.Model(x, BUILDERS[self.name](self, x))
        for layer, arrays in self.filled:
            layer.set_weights(arrays)
        return found

    def put(self, layer: Any, *arrays: np.ndarray | None) -> Any:
        """A layer that gets these weights as soon as it has any."""
        self.filled.append((layer, [each for each in arrays if each is not None]))
        return layer

    def bias(self, name: str) -> np.ndarray | None:
        return self.weights.get(f"{name}.bias")

    def dense(self, name: str, x: Any, **settings: Any) -> Any:
        kernel, bias = self.weights[f"{name}.weight"], self.bias(name)
        layer = self.layers.Dense(len(kernel), use_bias=bias is not None, name=name, **settings)
        return self.put(layer, kernel.T, bias)(x)

    def conv(self, name: str, x: Any, **settings: Any) -> Any:
        kernel, bias = self.weights[f"{name}.weight"], self.bias(name)
        kind = self.layers.Conv1D if kernel.ndim == 3 else self.layers.Conv2D
        layer = kind(len(kernel), kernel.shape[2:], use_bias=bias is not None, name=name, **settings)
        return self.put(layer, np.moveaxis(kernel, (0, 1), (-1, -2)), bias)(x)

    def depthwise(self, name: str, x: Any) -> Any:
        kernel, bias = self.weights[f"{name}.weight"], self.bias(name)
        layer = self.layers.DepthwiseConv2D(kernel.shape[2:], padding="same", use_bias=bias is not None, name=name)
        return self.put(layer, np.moveaxis(kernel, (0, 1), (-2, -1)), bias)(x)

    def batch_norm(self, name: str, x: Any) -> Any:
        arrays = [self.weights[f"{name}.{each}"] for each in ("weight", "bias", "running_mean", "running_var")]
        return self.put(self.layers.BatchNormalization(epsilon=1e-5, name=name), *arrays)(x)

    def layer_norm(self, name: str, x: Any, epsilon: float = 1e-5) -> Any:
        layer = self.layers.LayerNormalization(epsilon=epsilon, name=name)
        return self.put(layer, self.weights[f"{name}.weight"], self.bias(name))(x)

    def words(self, ids: Any) -> Any:
        return self.put(self.layers.Embedding(WORDS, WIDTH, name="words"), self.weights["words.weight"])(ids)

    def attention(self, x: Any, **settings: Any) -> Any:
        """Keras' own attention of a sequence to itself."""
        layer = self.layers.MultiHeadAttention(HEADS, HEAD, name="attention")
        arrays: list[np.ndarray] = []
        for part in ("query", "key", "value"):
            kernel, bias = (self.weights[f"attention.{part}.{each}"] for each in ("weight", "bias"))
            arrays += [kernel.T.reshape(WIDTH, HEADS, HEAD), bias.reshape(HEADS, HEAD)]
        kernel, bias = (self.weights[f"attention.output.{each}"] for each in ("weight", "bias"))
        return self.put(layer, *arrays, kernel.T.reshape(HEADS, HEAD, WIDTH), bias)(x, x, **settings)

    def relu(self, x: Any) -> Any:
        return self.layers.ReLU()(x)

    def swish(self, x: Any) -> Any:
        return self.layers.Activation("swish")(x)

    def add(self, *xs: Any) -> Any:
        return self.layers.Add()(list(xs))


def mlp(twin: Twin, x: Any) -> Any:
    x = twin.relu(twin.batch_norm("bn1", twin.dense("fc1", x)))
    x = twin.batch_norm("bn2", twin.dense("fc2", x, activation="tanh"))
    return twin.dense("fc3", x, activation="softmax")


def resnet(twin: Twin, x: Any) -> Any:
    x = twin.relu(twin.batch_norm("bn1", twin.conv("conv1", x, padding="same")))
    x = twin.layers.MaxPooling2D(2)(x)
    h = twin.relu(twin.batch_norm("bn2", twin.conv("conv2", x, padding="same")))
    h = twin.batch_norm("bn3", twin.conv("conv3", h, padding="same"))
    return twin.dense("fc", twin.layers.GlobalAveragePooling2D()(twin.relu(twin.add(h, x))))


def series(twin: Twin, x: Any) -> Any:
    x = twin.relu(twin.batch_norm("bn1", twin.conv("conv1", x, padding="same")))
    x = twin.conv("conv2", twin.layers.MaxPooling1D(2)(x), activation="elu")
    return twin.dense("fc", twin.layers.GlobalAveragePooling1D()(x))


def mobile(twin: Twin, x: Any) -> Any:
    x = twin.conv("stem", x, padding="same")
    h = twin.swish(twin.batch_norm("bn1", twin.conv("expand", x)))
    h = twin.swish(twin.batch_norm("bn2", twin.depthwise("depthwise", h)))
    gate = twin.conv("squeeze", twin.layers.GlobalAveragePooling2D(keepdims=True)(h), activation="swish")
    h = twin.layers.Multiply()([h, twin.conv("excite", gate, activation="sigmoid")])
    x = twin.add(x, twin.batch_norm("bn3", twin.conv("project", h)))
    return twin.dense("fc", twin.layers.GlobalAveragePooling2D()(x))


def convnext(twin: Twin, x: Any) -> Any:
    x = twin.conv("stem", x, strides=2)
    h = twin.layer_norm("norm1", twin.depthwise("depthwise", x), 1e-6)
    h = twin.dense("fc2", twin.dense("fc1", h, activation="gelu")) * twin.weights["scale"]
    x = twin.layers.GlobalAveragePooling2D()(twin.add(x, h))
    return twin.dense("fc", twin.layer_norm("norm2", x, 1e-6))


def unet(twin: Twin, x: Any) -> Any:
    a = twin.conv("down1", x, padding="same", activation="relu")
    b = twin.conv("down2", twin.layers.MaxPooling2D(2)(a), padding="same", activation="relu")
    kernel = twin.weights["up.weight"]
    up = twin.layers.Conv2DTranspose(kernel.shape[1], 2, strides=2, name="up")
    up = twin.put(up, kernel.transpose(2, 3, 1, 0), twin.bias("up"))(b)
    h = twin.conv("join", twin.layers.Concatenate()([up, a]), padding="same", activation="relu")
    return twin.conv("mask", h, activation="sigmoid")


def recurrence(twin: Twin, layer: Any, order: list[int], biases: np.ndarray, x: Any) -> Any:
    """A recurrence whose gates come in this order in Keras."""

    def gates(array: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(array, len(order))[each] for each in order])

    kernels = (gates(twin.weights[f"cell.weight_{each}_l0"]).T for each in ("ih", "hh"))
    return twin.put(layer, *kernels, np.apply_along_axis(gates, -1, biases))(x)


def lstm(twin: Twin, x: Any) -> Any:
    biases = twin.weights["cell.bias_ih_l0"] + twin.weights["cell.bias_hh_l0"]
    return twin.dense("fc", recurrence(twin, twin.layers.LSTM(5), [0, 1, 2, 3], biases, x))


def gru(twin: Twin, x: Any) -> Any:
    biases = np.stack([twin.weights["cell.bias_ih_l0"], twin.weights["cell.bias_hh_l0"]])
    x = recurrence(twin, twin.layers.GRU(5, return_sequences=True), [1, 0, 2], biases, x)
    return twin.dense("fc", twin.layers.GlobalAveragePooling1D()(x))


def bert(twin: Twin, ids: Any) -> Any:
    x = twin.layer_norm("norm1", twin.words(ids) + twin.weights["places"])
    x = twin.layer_norm("norm2", twin.add(twin.attention(x), x))
    x = twin.layer_norm("norm3", twin.add(twin.dense("fc2", twin.dense("fc1", x, activation="gelu")), x))
    return twin.dense("fc", x[:, 0])


def gpt(twin: Twin, ids: Any) -> Any:
    x = twin.words(ids) + twin.weights["places"]
    x = twin.add(x, twin.attention(twin.layer_norm("norm1", x), use_causal_mask=True))
    h = twin.keras.activations.gelu(twin.dense("fc1", twin.layer_norm("norm2", x)), approximate=True)
    x = twin.add(x, twin.dense("fc2", h))
    return twin.dense("fc", twin.layer_norm("norm3", x)[:, -1])


def llama(twin: Twin, ids: Any) -> Any:
    ops, turns = twin.ops, angles()

    def rms(name: str, x: Any) -> Any:
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6) * twin.weights[f"{name}.weight"]

    def heads(name: str, x: Any) -> Any:
        return ops.transpose(ops.reshape(twin.dense(f"attention.{name}", x), (-1, LENGTH, HEADS, HEAD)), (0, 2, 1, 3))

    def turn(x: Any) -> Any:
        first, second = ops.split(x, 2, axis=-1)
        return x * np.cos(turns) + ops.concatenate([-second, first], axis=-1) * np.sin(turns)

    x = twin.words(ids)
    h = rms("norm1", x)
    q, k, v = turn(heads("query", h)), turn(heads("key", h)), heads("value", h)
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / np.float32(HEAD**0.5)
    mixed = ops.matmul(ops.softmax(scores + np.triu(np.full((LENGTH, LENGTH), -1e9, np.float32), 1)), v)
    x = x + twin.dense("attention.output", ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, LENGTH, WIDTH)))
    h = rms("norm2", x)
    x = x + twin.dense("down", ops.silu(twin.dense("gate", h)) * twin.dense("up", h))
    return twin.dense("fc", rms("norm3", x)[:, -1])


def vit(twin: Twin, x: Any) -> Any:
    x = twin.layers.Reshape((4, WIDTH))(twin.conv("patches", x, strides=2))
    first = twin.ops.zeros_like(x[:, :1]) + twin.weights["first"]
    x = twin.ops.concatenate([first, x], axis=1) + twin.weights["places"]
    x = twin.add(x, twin.attention(twin.layer_norm("norm1", x)))
    x = twin.add(x, twin.dense("fc2", twin.dense("fc1", twin.layer_norm("norm2", x), activation="gelu")))
    return twin.dense("fc", twin.layer_norm("norm3", x)[:, 0])


BUILDERS = {each.__name__: each for each in (
    mlp, resnet, series, mobile, convnext, unet, lstm, gru, bert, gpt, llama, vit,
)}  # fmt: skip


def build(name: str) -> Any:
    """A network as a model of Keras 3."""
    import keras

    return Twin(keras, keras.ops, name).model()
