"""The networks of `twins_torch` in Flax's linen API, with the same names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from .twins_torch import CLASSES, HEADS, HIDDEN, SIZE, VOCABULARY, WIDTH, rotation

SAME: Any = ((1, 1), (1, 1))


class LeNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.avg_pool(nn.relu(nn.Conv(3, (5, 5), name="conv1")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(4, (5, 5), padding="VALID", name="conv2")(x)), (2, 2), (2, 2))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(8, name="fc2")(nn.relu(nn.Dense(10, name="fc1")(x))))
        return nn.Dense(CLASSES, name="fc3")(x)


def _conv(outputs: int, size: int, stride: int = 1) -> nn.Conv:
    around = (size // 2, size // 2)
    return nn.Conv(outputs, (size, size), stride, padding=(around, around), use_bias=False)


def _norm() -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5)


class Block(nn.Module):
    outputs: int
    stride: int

    def setup(self) -> None:
        self.conv1, self.bn1 = _conv(self.outputs, 3, self.stride), _norm()
        self.conv2, self.bn2 = _conv(self.outputs, 3), _norm()
        if self.stride > 1:
            self.short, self.bn3 = _conv(self.outputs, 1, self.stride), _norm()

    def __call__(self, x: Any) -> Any:
        skip = self.bn3(self.short(x)) if self.stride > 1 else x
        return nn.relu(self.bn2(self.conv2(nn.relu(self.bn1(self.conv1(x))))) + skip)


class ResNet(nn.Module):
    def setup(self) -> None:
        self.conv, self.bn = _conv(2, 7, 2), _norm()
        sizes = [(2, 1), (2, 1), (3, 2), (3, 1), (4, 2), (4, 1), (5, 2), (5, 1)]
        self.blocks = [Block(*size) for size in sizes]
        self.head = nn.Dense(CLASSES)

    def __call__(self, x: Any) -> Any:
        x = nn.max_pool(nn.relu(self.bn(self.conv(x))), (3, 3), (2, 2), SAME)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Layer(nn.Module):
    before: bool
    epsilon: float

    def setup(self) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(self.epsilon), nn.LayerNorm(self.epsilon)
        self.attention = nn.MultiHeadDotProductAttention(HEADS)
        self.up, self.down = nn.Dense(HIDDEN), nn.Dense(WIDTH)

    def __call__(self, x: Any, mask: Any = None) -> Any:
        if self.before:
            x = x + self.attention(self.norm1(x), mask=mask)
            return x + self.down(nn.gelu(self.up(self.norm2(x)), approximate=False))
        x = self.norm1(x + self.attention(x, mask=mask))
        return self.norm2(x + self.down(nn.gelu(self.up(x), approximate=False)))


class ViT(nn.Module):
    def setup(self) -> None:
        self.patches = nn.Conv(WIDTH, (4, 4), 4)
        self.cls = self.param("cls", nn.initializers.zeros, (1, 1, WIDTH))
        self.places = self.param("places", nn.initializers.zeros, (1, 5, WIDTH))
        self.layers = [Layer(True, 1e-6), Layer(True, 1e-6)]
        self.norm, self.head = nn.LayerNorm(1e-6), nn.Dense(CLASSES)

    def __call__(self, x: Any) -> Any:
        x = self.patches(x).reshape(x.shape[0], -1, WIDTH)
        x = jnp.concatenate([jnp.tile(self.cls, (x.shape[0], 1, 1)), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    def setup(self) -> None:
        self.words, self.places = nn.Embed(VOCABULARY, WIDTH), nn.Embed(8, WIDTH)
        self.types, self.norm = nn.Embed(2, WIDTH), nn.LayerNorm(1e-12)
        self.layers = [Layer(False, 1e-12), Layer(False, 1e-12)]
        self.pooler, self.head = nn.Dense(WIDTH), nn.Dense(CLASSES)

    def __call__(self, ids: Any, mask: Any, types: Any) -> Any:
        x = self.norm(self.words(ids) + self.types(types) + self.places(jnp.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x, (mask > 0)[:, None, None])
        return self.head(nn.tanh(self.pooler(x[:, 0])))


def rotated(x: Any) -> Any:
    cosine, sine = (each[:, None] for each in rotation())
    one, other = jnp.split(x, 2, -1)
    return x * cosine + jnp.concatenate([-other, one], -1) * sine


def _dense(outputs: int) -> nn.Dense:
    return nn.Dense(outputs, use_bias=False)


class Grouped(nn.Module):
    def setup(self) -> None:
        self.query, self.out = _dense(2 * WIDTH), _dense(WIDTH)
        self.key, self.value = _dense(WIDTH), _dense(WIDTH)

    def __call__(self, x: Any) -> Any:
        q, k, v = (part(x).reshape(*x.shape[:2], -1, SIZE) for part in (self.query, self.key, self.value))
        seen = jax.nn.dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        return self.out(seen.reshape(*x.shape[:2], -1))


class Decoder(nn.Module):
    def setup(self) -> None:
        self.norm1, self.norm2 = nn.RMSNorm(1e-6), nn.RMSNorm(1e-6)
        self.attention = Grouped()
        self.gate, self.up, self.down = _dense(HIDDEN), _dense(HIDDEN), _dense(WIDTH)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        hidden = self.norm2(x)
        return x + self.down(nn.silu(self.gate(hidden)) * self.up(hidden))


class Llama(nn.Module):
    def setup(self) -> None:
        self.words, self.layers = nn.Embed(VOCABULARY, WIDTH), [Decoder(), Decoder()]
        self.norm, self.head = nn.RMSNorm(1e-6), _dense(VOCABULARY)

    def __call__(self, ids: Any) -> Any:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, -1])


class Lstm(nn.Module):
    def setup(self) -> None:
        self.body, self.head = nn.RNN(nn.OptimizedLSTMCell(5)), nn.Dense(CLASSES)

    def __call__(self, x: Any) -> Any:
        states: Any = self.body(x)
        return self.head(states.mean(1))
