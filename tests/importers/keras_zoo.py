"""Tiny Keras models: every layer by family, and the classic models of each task.

Layers of a family share one model, with an input and an output each, so that one compilation compares them all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

L = keras.layers
ops = keras.ops


def _drawn(initializer: Any, shape: Any, dtype: Any = None, **settings: Any) -> Any:
    """Weights from NumPy: JAX would compile its generators for every shape."""
    values = np.random.normal(size=shape) / max(1, np.sqrt(np.prod(shape[:-1])))  # noqa: NPY002  Keras' global seed
    return keras.ops.convert_to_tensor(values.astype(dtype or "float32"))


@contextmanager
def as_keras_runs(seed: int = 0) -> Iterator[None]:
    """Keras relies on promotions that the tests forbid elsewhere; weights are drawn from a seed."""
    keras.utils.set_random_seed(seed)
    kinds = ("VarianceScaling", "Orthogonal", "RandomUniform", "RandomNormal")
    with ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for kind in kinds:
            stack.enter_context(patch.object(getattr(keras.initializers, kind), "__call__", _drawn))
        yield


@dataclass(frozen=True)
class Case:
    """A layer or a few.

    Attributes:
        name: What to call it.
        build: From its inputs to its output, or several.
        shapes: Shape of each input, without the batch.
        tokens: Whether the inputs are token ids below this number; 0: they are floats.
    """

    name: str
    build: Callable[..., Any]
    shapes: tuple[tuple[int | None, ...], ...]
    tokens: int = 0


def case(name: str, build: Callable[..., Any], *shapes: tuple[int | None, ...], tokens: int = 0) -> Case:
    """A case of inputs of these shapes."""
    return Case(name, build, shapes, tokens)


LINE, IMAGE, VOLUME, VECTOR = (9, 4), (7, 6, 4), (5, 4, 6, 2), (6,)
FIRST = {"data_format": "channels_first"}
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink",
    "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink",
)  # fmt: skip


def gated(kind: Any, **settings: Any) -> Callable[[Any], Any]:
    """A recurrent layer over embedded tokens whose padding is masked."""
    return lambda tokens: kind(3, **settings)(L.Embedding(9, 4, mask_zero=True)(tokens))


def attended(**settings: Any) -> Callable[..., Any]:
    """Multi-head attention between two sequences of embedded, padded tokens."""

    def build(query: Any, value: Any) -> Any:
        embed = L.Embedding(9, 4, mask_zero=True)
        call = {key: settings[key] for key in ("use_causal_mask",) if key in settings}
        own = {key: value for key, value in settings.items() if key not in call}
        return L.MultiHeadAttention(2, 3, **own)(embed(query), embed(value), **call)

    return build


FAMILIES: dict[str, Callable[[], list[Case]]] = {
    "dense": lambda: [
        case("Dense", L.Dense(3, activation="relu"), VECTOR),
        case("Dense_no_bias", L.Dense(3, use_bias=False), (5, 4)),
        case("EinsumDense", L.EinsumDense("abc,cde->abde", (9, 2, 3), bias_axes="de"), LINE),
        case("EinsumDense_out", L.EinsumDense("abcd,cde->abe", (7, 5), bias_axes="e"), IMAGE),
        case("EinsumDense_last", L.EinsumDense("...x,xy->...y", 3, activation="tanh"), LINE),
        case("EinsumDense_first", L.EinsumDense("abc,bd->adc", (3, 4)), LINE),
        case("Embedding", L.Embedding(9, 4), (5,), tokens=9),
        case("Dropouts", lambda x: L.GaussianNoise(0.1)(L.GaussianDropout(0.2)(L.Dropout(0.5)(L.Dense(3)(x)))), VECTOR),
        case("SpatialDropout",
             lambda x: L.ActivityRegularization(l2=0.1)(L.SpatialDropout1D(0.5)(L.Dense(3)(x))), LINE),
        case("Rescaling", L.Rescaling(1 / 255.0, offset=0.5), IMAGE),
        case("Normalization", L.Normalization(mean=[1.0] * 6, variance=[2.0] * 6), VECTOR),
        case("Normalization_back", L.Normalization(mean=[1.0] * 6, variance=[2.0] * 6, invert=True), VECTOR),
    ],
    "convolution": lambda: [
        case("Conv1D_same", L.Conv1D(3, 3, strides=2, padding="same", activation="relu"), LINE),
        case("Conv1D_causal", L.Conv1D(3, 3, padding="causal", dilation_rate=2), LINE),
        case("Conv2D", L.Conv2D(3, (3, 2), activation="relu"), IMAGE),
        case("Conv2D_same_strides", L.Conv2D(3, 3, strides=(2, 3), padding="same", use_bias=False), IMAGE),
        case("Conv2D_dilated", L.Conv2D(3, 2, dilation_rate=2, padding="same"), IMAGE),
        case("Conv2D_groups", L.Conv2D(6, 3, groups=2), IMAGE),
        case("Conv2D_softmax", L.Conv2D(3, 1, activation="softmax"), IMAGE),
        case("Conv3D", L.Conv3D(3, 2, padding="same", strides=(1, 2, 1)), VOLUME),
        case("DepthwiseConv1D", L.DepthwiseConv1D(3, depth_multiplier=2), LINE),
        case("DepthwiseConv2D", L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu"), IMAGE),
        case("DepthwiseConv2D_dilated", L.DepthwiseConv2D(2, dilation_rate=2), IMAGE),
        case("SeparableConv1D", L.SeparableConv1D(3, 3, padding="same"), LINE),
        case("SeparableConv2D", L.SeparableConv2D(3, 3, depth_multiplier=2, strides=2, activation="relu"), IMAGE),
        case("Conv1DTranspose", L.Conv1DTranspose(3, 3, strides=2, padding="same"), LINE),
        case("Conv2DTranspose", L.Conv2DTranspose(3, 3, strides=2), IMAGE),
        case("Conv2DTranspose_same", L.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu"), IMAGE),
        case("Conv2DTranspose_even", L.Conv2DTranspose(3, 4, strides=2, padding="same"), IMAGE),
        case("Conv2DTranspose_wide", L.Conv2DTranspose(3, 2, strides=3), IMAGE),
        case("Conv2DTranspose_wide_same", L.Conv2DTranspose(3, 2, strides=3, padding="same"), IMAGE),
        case("Conv2DTranspose_output", L.Conv2DTranspose(3, 3, strides=2, output_padding=1, padding="same"), IMAGE),
        case("Conv2DTranspose_dilated", L.Conv2DTranspose(3, 3, dilation_rate=2, padding="same"), IMAGE),
        case("Conv3DTranspose", L.Conv3DTranspose(3, 2, strides=2, padding="same"), VOLUME),
    ],
    "pooling": lambda: [
        case("MaxPooling1D", L.MaxPooling1D(2, padding="same"), LINE),
        case("MaxPooling2D", L.MaxPooling2D((2, 3), strides=(1, 2)), IMAGE),
        case("MaxPooling2D_same", L.MaxPooling2D(3, strides=2, padding="same"), IMAGE),
        case("MaxPooling3D", L.MaxPooling3D(2), VOLUME),
        case("AveragePooling1D", L.AveragePooling1D(2), LINE),
        case("AveragePooling2D", L.AveragePooling2D(2, strides=1), IMAGE),
        case("AveragePooling2D_same", L.AveragePooling2D(3, padding="same"), IMAGE),
        case("AveragePooling3D", L.AveragePooling3D(2, padding="same"), VOLUME),
        case("GlobalMaxPooling1D", L.GlobalMaxPooling1D(), LINE),
        case("GlobalMaxPooling2D", L.GlobalMaxPooling2D(keepdims=True), IMAGE),
        case("GlobalMaxPooling3D", L.GlobalMaxPooling3D(), VOLUME),
        case("GlobalAveragePooling1D", L.GlobalAveragePooling1D(), LINE),
        case("GlobalAveragePooling2D", L.GlobalAveragePooling2D(**FIRST), IMAGE),
        case("GlobalAveragePooling3D", L.GlobalAveragePooling3D(keepdims=True), VOLUME),
        case("GlobalAverage_masked",
             lambda x: L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True)(x)), (5,), tokens=9),
    ],
    "shape": lambda: [
        case("Flatten", L.Flatten(), IMAGE),
        case("Flatten_first", L.Flatten(**FIRST), IMAGE),
        case("Reshape", L.Reshape((6, -1)), IMAGE),
        case("Permute", L.Permute((3, 1, 2)), IMAGE),
        case("RepeatVector", L.RepeatVector(3), VECTOR),
        case("ZeroPadding1D", L.ZeroPadding1D((1, 2)), LINE),
        case("ZeroPadding2D", L.ZeroPadding2D(((1, 2), (0, 1))), IMAGE),
        case("ZeroPadding2D_first", L.ZeroPadding2D(1, **FIRST), IMAGE),
        case("ZeroPadding3D", L.ZeroPadding3D(1), VOLUME),
        case("Cropping1D", L.Cropping1D((1, 0)), LINE),
        case("Cropping2D", L.Cropping2D(((1, 2), (0, 1))), IMAGE),
        case("Cropping2D_first", L.Cropping2D(((1, 2), (0, 1)), **FIRST), IMAGE),
        case("Cropping3D", L.Cropping3D(((0, 1), (1, 0), (2, 1))), VOLUME),
        case("UpSampling1D", L.UpSampling1D(3), LINE),
        case("UpSampling2D", L.UpSampling2D((2, 3)), IMAGE),
        case("UpSampling2D_bilinear", L.UpSampling2D(2, interpolation="bilinear"), IMAGE),
        case("UpSampling2D_bicubic", L.UpSampling2D(2, interpolation="bicubic", **FIRST), IMAGE),
        case("UpSampling3D", L.UpSampling3D((1, 2, 2)), VOLUME),
        case("Resizing", L.Resizing(5, 9), IMAGE),
        case("Resizing_nearest", L.Resizing(5, 9, interpolation="nearest"), IMAGE),
        case("Resizing_bicubic", L.Resizing(10, 9, interpolation="bicubic"), IMAGE),
    ],
    "merging": lambda: [
        case("Concatenate", lambda a, b: L.Concatenate(axis=1)([a, b]), LINE, (3, 4)),
        case("Add", lambda a, b, c: L.Add()([a, b, c]), LINE, LINE, LINE),
        case("Add_ranks", lambda a, b: L.Add()([a, b]), LINE, (4,)),
        case("Subtract", lambda a, b: L.Subtract()([a, b]), LINE, LINE),
        case("Multiply", lambda a, b: L.Multiply()([a, b]), LINE, LINE),
        case("Average", lambda a, b, c: L.Average()([a, b, c]), LINE, LINE, LINE),
        case("Maximum", lambda a, b: L.Maximum()([a, b]), LINE, LINE),
        case("Minimum", lambda a, b: L.Minimum()([a, b]), LINE, LINE),
        case("Dot_vectors", lambda a, b: L.Dot(axes=1)([a, b]), VECTOR, VECTOR),
        case("Dot_normalised", lambda a, b: L.Dot(axes=1, normalize=True)([a, b]), VECTOR, VECTOR),
        case("Dot_sequences", lambda a, b: L.Dot(axes=(2, 2))([a, b]), LINE, (3, 4)),
        case("Dot_mixed", lambda a, b: L.Dot(axes=(2, 1))([a, b]), LINE, (4,)),
    ],
    "normalisation": lambda: [
        case("BatchNormalization", L.BatchNormalization(), IMAGE),
        case("BatchNormalization_first", L.BatchNormalization(axis=1, scale=False), IMAGE),
        case("LayerNormalization", L.LayerNormalization(), LINE),
        case("LayerNormalization_axes", L.LayerNormalization(axis=(1, 2)), LINE),
        case("LayerNormalization_middle", L.LayerNormalization(axis=1, center=False), LINE),
        case("LayerNormalization_plain", L.LayerNormalization(scale=False), LINE),
        case("GroupNormalization", L.GroupNormalization(2), IMAGE),
        case("GroupNormalization_first", L.GroupNormalization(7, axis=1, scale=False), IMAGE),
        case("UnitNormalization", L.UnitNormalization(), LINE),
        case("RMSNormalization", L.RMSNormalization(), LINE),
        case("SpectralNormalization", lambda x: L.SpectralNormalization(L.Dense(3))(x), VECTOR),
    ],
    "activations": lambda: [
        *(case(f"Activation_{name}", L.Activation(name), (8,)) for name in ACTIVATIONS),
        case("ReLU", L.ReLU(), VECTOR),
        case("ReLU_max", L.ReLU(max_value=1.0), VECTOR),
        case("ReLU_slope", L.ReLU(negative_slope=0.3, max_value=1.0), VECTOR),
        case("ReLU_threshold", L.ReLU(threshold=0.4, negative_slope=0.1, max_value=1.5), VECTOR),
        case("LeakyReLU", L.LeakyReLU(negative_slope=0.3), VECTOR),
        case("PReLU", L.PReLU(alpha_initializer="random_normal", shared_axes=[1]), LINE),
        case("ELU", L.ELU(alpha=0.5), VECTOR),
        case("Softmax", L.Softmax(axis=1), LINE),
        case("Softmax_axes", L.Softmax(axis=(1, 2)), LINE),
        case("Layer_as_activation", L.Dense(3, activation=L.LeakyReLU()), VECTOR),
        case("glu", lambda x: ops.glu(x), VECTOR),
        case("gelu_approximate", lambda x: ops.gelu(x, approximate=True), VECTOR),
    ],
    "recurrence": lambda: [
        case("LSTM", L.LSTM(3), LINE),
        case("LSTM_sequences", L.LSTM(3, return_sequences=True, go_backwards=True), LINE),
        case("LSTM_states", lambda x: L.Concatenate()(list(L.LSTM(3, return_state=True)(x))), LINE),
        case("LSTM_activations",
             L.LSTM(3, activation="relu", recurrent_activation="hard_sigmoid", use_bias=False), LINE),
        case("LSTM_initial",
             lambda x, h, c: L.LSTM(3, return_sequences=True)(x, initial_state=[h, c]), LINE, (3,), (3,)),
        case("GRU", L.GRU(3, return_sequences=True), LINE),
        case("GRU_before", L.GRU(3, reset_after=False, bias_initializer="random_normal"), LINE),
        case("GRU_initial", lambda x, h: L.GRU(3)(x, initial_state=h), LINE, (3,)),
        case("SimpleRNN", L.SimpleRNN(3, activation="tanh"), LINE),
        case("SimpleRNN_relu", L.SimpleRNN(3, activation="relu", go_backwards=True, return_sequences=True), LINE),
        case("RNN", lambda x: L.RNN(L.LSTMCell(3))(x), LINE),
        case("Bidirectional", L.Bidirectional(L.LSTM(3, return_sequences=True)), LINE),
        case("Bidirectional_sum", L.Bidirectional(L.GRU(3), merge_mode="sum"), LINE),
        case("Bidirectional_mul", L.Bidirectional(L.SimpleRNN(3, return_sequences=True), merge_mode="mul"), LINE),
        case("Bidirectional_ave", L.Bidirectional(L.LSTM(3), merge_mode="ave"), LINE),
        case("TimeDistributed", L.TimeDistributed(L.Dense(3, activation="relu")), LINE),
        case("TimeDistributed_images", L.TimeDistributed(L.Conv2D(2, 2)), (3, 5, 4, 2)),
    ],
    "masked recurrence": lambda: [
        case("LSTM", gated(L.LSTM), (6,), tokens=9),
        case("LSTM_sequences", gated(L.LSTM, return_sequences=True), (6,), tokens=9),
        case("LSTM_backwards", gated(L.LSTM, return_sequences=True, go_backwards=True), (6,), tokens=9),
        case("LSTM_zero", gated(L.LSTM, return_sequences=True, zero_output_for_mask=True), (6,), tokens=9),
        case("LSTM_zero_last", gated(L.LSTM, zero_output_for_mask=True), (6,), tokens=9),
        case("GRU", gated(L.GRU, return_sequences=True), (6,), tokens=9),
        case("SimpleRNN", gated(L.SimpleRNN), (6,), tokens=9),
        case("two", lambda x: L.LSTM(2)(gated(L.LSTM, return_sequences=True)(x)), (6,), tokens=9),
        case("Bidirectional", lambda x: L.Bidirectional(L.LSTM(3, return_sequences=True))(
            L.Embedding(9, 4, mask_zero=True)(x)), (6,), tokens=9),
        case("Bidirectional_last", lambda x: L.Bidirectional(L.GRU(3))(
            L.Dropout(0.1)(L.Embedding(9, 4, mask_zero=True)(x))), (6,), tokens=9),
        case("Masking", lambda x: L.GRU(3)(L.Masking(0.0)(x * ops.cast(x > 0, "float32"))), (6, 1)),
    ],
    "attention": lambda: [
        case("Attention", lambda q, v: L.Attention(use_scale=True)([q, v]), LINE, (5, 4)),
        case("Attention_keys", lambda q, v, k: L.Attention()([q, v, k], use_causal_mask=True), LINE, (5, 3), (5, 4)),
        case("Attention_concat", lambda q, v: L.Attention(score_mode="concat", use_scale=True)([q, v]), LINE, (5, 4)),
        case("AdditiveAttention", lambda q, v: L.AdditiveAttention()([q, v]), LINE, (5, 4)),
        case("Attention_masked", lambda q, v: (lambda e: L.Attention()([e(q), e(v)]))(
            L.Embedding(9, 4, mask_zero=True)), (6,), (5,), tokens=9),
        case("MultiHeadAttention", lambda q, v: L.MultiHeadAttention(2, 3, output_shape=5)(q, v), LINE, (5, 4)),
        case("MultiHeadAttention_values", lambda q, v, k: L.MultiHeadAttention(2, 3, value_dim=2, dropout=0.1)(q, v, k),
             LINE, (5, 4), (5, 3)),
        case("MultiHeadAttention_causal", lambda x: L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True), LINE),
        case("MultiHeadAttention_scores", lambda x: L.MultiHeadAttention(2, 3)(
            x, x, return_attention_scores=True)[1], LINE),
        case("MultiHeadAttention_masked", attended(), (6,), (5,), tokens=9),
        case("MultiHeadAttention_plain", attended(dropout=0.1, use_causal_mask=True), (6,), (5,), tokens=9),
        case("GroupedQueryAttention", lambda q, v: L.GroupQueryAttention(3, 4, 2)(q, v), LINE, (5, 4)),
        case("GroupedQueryAttention_causal", lambda x: L.GroupQueryAttention(3, 4, 2)(
            x, x, use_causal_mask=True), LINE),
    ],
    "operations": lambda: [
        case("arithmetic", lambda a, b: (a + b) * 2.0 - a / 3.0 + ops.square(b), LINE, LINE),
        case("slices", lambda a: a[:, 2:7:2, -1] + a[:, 0:1, 0] * a[..., 1, 1:2], LINE),
        case("shapes", lambda a: ops.transpose(ops.reshape(a, (-1, 4, 9)), (0, 2, 1)), LINE),
        case("functions", lambda a: ops.relu(a) + ops.sigmoid(a) + ops.tanh(a) + ops.softmax(a, axis=-1), LINE),
        case("reductions", lambda a: ops.mean(a, axis=1, keepdims=True) + ops.max(a, axis=(1, 2), keepdims=True), LINE),
        case("joined", lambda a, b: ops.concatenate([a, ops.expand_dims(ops.squeeze(b, 1), 1)], axis=1), LINE, (1, 4)),
        case("products",
             lambda a, b: ops.matmul(a, ops.swapaxes(b, 1, 2)) + ops.einsum("abc,adc->abd", a, b), LINE, LINE),
        case("stacked",
             lambda a: ops.stack([ops.sqrt(ops.abs(a) + 1.0), ops.exp(-a), ops.clip(a, -1.0, 1.0)], axis=1), LINE),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """A model with inputs for it."""

    model: Any
    inputs: Any


def family(name: str) -> Network:
    """A model with an output for every case of a family, and one, `answer`, that classifies by all of them."""
    inputs, outputs, arrays = {}, {}, {}
    with as_keras_runs():
        for each in FAMILIES[name]():
            names = [f"{each.name}.{number}" for number in range(len(each.shapes))]
            own = [_input(each, *known) for known in zip(names, each.shapes, strict=True)]
            outputs[each.name] = each.build(*own)
            inputs.update(zip(names, own, strict=True))
            arrays.update({n: _example(each, *k) for n, k in zip(names, enumerate(each.shapes), strict=True)})
        features = L.Concatenate()([L.Flatten()(value) for value in outputs.values()])
        outputs["answer"] = L.Dense(3, activation="softmax", name="answer")(features)
        model = keras.Model(inputs, outputs)
        unsettle(model)
    return Network(model, arrays)


def _input(each: Case, name: str, shape: tuple[int | None, ...]) -> Any:
    return L.Input(shape, name=name, dtype="int32" if each.tokens else "float32")


def _example(each: Case, number: int, shape: tuple[int | None, ...]) -> np.ndarray:
    generator = np.random.default_rng(len(each.name) + number)
    size = (3, *(7 if length is None else length for length in shape))
    if not each.tokens:
        return generator.normal(size=size).astype(np.float32)
    tokens = generator.integers(1, each.tokens, size)
    tokens[0, -2:] = tokens[1, :2] = tokens[2, 1] = 0  # padded behind, before, and in between
    return tokens.astype(np.int32)


def unsettle(model: Any) -> None:
    """Biases, scales and statistics that are not what a new layer starts with."""
    generator = np.random.default_rng(5)
    for variable in model.weights:
        value = np.asarray(variable.value)
        if value.dtype.kind == "f" and value.ndim and (value == value.flat[0]).all():
            variable.assign(value + generator.uniform(0.05, 0.4, value.shape).astype(value.dtype))


def _loan() -> Network:
    from sklearn.datasets import load_breast_cancer

    values = load_breast_cancer().data[:3].astype(np.float32)
    model = keras.Sequential([L.Input((30,)), L.Normalization(mean=values.mean(0), variance=values.var(0) + 1)])
    for layer in (L.Dense(8, activation="relu"), L.Dropout(0.2), L.Dense(1, activation="sigmoid")):
        model.add(layer)
    return Network(model, values)


def _images(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size, size, 1)).astype(np.float32)


def _fashion() -> Network:
    layers = [L.Input((28, 28, 1)), L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.BatchNormalization()]
    layers += [L.Conv2D(6, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(10, activation="softmax")]
    return Network(keras.Sequential(layers), _images(28))


def _box() -> Network:
    layers = [L.Input((12, 12, 1)), L.Conv2D(4, 3, strides=2, padding="same", activation="relu")]
    layers += [L.GlobalAveragePooling2D(), L.Dense(8, activation="relu"), L.Dense(4, activation="sigmoid")]
    return Network(keras.Sequential(layers), _images(12))


def _segmentation() -> Network:
    image = L.Input((12, 12, 1))
    seen = L.Conv2D(4, 3, padding="same", activation="relu")(image)
    small = L.Conv2D(6, 3, strides=2, padding="same", activation="relu")(seen)
    large = L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(small)
    joined = L.Concatenate()([seen, large])
    return Network(keras.Model(image, L.Conv2D(1, 1, activation="sigmoid")(joined)), _images(12))


SENTENCES = np.array([[3, 5, 2, 7, 0, 0], [4, 4, 1, 8, 6, 2]], np.int32)


def _sentiment() -> Network:
    layers = [L.Input((6,)), L.Embedding(9, 4, mask_zero=True), L.LSTM(5), L.Dense(1, activation="sigmoid")]
    return Network(keras.Sequential(layers), SENTENCES)


def _next_word() -> Network:
    layers = [L.Input((None,)), L.Embedding(9, 4), L.LSTM(5, return_sequences=True), L.LSTM(4)]
    return Network(keras.Sequential([*layers, L.Dense(9, activation="softmax")]), SENTENCES)


def _block(value: Any, context: Any = None, **settings: Any) -> Any:
    """Attention and a feed-forward net, each added to what came in and normalised."""
    looked = L.MultiHeadAttention(2, 4)(value, value if context is None else context, **settings)
    value = L.LayerNormalization()(L.Add()([value, looked]))
    thought = L.Dense(8)(L.Dense(12, activation="gelu")(value))
    return L.LayerNormalization()(value + thought)


def _embedded(tokens: Any) -> Any:
    return L.Embedding(9, 8, mask_zero=True)(tokens) + L.Embedding(6, 8)(np.arange(6))


def _encoder() -> Network:
    tokens = L.Input((6,), name="tokens")
    pooled = L.GlobalAveragePooling1D()(_block(_embedded(tokens)))
    return Network(keras.Model(tokens, L.Dense(3, activation="softmax")(pooled)), SENTENCES)


def _translation() -> Network:
    source, target = L.Input((6,), name="source", dtype="int32"), L.Input((6,), name="target", dtype="int32")
    context = _block(_embedded(source))
    said = _block(_embedded(target), use_causal_mask=True)
    answer = L.Dense(9, activation="softmax")(_block(said, context))
    return Network(keras.Model([source, target], answer), [SENTENCES, SENTENCES[::-1].copy()])


CLASSICS: dict[str, tuple[Callable[[], Network], str, str]] = {
    "loan": (_loan, "auto", "lrp-epsilon-plus"),
    "fashion": (_fashion, "auto", "lrp-epsilon-plus"),
    "box": (_box, "bbox-regression", "lrp-epsilon-plus"),
    "segmentation": (_segmentation, "binary-segmentation", "lrp-epsilon-plus"),
    "sentiment": (_sentiment, "auto", "lrp-epsilon-plus"),
    "next word": (_next_word, "auto", "lrp-epsilon-plus"),
    "encoder": (_encoder, "auto", "attnlrp"),
    "translation": (_translation, "next-token", "attnlrp"),
}
"""Model, task, and the third mode it is explained in."""


def classic(name: str) -> Network:
    """One of the classic models, with biases and statistics that do something."""
    with as_keras_runs():
        found = CLASSICS[name][0]()
        unsettle(found.model)
    return found
