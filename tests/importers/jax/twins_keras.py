"""Some of the networks of `twins_torch` in Keras, with the weights of a torch module."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.importers.keras_zoo import L, keras

from .same_weights import as_array, as_kernel
from .twins_torch import CLASSES


def _put(layer: Any, source: Any, x: Any) -> Any:
    """A layer's result, once it has the weights of a torch module."""
    y = layer(x)
    if isinstance(source, nn.BatchNorm2d):
        found = [source.weight, source.bias, source.running_mean, source.running_var]
        layer.set_weights([as_array(each) for each in found])
    elif isinstance(source, nn.LSTM):
        bias = as_array(source.bias_ih_l0) + as_array(source.bias_hh_l0)
        layer.set_weights([as_array(source.weight_ih_l0).T, as_array(source.weight_hh_l0).T, bias])
    else:
        layer.set_weights([as_kernel(source), *([] if source.bias is None else [as_array(source.bias)])])
    return y


def _conv(source: Any, x: Any) -> Any:
    """A convolution, its border around it as torch has it."""
    (border, _), (size, _), (stride, _) = source.padding, source.kernel_size, source.stride
    x = L.ZeroPadding2D(border)(x) if border else x
    return _put(L.Conv2D(source.out_channels, size, stride, use_bias=source.bias is not None), source, x)


def lenet(source: Any) -> Any:
    start = L.Input((16, 16, 1))
    x = L.AveragePooling2D(2)(L.ReLU()(_conv(source.conv1, start)))
    x = L.MaxPooling2D(2)(L.ReLU()(_conv(source.conv2, x)))
    x = L.Flatten()(L.Permute((3, 1, 2))(x))
    x = _put(L.Dense(8, "relu"), source.fc2, _put(L.Dense(10, "relu"), source.fc1, x))
    return keras.Model(start, _put(L.Dense(CLASSES), source.fc3, x))


def _normed(conv: Any, norm: Any, x: Any) -> Any:
    return _put(L.BatchNormalization(epsilon=1e-5), norm, _conv(conv, x))


def resnet(source: Any) -> Any:
    start = L.Input((16, 16, 3))
    x = L.ReLU()(_normed(source.conv, source.bn, start))
    x = L.MaxPooling2D(3, 2)(L.ZeroPadding2D(1)(x))
    for block in source.blocks:
        skip = x if block.short is None else _normed(block.short, block.bn3, x)
        hidden = L.ReLU()(_normed(block.conv1, block.bn1, x))
        x = L.ReLU()(L.Add()([_normed(block.conv2, block.bn2, hidden), skip]))
    return keras.Model(start, _put(L.Dense(CLASSES), source.head, L.GlobalAveragePooling2D()(x)))


def lstm(source: Any) -> Any:
    start = L.Input((6, 4))
    x = L.GlobalAveragePooling1D()(_put(L.LSTM(5, return_sequences=True), source.body, start))
    return keras.Model(start, _put(L.Dense(CLASSES), source.head, x))


BUILT = {"LeNet": lenet, "ResNet": resnet, "Lstm": lstm}
