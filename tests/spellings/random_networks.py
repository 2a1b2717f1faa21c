"""Random small networks in the plainest spelling: a few blocks of many kinds on a vector, a sequence or an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .networks import attention, head, norm
from .writing import Net


@dataclass
class Growing:
    """A network being put together: the value at hand, its shape, and what chances are drawn from."""

    net: Net
    value: str
    shape: tuple[int, ...]

    def any(self, choices: list[Any]) -> Any:
        return choices[int(self.net.generator.integers(len(choices)))]

    def becomes(self, value: str, *shape: int) -> None:
        self.value, self.shape = value, shape or self.shape


def activation(new: Growing) -> None:
    op, settings = new.any(ACTIVATIONS)
    new.becomes(getattr(new.net, op)(new.value, **settings))


def silu(new: Growing) -> None:
    new.becomes(new.net.Mul(new.value, new.net.Sigmoid(new.value)))


def scaled(new: Growing) -> None:
    width = new.shape[1] if len(new.shape) == 4 else new.shape[-1]
    along = (width, 1, 1) if len(new.shape) == 4 else (width,)
    op, other = new.any(
        [("Mul", new.net.scales(width)), ("Add", new.net.vector(width)), ("Sub", new.net.vector(width))]
    )
    new.becomes(getattr(new.net, op)(new.value, other.reshape(along)))


def dense(new: Growing) -> None:
    units = new.any([3, 4, 5])
    new.becomes(new.net.dense(new.value, new.shape[-1], units, new.any([True, False])), *new.shape[:-1], units)


def layer_norm(new: Growing) -> None:
    new.becomes(norm(new.net, new.value, new.shape[-1]))


def perceptron(new: Growing) -> None:
    """A residual block of two dense layers."""
    before, width = new.value, new.shape[-1]
    new.becomes(new.net.dense(new.value, width, 6))
    activation(new)
    new.becomes(new.net.Add(before, new.net.dense(new.value, 6, width)))


def gated(new: Growing) -> None:
    width = new.shape[-1]
    gate = new.net.Sigmoid(new.net.dense(new.value, width, 4))
    new.becomes(new.net.Mul(new.net.dense(new.value, width, 4), gate), *new.shape[:-1], 4)


def attended(new: Growing) -> None:
    _, length, width = new.shape
    if width == 4:
        new.becomes(new.net.Add(new.value, attention(new.net, norm(new.net, new.value, 4), 4, 2, length)))


def turned(new: Growing) -> None:
    _, length, width = new.shape
    new.becomes(new.net.Transpose(new.value, perm=[0, 2, 1]), 1, width, length)


def convolved(new: Growing) -> None:
    _, channels, *sizes = new.shape
    filters, groups = channels * new.any([1, 2]), new.any([1, channels])
    if channels <= 4:
        edges = {"pads": [1, 1, 1, 1], "group": groups}
        new.becomes(new.net.conv(new.value, channels, filters, 3, 3, **edges), 1, filters, *sizes)


def pooled(new: Growing) -> None:
    _, channels, height, width = new.shape
    if min(height, width) >= 4:
        op = new.any(["MaxPool", "AveragePool"])
        halves = getattr(new.net, op)(new.value, kernel_shape=[2, 2], strides=[2, 2])
        new.becomes(halves, 1, channels, height // 2, width // 2)


def batch_norm(new: Growing) -> None:
    channels = new.shape[1]
    moments = new.net.vector(channels), new.net.scales(channels)
    new.becomes(new.net.BatchNormalization(new.value, new.net.scales(channels), new.net.vector(channels), *moments))


def residual(new: Growing) -> None:
    before, channels = new.value, new.shape[1]
    h = new.net.Relu(new.net.conv(new.value, channels, channels, 3, 3, pads=[1, 1, 1, 1]))
    new.becomes(new.net.Add(new.net.conv(h, channels, channels, 1, 1), before))


def excited(new: Growing) -> None:
    """Squeeze and excite."""
    channels = new.shape[1]
    gate = new.net.Sigmoid(new.net.conv(new.net.GlobalAveragePool(new.value), channels, channels, 1, 1))
    new.becomes(new.net.Mul(new.value, gate))


ACTIVATIONS = [
    *((op, {}) for op in ("Relu", "Tanh", "Sigmoid", "Gelu", "HardSwish", "Softplus", "Mish")),
    ("Gelu", {"approximate": "tanh"}),
    ("Elu", {"alpha": 0.7}),
    ("LeakyRelu", {"alpha": 0.1}),
]
ANYWHERE: list[Callable[[Growing], None]] = [activation, activation, silu, scaled]
ON_ROWS = [dense, dense, layer_norm, perceptron, gated]
BLOCKS = {
    "vector": ((1, 5), [*ANYWHERE, *ON_ROWS]),
    "sequence": ((1, 3, 4), [*ANYWHERE, *ON_ROWS, attended, attended, turned]),
    "image": ((1, 2, 4, 4), [*ANYWHERE, convolved, convolved, pooled, batch_norm, residual, excited]),
}


def random_network(seed: int) -> onnx.ModelProto:
    """The network of this number, with three class scores: the same one every time."""
    net = Net(seed)
    shape, blocks = BLOCKS[list(BLOCKS)[seed % len(BLOCKS)]]
    new = Growing(net, net.input(*shape), shape)
    for _ in range(int(net.generator.integers(2, 6))):
        new.any(blocks)(new)
    if len(new.shape) == 4:
        new.becomes(net.Flatten(net.GlobalAveragePool(new.value)), 1, new.shape[1])
    elif len(new.shape) == 3:
        new.becomes(net.ReduceMean(new.value, np.array([1]), keepdims=0), 1, new.shape[-1])
    return net.finish(head(net, new.value, new.shape[-1]))
