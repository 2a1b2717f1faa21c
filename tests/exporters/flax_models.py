"""The networks as functions of JAX made of flax' layers, for jax2onnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .weights import HEADS, LENGTH, WIDTH, angles, weights_of

HEAD = WIDTH // HEADS
RNGS = nnx.Rngs(0)
Layer = Callable[[Any], Any]


class Twin:
    """Layers filled with the weights that they are named after."""

    def __init__(self, name: str) -> None:
        self.weights = {key: jnp.asarray(array) for key, array in weights_of(name).items()}

    def bias(self, name: str) -> Any:
        return self.weights.get(f"{name}.bias")

    def dense(self, name: str) -> Layer:
        kernel, bias = self.weights[f"{name}.weight"], self.bias(name)
        layer = nnx.Linear(kernel.shape[1], kernel.shape[0], use_bias=bias is not None, rngs=RNGS)
        return _filled(layer, kernel=kernel.T, bias=bias)

    def conv(self, name: str, padding: str = "SAME", strides: int = 1, groups: int = 1) -> Layer:
        kernel, bias = jnp.moveaxis(self.weights[f"{name}.weight"], (0, 1), (-1, -2)), self.bias(name)
        layer = nnx.Conv(
            kernel.shape[-2] * groups,
            kernel.shape[-1],
            kernel.shape[:-2],
            strides=strides,
            padding=padding,
            feature_group_count=groups,
            use_bias=bias is not None,
            rngs=RNGS,
        )
        return _filled(layer, kernel=kernel, bias=bias)

    def up(self, name: str) -> Layer:
        kernel = self.weights[f"{name}.weight"].transpose(2, 3, 0, 1)[::-1, ::-1]
        layer = nnx.ConvTranspose(*kernel.shape[2:], kernel.shape[:2], strides=(2, 2), padding="VALID", rngs=RNGS)
        return _filled(layer, kernel=kernel, bias=self.bias(name))

    def batch_norm(self, name: str) -> Layer:
        scale, bias, mean, var = (
            self.weights[f"{name}.{each}"] for each in ("weight", "bias", "running_mean", "running_var")
        )
        layer = nnx.BatchNorm(len(scale), use_running_average=True, epsilon=1e-5, rngs=RNGS)
        return _filled(layer, scale=scale, bias=bias, mean=mean, var=var)

    def layer_norm(self, name: str, epsilon: float = 1e-5) -> Layer:
        scale = self.weights[f"{name}.weight"]
        return _filled(nnx.LayerNorm(len(scale), epsilon=epsilon, rngs=RNGS), scale=scale, bias=self.bias(name))

    def rms_norm(self, name: str) -> Layer:
        scale = self.weights[f"{name}.weight"]
        return _filled(nnx.RMSNorm(len(scale), epsilon=1e-6, rngs=RNGS), scale=scale)

    def words(self) -> Layer:
        table = self.weights["words.weight"]
        return _filled(nnx.Embed(*table.shape, rngs=RNGS), embedding=table)

    def attention(self) -> Callable[..., Any]:
        """Attention of [batch, time, heads, features], as flax lays it out."""
        query, key, value, output = (self.dense(f"attention.{each}") for each in ("query", "key", "value", "output"))

        def forward(x: Any, mask: Any = None, turn: Layer = lambda heads: heads) -> Any:
            q, k, v = (part(x).reshape(*x.shape[:2], HEADS, HEAD) for part in (query, key, value))
            scores = jnp.einsum("bqhd,bkhd->bhqk", turn(q) / jnp.sqrt(HEAD).astype(x.dtype), turn(k))
            scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
            return output(mixed.reshape(x.shape))

        return forward


def _filled(layer: Any, **arrays: Any) -> Any:
    for key, array in arrays.items():
        if array is not None:
            getattr(layer, key)[...] = array
    return layer


def causal() -> Any:
    return jnp.asarray(np.tril(np.ones((1, 1, LENGTH, LENGTH), bool)))


def mlp(twin: Twin) -> Layer:
    fc1, bn1, fc2, bn2, fc3 = (
        twin.dense("fc1"), twin.batch_norm("bn1"), twin.dense("fc2"), twin.batch_norm("bn2"), twin.dense("fc3"),
    )  # fmt: skip
    return lambda x: jax.nn.softmax(fc3(bn2(jnp.tanh(fc2(nnx.relu(bn1(fc1(x))))))))


def resnet(twin: Twin) -> Layer:
    convs = [twin.conv(f"conv{k}") for k in (1, 2, 3)]
    norms, fc = [twin.batch_norm(f"bn{k}") for k in (1, 2, 3)], twin.dense("fc")

    def forward(x: Any) -> Any:
        x = nnx.max_pool(nnx.relu(norms[0](convs[0](x))), window_shape=(2, 2), strides=(2, 2))
        h = nnx.relu(norms[1](convs[1](x)))
        x = nnx.relu(norms[2](convs[2](h)) + x)
        return fc(x.mean((1, 2)))

    return forward


def series(twin: Twin) -> Layer:
    conv1, bn1, conv2, fc = twin.conv("conv1"), twin.batch_norm("bn1"), twin.conv("conv2", "VALID"), twin.dense("fc")

    def forward(x: Any) -> Any:
        x = nnx.max_pool(nnx.relu(bn1(conv1(x))), window_shape=(2,), strides=(2,))
        return fc(nnx.elu(conv2(x)).mean(1))

    return forward


def mobile(twin: Twin) -> Layer:
    stem, expand, squeeze, excite, project = map(twin.conv, ("stem", "expand", "squeeze", "excite", "project"))
    norms, depthwise = [twin.batch_norm(f"bn{k}") for k in (1, 2, 3)], twin.conv("depthwise", groups=6)
    fc = twin.dense("fc")

    def forward(x: Any) -> Any:
        x = stem(x)
        h = nnx.silu(norms[1](depthwise(nnx.silu(norms[0](expand(x))))))
        gate = nnx.silu(squeeze(h.mean((1, 2), keepdims=True)))
        x = x + norms[2](project(h * nnx.sigmoid(excite(gate))))
        return fc(x.mean((1, 2)))

    return forward


def convnext(twin: Twin) -> Layer:
    stem, depthwise = twin.conv("stem", "VALID", 2), twin.conv("depthwise", groups=4)
    norm1, norm2 = twin.layer_norm("norm1", 1e-6), twin.layer_norm("norm2", 1e-6)
    fc1, fc2, fc, scale = twin.dense("fc1"), twin.dense("fc2"), twin.dense("fc"), twin.weights["scale"]

    def forward(x: Any) -> Any:
        x = stem(x)
        x = x + fc2(jax.nn.gelu(fc1(norm1(depthwise(x))), approximate=False)) * scale
        return fc(norm2(x.mean((1, 2))))

    return forward


def unet(twin: Twin) -> Layer:
    down1, down2, up, join, mask = (
        twin.conv("down1"), twin.conv("down2"), twin.up("up"), twin.conv("join"), twin.conv("mask"),
    )  # fmt: skip

    def forward(x: Any) -> Any:
        a = nnx.relu(down1(x))
        b = nnx.relu(down2(nnx.max_pool(a, window_shape=(2, 2), strides=(2, 2))))
        return nnx.sigmoid(mask(nnx.relu(join(jnp.concatenate([up(b), a], -1)))))

    return forward


def lstm(twin: Twin) -> Layer:
    """A scan over time."""
    W, U, b, c = (twin.weights[f"cell.{each}_l0"] for each in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    fc = twin.dense("fc")

    def step(state: Any, x: Any) -> Any:
        h, cell = state
        i, f, g, o = jnp.split(x @ W.T + h @ U.T + (b + c), 4, axis=-1)
        cell = nnx.sigmoid(f) * cell + nnx.sigmoid(i) * jnp.tanh(g)
        h = nnx.sigmoid(o) * jnp.tanh(cell)
        return (h, cell), h

    def forward(x: Any) -> Any:
        zero = jnp.zeros((x.shape[0], 5), x.dtype)
        (h, _), _ = jax.lax.scan(step, (zero, zero), x.swapaxes(0, 1))
        return fc(h)

    return forward


def gru(twin: Twin) -> Layer:
    """A scan over time."""
    W, U, b, c = (twin.weights[f"cell.{each}_l0"] for each in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    fc = twin.dense("fc")

    def step(h: Any, x: Any) -> Any:
        (xr, xz, xn), (hr, hz, hn) = jnp.split(x @ W.T + b, 3, axis=-1), jnp.split(h @ U.T + c, 3, axis=-1)
        z = nnx.sigmoid(xz + hz)
        h = (1 - z) * jnp.tanh(xn + nnx.sigmoid(xr + hr) * hn) + z * h
        return h, h

    def forward(x: Any) -> Any:
        _, states = jax.lax.scan(step, jnp.zeros((x.shape[0], 5), x.dtype), x.swapaxes(0, 1))
        return fc(states.mean(0))

    return forward


def bert(twin: Twin) -> Layer:
    words, places, attention, fc = twin.words(), twin.weights["places"], twin.attention(), twin.dense("fc")
    norms, fc1, fc2 = [twin.layer_norm(f"norm{k}") for k in (1, 2, 3)], twin.dense("fc1"), twin.dense("fc2")

    def forward(ids: Any) -> Any:
        x = norms[0](words(ids) + places)
        x = norms[1](attention(x) + x)
        x = norms[2](fc2(jax.nn.gelu(fc1(x), approximate=False)) + x)
        return fc(x[:, 0])

    return forward


def gpt(twin: Twin) -> Layer:
    words, places, attention, fc = twin.words(), twin.weights["places"], twin.attention(), twin.dense("fc")
    norms, fc1, fc2 = [twin.layer_norm(f"norm{k}") for k in (1, 2, 3)], twin.dense("fc1"), twin.dense("fc2")

    def forward(ids: Any) -> Any:
        x = words(ids) + places
        x = x + attention(norms[0](x), causal())
        x = x + fc2(nnx.gelu(fc1(norms[1](x))))
        return fc(norms[2](x)[:, -1])

    return forward


def llama(twin: Twin) -> Layer:
    words, attention, fc, turns = twin.words(), twin.attention(), twin.dense("fc"), jnp.asarray(angles())[:, None]
    norms = [twin.rms_norm(f"norm{k}") for k in (1, 2, 3)]
    gate, up, down = twin.dense("gate"), twin.dense("up"), twin.dense("down")

    def turn(x: Any) -> Any:
        first, second = jnp.split(x, 2, axis=-1)
        return x * jnp.cos(turns) + jnp.concatenate([-second, first], axis=-1) * jnp.sin(turns)

    def forward(ids: Any) -> Any:
        x = words(ids)
        x = x + attention(norms[0](x), causal(), turn)
        h = norms[1](x)
        x = x + down(nnx.silu(gate(h)) * up(h))
        return fc(norms[2](x)[:, -1])

    return forward


def vit(twin: Twin) -> Layer:
    patches, first, places = twin.conv("patches", "VALID", 2), twin.weights["first"], twin.weights["places"]
    norms, fc1, fc2 = [twin.layer_norm(f"norm{k}") for k in (1, 2, 3)], twin.dense("fc1"), twin.dense("fc2")
    attention, fc = twin.attention(), twin.dense("fc")

    def forward(x: Any) -> Any:
        x = patches(x).reshape(x.shape[0], 4, WIDTH)
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, WIDTH)), x], 1) + places
        x = x + attention(norms[0](x))
        x = x + fc2(jax.nn.gelu(fc1(norms[1](x)), approximate=False))
        return fc(norms[2](x)[:, 0])

    return forward


BUILDERS = {each.__name__: each for each in (
    mlp, resnet, series, mobile, convnext, unet, lstm, gru, bert, gpt, llama, vit,
)}  # fmt: skip


def build(name: str) -> Layer:
    """A network as a function of one array."""
    return BUILDERS[name](Twin(name))
