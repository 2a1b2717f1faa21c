"""Every operation of keras.ops that a functional model can hold, in small models.

An operation is called on inputs of its own. Where it answers with integers or truth values, no relevance can come back:
these are the `BLIND` ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from .keras_zoo import L, Network, as_keras_runs, keras, ops, unsettle

A, B, IMAGE = (4, 3), (2, 6, 6, 3), (6, 6, 3)
_GENERATOR = np.random.default_rng(3)


def _array(*shape: int) -> np.ndarray:
    return _GENERATOR.normal(size=shape).astype(np.float32)


KERNEL, DEEP, POINT = _array(3, 3, 3, 2), _array(3, 3, 3, 2), _array(1, 1, 6, 2)
IDS = np.array([0, 2, 1, 2])


@dataclass(frozen=True)
class Call:
    """An operation called on inputs of these shapes, without the batch (with it: `whole`)."""

    build: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = (A,)
    whole: bool = False


def one(build: Callable[..., Any], *shapes: tuple[int, ...], **settings: Any) -> Call:
    return Call(build, shapes or (A,), **settings)


def two(build: Callable[..., Any], **settings: Any) -> Call:
    return Call(build, (A, A), **settings)


def whole(build: Callable[..., Any], *shapes: tuple[int, ...], **settings: Any) -> Call:
    """With the first axis fixed, so that it can be any axis."""
    return Call(build, shapes or (A,), whole=True, **settings)


def same(*names: str) -> dict[str, Call]:
    """Operations of one value and nothing else."""
    return {name: one(getattr(ops, name)) for name in names}


def pairs(*names: str) -> dict[str, Call]:
    return {name: two(getattr(ops, name)) for name in names}


def each(names: str, build: Callable[..., Any], *shapes: tuple[int, ...], **settings: Any) -> dict[str, Call]:
    """Operations called alike: `build(operation, *inputs)`."""
    return {name: one(partial(build, getattr(ops, name)), *shapes, **settings) for name in names.split()}


def holed(x: Any) -> Any:
    """Some entries are NaN, the first of each row is not."""
    return x + ops.where(ops.concatenate([x[..., :1] * 0, x[..., 1:]], -1) > 0.5, math.nan, 0.0)


ENTRY = {
    **same("abs", "absolute", "arcsinh", "arctan", "cbrt", "celu", "conj", "conjugate", "copy", "cos", "cosh",
           "deg2rad", "elu", "erf", "erfc", "exp", "exp2", "expm1", "fabs", "gelu", "hard_shrink", "hard_sigmoid",
           "hard_silu", "hard_swish", "hard_tanh", "leaky_relu", "log_sigmoid", "log_softmax", "negative", "rad2deg",
           "real", "reciprocal", "relu", "relu6", "selu", "sigmoid", "silu", "sin", "sinc", "sinh", "soft_shrink",
           "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "square", "squareplus",
           "stop_gradient", "swish", "tan", "tanh", "tanh_shrink"),
    **each("log log10 log1p log2 rsqrt sqrt", lambda f, x: f(ops.abs(x) + 0.5)),
    **each("arccos arcsin arctanh", lambda f, x: f(ops.tanh(x) * 0.9)),
    **pairs("add", "arctan2", "divide", "divide_no_nan", "fmax", "fmin", "fmod", "hypot", "logaddexp", "logaddexp2",
            "maximum", "minimum", "mod", "multiply", "subtract", "true_divide"),
    "arccosh": one(lambda x: ops.arccosh(ops.abs(x) + 1.5)),
    "array": one(lambda x: ops.array(x)),
    "cast": one(lambda x: ops.cast(x, "float32") * 2),
    "ceil": one(lambda x: ops.ceil(x * 3)),
    "clip": one(lambda x: ops.clip(x, -0.5, 1)),
    "convert_to_tensor": one(lambda x: ops.convert_to_tensor(x) * 2),
    "floor": one(lambda x: ops.floor(x * 3)),
    "floor_divide": one(lambda x: ops.floor_divide(x * 5, 2)),
    "glu": one(lambda x: ops.glu(x, axis=1)),
    "heaviside": two(lambda x, y: ops.heaviside(x, y) + ops.heaviside(x * 0, y)),
    "ldexp": one(lambda x: ops.ldexp(x, np.array([1, -1, 2]))),
    "nan_to_num": one(lambda x: ops.nan_to_num(
        ops.where(x > 0.8, math.nan, ops.where(x < -0.8, -math.inf, x)), neginf=-3.0)),
    "normalize": one(lambda x: sum(ops.normalize(x, axis=1, order=order) for order in (1, 2, 3))),
    "power": one(lambda x: ops.power(ops.abs(x) + 0.1, 1.5)),
    "round": one(lambda x: ops.round(x, 1)),
    "saturate_cast": one(lambda x: ops.cast(ops.saturate_cast(x * 200, "int8"), "float32") + x),
    "select": two(lambda x, y: ops.select([x > 0.5, y > 0], [x, y * 2], 0.25)),
    "sign": one(lambda x: ops.sign(x)),
    "threshold": one(lambda x: ops.threshold(x, 0.2, -1.0)),
    "trunc": one(lambda x: ops.trunc(x * 3)),
    "where": two(lambda x, y: ops.where(x > 0, x, y)),
}  # fmt: skip

ALONG = {
    **each("amax amin logsumexp max mean min prod std sum var",
           lambda f, x: f(x, axis=1) + f(x, axis=(1, 2), keepdims=True)[:, 0]),
    **each("nancumsum nancumprod nanmax nanmean nanmin nanprod nanstd nansum nanvar",
           lambda f, x: f(holed(x), axis=2)),
    "adaptive_average_pool": one(lambda x: ops.adaptive_average_pool(x, (4, 3), "channels_first"), (3, 6, 7)),
    "adaptive_max_pool": one(lambda x: ops.adaptive_max_pool(x, (4, 3), "channels_first"), (3, 6, 7)),
    "average": one(lambda x: ops.average(x, axis=1) + ops.average(x, axis=2, weights=np.array([1.0, 2, 5]))[:, :3]),
    "cumprod": one(lambda x: ops.cumprod(x, axis=1)),
    "cumsum": one(lambda x: ops.cumsum(x, axis=1)),
    "diff": one(lambda x: ops.diff(x, n=2, axis=1)),
    "median": one(lambda x: ops.median(x, axis=1) + ops.median(x, axis=(1, 2), keepdims=True)[:, 0]),
    "moments": one(lambda x: ops.add(*ops.moments(x, axes=[1]))),
    "percentile": one(lambda x: ops.percentile(x, 30, axis=2) + ops.percentile(x, 70, axis=2, method="nearest")),
    "ptp": one(lambda x: ops.ptp(x, axis=1)),
    "sort": one(lambda x: ops.sort(x, axis=1)),
    "top_k": one(lambda x: ops.top_k(x, 2)[0]),
    "trapezoid": one(lambda x: ops.trapezoid(x, dx=0.5, axis=1) + ops.trapezoid(x, x=np.array([0, 1, 3, 4.5]), axis=1)),
}  # fmt: skip

MOVED = {
    "append": two(lambda x, y: ops.append(x, y, axis=1)),
    "array_split": one(lambda x: ops.concatenate(ops.array_split(x, 3, axis=1)[::-1], axis=1)),
    "concatenate": two(lambda x, y: ops.concatenate([x, y], axis=-1)),
    "depth_to_space": one(lambda x: ops.depth_to_space(x, 2), (3, 2, 8)),
    "diagonal": one(lambda x: ops.diagonal(x, offset=1, axis1=1, axis2=2) + ops.diagonal(x, -2, 1, 2)),
    "dsplit": one(lambda x: ops.dsplit(x, 3)[1]),
    "dstack": two(lambda x, y: ops.dstack([x, y])),
    "einsum": two(lambda x, y: ops.einsum("abc,adc->abd", x, y)),
    "expand_dims": one(lambda x: ops.expand_dims(x, (1, -1))),
    "flip": one(lambda x: ops.flip(x, axis=(1, 2))),
    "fliplr": one(lambda x: ops.fliplr(x)),
    "fold": one(lambda x: ops.fold(x, (5, 5), (2, 2), padding=1, stride=2), (8, 9)),
    "get_item": one(lambda x: ops.get_item(x, (slice(None), slice(1, 3), -1))),
    "hsplit": one(lambda x: ops.hsplit(x, [1])[1]),
    "hstack": two(lambda x, y: ops.hstack([x, y])),
    "moveaxis": one(lambda x: ops.moveaxis(x, 2, 1)),
    "pad": one(lambda x: sum(
        ops.pad(x, ((0, 0), (1, 2), (0, 1)), mode) for mode in ("constant", "reflect", "symmetric"))),
    "ravel": one(lambda x: ops.reshape(ops.ravel(x), (-1, 12))),
    "repeat": one(lambda x: ops.repeat(x, 2, axis=1) + ops.repeat(x, np.array([1, 2, 3, 2]), axis=1)),
    "reshape": one(lambda x: ops.reshape(x, (-1, 2, 6))),
    "roll": one(lambda x: ops.roll(x, 1, axis=1) + ops.roll(x, (-2, 1), axis=(1, 2))),
    "rot90": one(lambda x: ops.rot90(x, axes=(1, 2)) + ops.rot90(x, k=3, axes=(1, 2))),
    "slice_update": two(lambda x, y: ops.slice_update(x, (0, 1, 1), y[:, :2, :2])),
    "space_to_depth": one(lambda x: ops.space_to_depth(x, 2), (4, 6, 2)),
    "split": one(lambda x: ops.split(x, 2, axis=1)[1] + ops.split(x, [1, 3], axis=1)[1]),
    "squeeze": one(lambda x: ops.squeeze(x, 1), (1, 4)),
    "stack": two(lambda x, y: ops.stack([x, y], axis=2)),
    "swapaxes": one(lambda x: ops.swapaxes(x, 1, 2)),
    "take": one(lambda x: ops.take(x, [2, 0, 2], axis=1)),
    "take_along_axis": one(lambda x: ops.take_along_axis(x, np.array([[[1, 0, 3]]]), axis=1)),
    "tile": one(lambda x: ops.tile(x, (1, 2, 3))),
    "trace": one(lambda x: ops.trace(x, offset=1, axis1=1, axis2=2)),
    "transpose": one(lambda x: ops.transpose(x, (0, 2, 1))),
    "tril": one(lambda x: ops.tril(x, k=-1)),
    "triu": one(lambda x: ops.triu(x, k=1)),
    "unfold": one(lambda x: ops.unfold(x, (2, 3), dilation=(1, 2), padding=1, stride=2), (2, 5, 6)),
    "unstack": one(lambda x: ops.unstack(x, axis=1)[2]),
}  # fmt: skip

PRODUCTS = {
    "average_pool": one(lambda x: ops.average_pool(x, 2, 2, padding="same"), IMAGE),
    "batch_normalization": one(lambda x: ops.batch_normalization(
        x, np.float32([0.1, 0.2, -1]), np.float32([1, 2, 0.5]), 2, np.float32([1, 0, 2]), np.float32([2, 1, 1]))),
    "cdist": two(lambda x, y: ops.cdist(x, y)),
    "conv": one(lambda x: ops.conv(x, KERNEL, 2, "same"), IMAGE),
    "cross": two(lambda x, y: ops.cross(x, y)),
    "depthwise_conv": one(lambda x: ops.depthwise_conv(x, DEEP), IMAGE),
    "dot": one(lambda x: ops.dot(x, _array(3, 5))),
    "dot_product_attention": one(lambda q, k, v: ops.dot_product_attention(q, k, v, is_causal=True),
                                 (4, 2, 3), (4, 2, 3), (4, 2, 3)),
    "inner": one(lambda x: ops.inner(x, _array(5, 3))),
    "kron": one(lambda x: ops.kron(x, _array(1, 2, 2))),
    "layer_normalization": one(
        lambda x: ops.layer_normalization(x, _array(3), _array(3)) + ops.layer_normalization(x, axis=1)),
    "matmul": two(lambda x, y: ops.matmul(x, ops.swapaxes(y, 1, 2))),
    "max_pool": one(lambda x: ops.max_pool(x, 2, 1), IMAGE),
    "rms_normalization": one(lambda x: ops.rms_normalization(x, _array(3))),
    "separable_conv": one(lambda x: ops.separable_conv(x, DEEP, POINT, 1, "same"), IMAGE),
    "tensordot": one(lambda x: ops.tensordot(x, _array(3, 4, 2), axes=[[1, 2], [1, 0]])),
    "binary_crossentropy": two(lambda x, y: ops.binary_crossentropy(ops.sigmoid(x), ops.sigmoid(y))
                               + ops.binary_crossentropy(ops.sigmoid(x), y, from_logits=True)),
    "categorical_crossentropy": two(lambda x, y: ops.categorical_crossentropy(ops.softmax(x), ops.softmax(y))
                                    + ops.categorical_crossentropy(x, y, from_logits=True)),
    "sparse_categorical_crossentropy": one(lambda x: ops.sparse_categorical_crossentropy(
        ops.argmax(x, axis=-1), ops.softmax(x))),
    "extract_sequences": one(lambda x: ops.extract_sequences(x, 3, 2), (2, 9)),
    "fft": two(lambda x, y: ops.add(*ops.fft((x, y)))),
    "fft2": two(lambda x, y: ops.add(*ops.fft2((x, y)))),
    "ifft2": two(lambda x, y: ops.add(*ops.ifft2((x, y)))),
    "irfft": two(lambda x, y: ops.irfft((x, y)) + ops.irfft((x, y), 4)),
    "rfft": one(lambda x: ops.concatenate(ops.rfft(x), -1)),
    "stft": one(lambda x: ops.concatenate(ops.stft(x, 6, 3, 8), -1), (24,)),
    "image.crop_images": one(lambda x: ops.image.crop_images(x, 1, 2, target_height=3, target_width=4), IMAGE),
    "image.extract_patches": one(lambda x: ops.image.extract_patches(x, (2, 3), 2, padding="same"), IMAGE),
    "image.extract_patches_3d": one(lambda x: ops.image.extract_patches_3d(x, (2, 2, 3), 2), (4, 5, 6, 2)),
    "image.gaussian_blur": one(lambda x: ops.image.gaussian_blur(x, (3, 5), (1.0, 0.7)), IMAGE),
    "image.pad_images": one(lambda x: ops.image.pad_images(x, 1, 2, target_height=9, target_width=10), IMAGE),
    "image.resize": one(lambda x: ops.image.resize(x, (4, 9)) + ops.image.resize(x, (4, 9), "bicubic")
                        + ops.image.resize(x, (4, 9), "nearest"), IMAGE),
    "image.rgb_to_grayscale": one(lambda x: ops.image.rgb_to_grayscale(x), IMAGE),
    "image.sobel_edges": one(lambda x: ops.image.sobel_edges(x), IMAGE),
}  # fmt: skip

WHOLE = {
    "broadcast_to": whole(lambda x: ops.broadcast_to(x, (2, 4, 3)), (1, 3)),
    "diag": whole(lambda x: ops.diag(x, 1), (3,)),
    "diagflat": whole(lambda x: ops.diagflat(x, -1), (2, 2)),
    "full": whole(lambda x: ops.full((2, 3), x), ()),
    "flipud": whole(lambda x: ops.flipud(x)),
    "meshgrid": whole(lambda x, y: ops.add(*ops.meshgrid(x, y)), (3,), (4,)),
    "outer": whole(lambda x, y: ops.outer(x, y), (3,), (4,)),
    "psnr": whole(lambda x, y: ops.psnr(x, y, 2.0), (3, 4), (3, 4)),
    "scatter": whole(lambda x: ops.scatter(np.array([[0, 1], [2, 2], [0, 1], [3, 0]]), x, (4, 3)), (4,)),
    "scatter_update": whole(lambda x, y: ops.scatter_update(x, np.array([[0, 1], [2, 2]]), y), A, (2,)),
    "segment_max": whole(lambda x: ops.segment_max(x, IDS, 3)),
    "segment_min": whole(lambda x: ops.segment_min(x, IDS, 3)),
    "segment_prod": whole(lambda x: ops.segment_prod(x, IDS, 3)),
    "segment_sum": whole(lambda x: ops.segment_sum(x, IDS, 3)),
    "slice": whole(lambda x: ops.slice(x, (1, 0), (2, 3))),
    "vander": whole(lambda x: ops.vander(x, 3), (4,)),
    "vdot": whole(lambda x, y: ops.vdot(x, y), (3,), (3,)),
    "vsplit": whole(lambda x: ops.vsplit(x, 2)[1]),
    "vstack": whole(lambda x, y: ops.vstack([x, y]), (3,), (3,)),
}  # fmt: skip

BLIND = {
    **each("all any", lambda f, x: f(x > 0.5, axis=1)),
    **each("argmax argmin argsort count_nonzero", lambda f, x: f(x, axis=1)),
    **pairs("equal", "greater", "greater_equal", "less", "less_equal", "logical_and", "logical_or", "logical_xor",
            "not_equal"),
    **same("angle", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "isreal", "logical_not", "signbit",
           "imag", "ones_like", "zeros_like", "empty_like"),
    **each("bitwise_and bitwise_or bitwise_xor", lambda f, *x: f(*(ops.cast(y * 9, "int32") for y in x)), A, A),
    **each("bitwise_invert bitwise_not", lambda f, x: f(ops.cast(x * 9, "int32"))),
    "allclose": whole(lambda x, y: ops.allclose(x, y), A, A),
    "digitize": one(lambda x: ops.digitize(x, np.array([-1.0, 0.0, 0.5]))),
    "full_like": one(lambda x: ops.full_like(x, 2.5)),
    "in_top_k": one(lambda x: ops.in_top_k(ops.argmin(x, axis=1), x, 2), (4,)),
    "isclose": two(lambda x, y: ops.isclose(x, y, rtol=0.5, atol=0.1)),
    "isin": one(lambda x: ops.isin(ops.round(x), np.array([0.0, 1.0]))),
    "multi_hot": one(lambda x: ops.multi_hot(ops.argmax(x, axis=2), 5)),
    "nanargmax": one(lambda x: ops.nanargmax(holed(x), axis=2)),
    "nanargmin": one(lambda x: ops.nanargmin(holed(x), axis=2)),
    "one_hot": one(lambda x: ops.one_hot(ops.argmax(x, axis=2), 5, axis=1)),
    "searchsorted": one(lambda x: ops.searchsorted(np.float32([-1, 0, 0.5]), x, side="right")),
    "unravel_index": one(lambda x: ops.stack(ops.unravel_index(ops.argmax(x, axis=1), (2, 3)), 1)),
}  # fmt: skip

UNRUN = {  # Keras 3.15 cannot run these in a functional model on JAX (compiled), though by themselves it can
    "conv_transpose": one(lambda x: ops.conv_transpose(x, np.swapaxes(KERNEL, 2, 3), 2, "same"), IMAGE),
    "norm": one(lambda x: sum(ops.norm(x, axis=1, ord=p) for p in (None, 1, 2, 3, math.inf, -math.inf))
                + sum(ops.norm(x, axis=(1, 2), ord=p, keepdims=True) for p in ("fro", 1, -1, math.inf))[:, 0]),
    "rearrange": whole(lambda x: ops.rearrange(x, "b (p t) c -> b t (p c)", p=2), (2, 4, 3)),
    "quantile": one(lambda x: ops.quantile(x, np.array([0.1, 0.5, 0.8]), axis=1)[2] + sum(
        ops.quantile(x, 0.4, axis=1, method=method) for method in ("lower", "higher", "midpoint"))),
}  # fmt: skip

FAMILIES: dict[str, dict[str, Call]] = {
    "entry by entry": ENTRY,
    "along axes": ALONG,
    "moved": MOVED,
    "products": PRODUCTS,
    "whole": WHOLE,
    "blind": BLIND,
}


@lru_cache
def family(name: str) -> Network:
    """A model with an output for every operation of a family, and one, `answer`, of all that bear relevance."""
    inputs, outputs, arrays = {}, {}, {}
    with as_keras_runs():
        for operation, call in FAMILIES[name].items():
            names = [f"{operation}.{number}" for number in range(len(call.shapes))]
            for own, shape in zip(names, call.shapes, strict=True):
                inputs[own] = L.Input(batch_shape=shape, name=own) if call.whole else L.Input(shape, name=own)
                arrays[own] = _example(own, shape if call.whole else (3, *shape))
            outputs[f"{operation}.out"] = call.build(*(inputs[own] for own in names))
        if name != "blind":
            rows = [_row(outputs[f"{operation}.out"], call) for operation, call in FAMILIES[name].items()]
            outputs["answer"] = L.Dense(2, name="answer")(L.Concatenate()(rows))
        model = keras.Model(inputs, outputs)
        unsettle(model)
    return Network(model, arrays)


def alone(call: Call) -> Network:
    """A model of one operation."""
    with as_keras_runs():
        inputs = [
            L.Input(batch_shape=shape, name=f"x{i}") if call.whole else L.Input(shape, name=f"x{i}")
            for i, shape in enumerate(call.shapes)
        ]
        model = keras.Model(inputs, call.build(*inputs))
    arrays = {f"x{i}": _example(f"x{i}", shape if call.whole else (3, *shape)) for i, shape in enumerate(call.shapes)}
    return Network(model, arrays)


def _row(value: Any, call: Call) -> Any:
    """All entries of an example; of all examples where the batch is fixed."""
    size = math.prod(value.shape if call.whole else value.shape[1:])
    return ops.reshape(value, (1 if call.whole else -1, size))


def _example(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(map(ord, name))).normal(size=shape).astype(np.float32)
