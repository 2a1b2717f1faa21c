"""Small networks of many kinds, each in the plainest spelling that ONNX has."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from .writing import INT, Net

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {}


def network(function: Callable[[Net], str | tuple[str, ...]]) -> Callable[[Net], str | tuple[str, ...]]:
    """Put a network in the table; it is given what to write with, and gives the name of its output."""

    def build() -> onnx.ModelProto:
        net = Net(len(function.__name__))
        found = function(net)
        return net.finish(*((found,) if isinstance(found, str) else found))

    NETWORKS[function.__name__] = build
    return function


def head(net: Net, x: str, features: int, classes: int = 3) -> str:
    """Class scores of [1, features]."""
    return net.Gemm(x, net.weight(features, classes, fan=features), net.vector(classes))


def classifier(net: Net, x: str, channels: int) -> str:
    """Class scores of [1, channels, height, width], by its mean."""
    return head(net, net.Flatten(net.GlobalAveragePool(x)), channels)


def norm(net: Net, x: str, size: int) -> str:
    return net.LayerNormalization(x, net.scales(size), net.vector(size), axis=-1, epsilon=1e-5)


@network
def mlp(net):
    x = net.input(1, 6)
    h = net.Relu(net.Gemm(x, net.weight(5, 6), net.vector(5), transB=1))
    return head(net, net.Tanh(head(net, h, 5, 4)), 4)


@network
def mlp_sigmoid(net):
    h = net.Sigmoid(net.dense(net.input(1, 6), 6, 8))
    return net.Sigmoid(net.dense(net.Tanh(net.dense(h, 8, 5)), 5, 1))


@network
def mlp_softmax(net):
    h = net.Elu(net.dense(net.input(1, 6), 6, 8), alpha=0.7)
    return net.Softmax(net.dense(net.Softplus(net.dense(h, 8, 5)), 5, 3), axis=-1)


@network
def lenet(net):
    h = net.MaxPool(net.Relu(net.conv(net.input(1, 1, 8, 8), 1, 3, 3, 3)), kernel_shape=[2, 2], strides=[2, 2])
    h = net.Relu(net.conv(h, 3, 4, 2, 2))
    return head(net, net.Relu(head(net, net.Flatten(h), 16, 5)), 5)


@network
def conv1d(net):
    h = net.Relu(net.conv(net.input(1, 3, 10), 3, 5, 3))
    h = net.conv(net.MaxPool(h, kernel_shape=[2], strides=[2]), 5, 4, 2)
    return head(net, net.Squeeze(net.GlobalAveragePool(h), [2]), 4)


@network
def conv3d(net):
    h = net.Relu(net.conv(net.input(1, 2, 4, 4, 4), 2, 3, 2, 2, 2))
    return head(net, net.Flatten(net.AveragePool(h, kernel_shape=[3, 3, 3])), 3)


@network
def resnet(net):
    x = net.input(1, 2, 6, 6)
    stem = net.Relu(net.conv(x, 2, 4, 3, 3, pads=[1, 1, 1, 1]))
    h = net.Relu(net.conv(stem, 4, 4, 3, 3, pads=[1, 1, 1, 1]))
    h = net.conv(h, 4, 4, 3, 3, pads=[1, 1, 1, 1])
    return classifier(net, net.Relu(net.Add(h, stem)), 4)


@network
def resnet_norms(net):
    """A convolution with batch norm, strided, beside a projection."""
    x = net.input(1, 2, 6, 6)

    def normed(y: str, channels: int) -> str:
        moments = net.vector(channels), net.scales(channels)
        return net.BatchNormalization(y, net.scales(channels), net.vector(channels), *moments)

    h = net.Relu(normed(net.Conv(x, net.weight(4, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]), 4))
    h = normed(net.Conv(h, net.weight(4, 4, 3, 3), pads=[1, 1, 1, 1]), 4)
    beside = normed(net.Conv(x, net.weight(4, 2, 1, 1), strides=[2, 2]), 4)
    return classifier(net, net.Relu(net.Add(h, beside)), 4)


@network
def mobile(net):
    """An inverted residual: expansion, depthwise convolution, hard swish, squeeze and excite, projection."""
    x = net.conv(net.input(1, 2, 6, 6), 2, 4, 3, 3, pads=[1, 1, 1, 1])
    h = net.HardSwish(net.conv(x, 4, 6, 1, 1))
    h = net.HardSwish(net.conv(h, 6, 6, 3, 3, group=6, pads=[1, 1, 1, 1]))
    gate = net.Relu(net.conv(net.GlobalAveragePool(h), 6, 2, 1, 1))
    gate = net.HardSigmoid(net.conv(gate, 2, 6, 1, 1), alpha=1 / 6, beta=0.5)
    h = net.Add(net.conv(net.Mul(h, gate), 6, 4, 1, 1), x)
    return classifier(net, net.Clip(h, np.float32(0), np.float32(6)), 4)


@network
def grouped(net):
    h = net.Mul(y := net.conv(net.input(1, 4, 5, 5), 4, 6, 3, 3, group=2), net.Sigmoid(y))
    return classifier(net, net.LeakyRelu(net.conv(h, 6, 6, 2, 2, group=3), alpha=0.1), 6)


def attention(net: Net, x: str, width: int, heads: int, length: int, mask: np.ndarray | None = None) -> str:
    """Softmax attention by three projections, then one for the output."""
    size = width // heads

    def split(y: str, perm: list[int]) -> str:
        return net.Transpose(net.Reshape(y, np.array([1, length, heads, size])), perm=perm)

    q, k, v = (split(net.dense(x, width, width), perm) for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = net.Mul(net.MatMul(q, k), np.float32(1 / math.sqrt(size)))
    scores = scores if mask is None else net.Add(scores, mask.astype(np.float32))
    mixed = net.Transpose(net.MatMul(net.Softmax(scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.dense(net.Reshape(mixed, np.array([1, length, width])), width, width)


def causal(length: int) -> np.ndarray:
    return np.triu(np.full((1, 1, length, length), -1e9), 1)


@network
def vit(net):
    """Patches as tokens, positions, a pre-norm block."""
    patches = net.Conv(net.input(1, 1, 4, 6), net.weight(4, 1, 2, 2), net.vector(4), strides=[2, 2])
    tokens = net.Transpose(net.Reshape(patches, np.array([1, 4, 6])), perm=[0, 2, 1])
    x = net.Add(tokens, net.weight(1, 6, 4, fan=1))
    x = net.Add(x, attention(net, norm(net, x, 4), 4, 2, 6))
    h = net.Gelu(net.dense(norm(net, x, 4), 4, 8))
    x = net.Add(x, net.dense(h, 8, 4))
    return head(net, net.ReduceMean(norm(net, x, 4), [1], keepdims=0), 4)


@network
def bert(net):
    """Three embeddings, a post-norm block, the first token's class."""
    ids = net.input(1, 5, name="ids", dtype=INT)
    words = net.Gather(net.weight(9, 4, fan=1), ids)
    rows = net.Add(net.Add(words, net.weight(1, 5, 4, fan=1)), net.weight(1, 1, 4, fan=1))
    x = norm(net, rows, 4)
    x = norm(net, net.Add(attention(net, x, 4, 2, 5), x), 4)
    h = net.dense(net.Gelu(net.dense(x, 4, 8)), 8, 4)
    x = norm(net, net.Add(h, x), 4)
    return head(net, net.Gather(x, np.array(0), axis=1), 4)


@network
def gpt(net):
    """Tokens and positions, a causal pre-norm block with the tanh GELU."""
    ids = net.input(1, 5, name="ids", dtype=INT)
    x = net.Add(net.Gather(net.weight(9, 4, fan=1), ids), net.weight(1, 5, 4, fan=1))
    x = net.Add(x, attention(net, norm(net, x, 4), 4, 2, 5, causal(5)))
    h = net.Gelu(net.dense(norm(net, x, 4), 4, 8), approximate="tanh")
    x = norm(net, net.Add(x, net.dense(h, 8, 4)), 4)
    return net.MatMul(net.Gather(x, np.array(4), axis=1), net.weight(4, 9, fan=4))


@network
def llama(net):
    """RMS norms, SwiGLU, no biases."""
    x = net.input(1, 4, 6)

    def rms(y: str) -> str:
        square = net.ReduceMean(net.Pow(y, np.float32(2)), [-1], keepdims=1)
        inverse = net.Reciprocal(net.Sqrt(net.Add(square, np.float32(1e-6))))
        return net.Mul(net.Mul(y, inverse), net.scales(6))

    h = rms(x)
    gate = net.dense(h, 6, 8, bias=False)
    h = net.Mul(net.Mul(gate, net.Sigmoid(gate)), net.dense(h, 6, 8, bias=False))
    x = net.Add(x, net.dense(h, 8, 6, bias=False))
    return net.dense(net.ReduceMean(rms(x), [1], keepdims=0), 6, 3, bias=False)


@network
def unet(net):
    """Down, up by nearest neighbours, a skip by concatenation, a mask as output's mean."""
    a = net.Relu(net.conv(net.input(1, 1, 6, 6), 1, 3, 3, 3, pads=[1, 1, 1, 1]))
    b = net.Relu(net.conv(net.MaxPool(a, kernel_shape=[2, 2], strides=[2, 2]), 3, 4, 3, 3, pads=[1, 1, 1, 1]))
    up = net.Resize(
        b,
        None,
        np.array([1.0, 1.0, 2.0, 2.0]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    h = net.conv(net.Concat(up, a, axis=1), 7, 2, 3, 3, pads=[1, 1, 1, 1])
    return classifier(net, net.Relu(h), 2)


@network
def unet_transposed(net):
    """Up by a transposed convolution."""
    a = net.Relu(net.conv(net.input(1, 1, 6, 6), 1, 3, 3, 3, pads=[1, 1, 1, 1]))
    b = net.Relu(net.conv(a, 3, 4, 2, 2, strides=[2, 2]))
    up = net.ConvTranspose(b, net.weight(4, 3, 2, 2), net.vector(3), strides=[2, 2])
    return classifier(net, net.Sigmoid(net.conv(net.Concat(up, a, axis=1), 6, 2, 1, 1)), 2)


@network
def inception(net):
    x = net.input(1, 2, 6, 6)
    a = net.Relu(net.conv(x, 2, 2, 1, 1))
    b = net.Relu(net.conv(net.Relu(net.conv(x, 2, 2, 1, 1)), 2, 3, 3, 3, pads=[1, 1, 1, 1]))
    c = net.Relu(net.conv(net.MaxPool(x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 2, 2, 1, 1))
    return classifier(net, net.Concat(a, b, c, axis=1), 7)


@network
def densenet(net):
    """Batch norm before the convolution, concatenation."""
    x = net.conv(net.input(1, 2, 5, 5), 2, 3, 3, 3, pads=[1, 1, 1, 1])
    normed = net.BatchNormalization(x, net.scales(3), net.vector(3), net.vector(3), net.scales(3))
    h = net.conv(net.Relu(normed), 3, 2, 3, 3, pads=[1, 1, 1, 1])
    return classifier(net, net.Relu(net.Concat(x, h, axis=1)), 5)


@network
def instance_norm(net):
    h = net.conv(net.input(1, 2, 5, 5), 2, 4, 3, 3)
    h = net.Relu(net.InstanceNormalization(h, net.scales(4), net.vector(4), epsilon=1e-5))
    return classifier(net, h, 4)


@network
def group_norm(net):
    """As torch exports it before opset 21: by instance normalisation, then a scale and a shift."""
    h = net.conv(net.input(1, 2, 5, 5), 2, 4, 3, 3)
    rows = net.Reshape(h, np.array([1, 2, -1]))
    y = net.Reshape(net.InstanceNormalization(rows, np.ones(2), np.zeros(2), epsilon=1e-5), np.array([1, 4, 3, 3]))
    y = net.Add(net.Mul(y, net.scales(4).reshape(4, 1, 1)), net.vector(4).reshape(4, 1, 1))
    return classifier(net, net.Mul(y, net.Sigmoid(y)), 4)


@network
def convnext(net):
    """Depthwise convolution, layer norm and dense layers with channels last, layer scale."""
    x = net.conv(net.input(1, 2, 6, 6), 2, 4, 2, 2, strides=[2, 2])
    h = net.Transpose(net.conv(x, 4, 4, 3, 3, group=4, pads=[1, 1, 1, 1]), perm=[0, 2, 3, 1])
    h = net.dense(net.Gelu(net.dense(norm(net, h, 4), 4, 8)), 8, 4)
    h = net.Transpose(net.Mul(h, net.scales(4)), perm=[0, 3, 1, 2])
    return classifier(net, net.Add(x, h), 4)


@network
def mixer(net):
    """Dense layers over tokens, then over channels."""
    x = net.Add(net.input(1, 4, 6), net.weight(1, 4, 6, fan=1))
    h = net.Transpose(norm(net, x, 6), perm=[0, 2, 1])
    h = net.dense(net.Gelu(net.dense(h, 4, 5)), 5, 4)
    x = net.Add(x, net.Transpose(h, perm=[0, 2, 1]))
    x = net.Add(x, net.dense(net.Gelu(net.dense(norm(net, x, 6), 6, 7)), 7, 6))
    return head(net, net.ReduceMean(x, [1], keepdims=0), 6)


@network
def text_cnn(net):
    """Embedded tokens, convolutions of several widths, maxima over time."""
    ids = net.input(1, 7, name="ids", dtype=INT)
    x = net.Transpose(net.Gather(net.weight(9, 4, fan=1), ids), perm=[0, 2, 1])
    parts = [net.ReduceMax(net.Relu(net.conv(x, 4, 3, width)), [2], keepdims=1) for width in (2, 3, 4)]
    return head(net, net.Flatten(net.Concat(*parts, axis=1)), 9)


@network
def cross_attention(net):
    """One value asks, another one answers."""
    x, memory = net.input(1, 3, 4), net.input(1, 5, 4, name="memory")
    q, k, v = net.dense(x, 4, 4), net.dense(memory, 4, 4), net.dense(memory, 4, 4)
    scores = net.Mul(net.MatMul(q, net.Transpose(k, perm=[0, 2, 1])), np.float32(0.5))
    mixed = net.dense(net.MatMul(net.Softmax(scores, axis=-1), v), 4, 4)
    return head(net, net.ReduceMean(norm(net, net.Add(x, mixed), 4), [1], keepdims=0), 4)


@network
def t5(net):
    """No scale, a position bias, RMS norms, gated GELU."""
    x = net.input(1, 4, 4)
    q, k, v = (net.dense(x, 4, 4, bias=False) for _ in range(3))
    scores = net.Add(net.MatMul(q, net.Transpose(k, perm=[0, 2, 1])), net.weight(1, 4, 4, fan=1))
    x = net.Add(x, net.dense(net.MatMul(net.Softmax(scores, axis=-1), v), 4, 4, bias=False))
    h = net.Mul(net.Gelu(net.dense(x, 4, 6, bias=False), approximate="tanh"), net.dense(x, 4, 6, bias=False))
    return head(net, net.ReduceMean(net.Add(x, net.dense(h, 6, 4, bias=False)), [1], keepdims=0), 4)


@network
def glu(net):
    """A gated dense layer whose halves come from one product."""
    x = net.input(1, 4, 6)
    a, b = net.Split(net.dense(x, 6, 8), axis=-1, num_outputs=2, results=2)
    h = net.Mul(a, net.Sigmoid(b))
    return head(net, net.ReduceMean(h, [1], keepdims=0), 4)


@network
def rnn_cell(net):
    """Two steps of an LSTM cell written out, its gates from one product."""
    x, memory, hidden = net.input(1, 2, 3), np.zeros((1, 3)), net.vector(3)[None]
    K, U, bias = net.weight(3, 12, fan=3), net.weight(3, 12, fan=3), net.vector(12)
    for step in range(2):
        z = net.Add(net.Add(net.MatMul(net.Gather(x, np.array(step), axis=1), K), bias), net.MatMul(hidden, U))
        i, f, g, o = net.Split(z, axis=-1, num_outputs=4, results=4)
        memory = net.Add(net.Mul(net.Sigmoid(f), memory), net.Mul(net.Sigmoid(i), net.Tanh(g)))
        hidden = net.Mul(net.Sigmoid(o), net.Tanh(memory))
    return head(net, hidden, 3)


def recurrent(net: Net, op: str, gates: int, **settings: int) -> str:
    """[1, time, features] through a recurrent layer, its last state's class."""
    x = net.Transpose(norm(net, net.dense(net.input(1, 5, 3), 3, 3), 3), perm=[1, 0, 2])
    weights = net.weight(1, 4 * gates, 3, fan=3), net.weight(1, 4 * gates, 4, fan=4), net.vector(8 * gates)[None]
    _, last = getattr(net, op)(x, *weights, results=2, hidden_size=4, **settings)
    return head(net, net.Tanh(net.dense(net.Squeeze(last, [0]), 4, 4)), 4)


@network
def lstm(net):
    return recurrent(net, "LSTM", 4)


@network
def gru(net):
    return recurrent(net, "GRU", 3, linear_before_reset=1)


@network
def elman(net):
    return recurrent(net, "RNN", 1)


@network
def arithmetic(net):
    """Differences, negations, squares, quotients between dense layers."""
    h = net.dense(net.input(1, 6), 6, 5)
    g = net.Sub(h, net.Neg(net.Tanh(net.dense(h, 5, 5))))
    g = net.Div(net.Sub(net.Pow(g, np.float32(2)), net.Relu(h)), np.float32(3))
    scale = net.Add(net.Sqrt(net.Add(net.ReduceMean(net.Mul(h, h), [1]), np.float32(0.5))), np.float32(1))
    return head(net, net.Div(g, scale), 5)


@network
def autoencoder(net):
    h = net.Softsign(net.dense(net.Sigmoid(net.dense(net.input(1, 6), 6, 4)), 4, 2))
    return net.Sigmoid(net.dense(net.Relu(net.dense(h, 2, 4)), 4, 6))


@network
def mish_net(net):
    h = net.Mish(net.conv(net.input(1, 2, 6), 2, 4, 3))
    h = net.Clip(net.conv(h, 4, 4, 2), np.float32(-1), np.float32(1))
    return head(net, net.Flatten(h), 12)


@network
def resnet_1d(net):
    x = net.Relu(net.conv(net.input(1, 2, 9), 2, 4, 3, pads=[1, 1]))
    h = net.conv(net.Relu(net.conv(x, 4, 4, 3, pads=[1, 1])), 4, 4, 3, pads=[1, 1])
    return head(net, net.Flatten(net.GlobalAveragePool(net.Relu(net.Add(h, x)))), 4)


@network
def temporal(net):
    """Dilated causal convolutions, gated by tanh and sigmoid."""
    x = net.conv(net.input(1, 2, 8), 2, 3, 1)
    for dilation in (1, 2):
        settings = {"pads": [dilation, 0], "dilations": [dilation]}
        gate = net.Sigmoid(net.conv(x, 3, 3, 2, **settings))
        x = net.Add(x, net.Mul(net.Tanh(net.conv(x, 3, 3, 2, **settings)), gate))
    return head(net, net.Flatten(net.GlobalAveragePool(x)), 3)


@network
def perceiver(net):
    """Latents that are parameters ask; what is asked bears relevance."""
    memory = net.input(1, 5, 4)
    k, v = net.dense(memory, 4, 4), net.dense(memory, 4, 4)
    scores = net.Mul(net.MatMul(net.weight(1, 2, 4, fan=1), net.Transpose(k, perm=[0, 2, 1])), np.float32(0.5))
    return head(net, net.Flatten(net.MatMul(net.Softmax(scores, axis=-1), v)), 8)


@network
def siamese(net):
    """The same weights twice, and the difference."""
    K, bias = net.weight(4, 5, fan=4), net.vector(5)

    def branch(x: str) -> str:
        return net.Tanh(net.Add(net.MatMul(x, K), bias))

    return head(net, net.Sub(branch(net.input(1, 4)), branch(net.input(1, 4, name="other"))), 5)


@network
def regression(net):
    """Dense layers with hard sigmoid and leaky rectifiers, one number out."""
    h = net.LeakyRelu(net.dense(net.input(1, 5), 5, 6), alpha=0.2)
    h = net.HardSigmoid(net.dense(h, 6, 4), alpha=1 / 6, beta=0.5)
    return net.dense(h, 4, 1)


@network
def shuffle(net):
    """Grouped 1x1 convolutions with a shuffle of channels between."""
    h = net.Relu(net.conv(net.input(1, 4, 4, 4), 4, 4, 1, 1, group=2))
    parted = net.Transpose(net.Reshape(h, np.array([1, 2, 2, 4, 4])), perm=[0, 2, 1, 3, 4])
    return classifier(net, net.Relu(net.conv(net.Reshape(parted, np.array([1, 4, 4, 4])), 4, 4, 3, 3, group=2)), 4)


@network
def vgg(net):
    h = net.input(1, 2, 8, 8)
    for channels, filters in ((2, 3), (3, 4)):
        h = net.Relu(net.conv(h, channels, filters, 3, 3, pads=[1, 1, 1, 1]))
        h = net.AveragePool(h, kernel_shape=[2, 2], strides=[2, 2])
    return head(net, net.Relu(head(net, net.Flatten(h), 16, 6)), 6)
