"""Some of the networks of `twins_torch` in Flax's nnx API, with the same names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .twins_linen import rotated
from .twins_torch import CLASSES, HEADS, HIDDEN, SIZE, VOCABULARY, WIDTH


class LeNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1, self.conv2 = nnx.Conv(1, 3, (5, 5), rngs=rngs), nnx.Conv(3, 4, (5, 5), padding="VALID", rngs=rngs)
        self.fc1, self.fc2 = nnx.Linear(16, 10, rngs=rngs), nnx.Linear(10, 8, rngs=rngs)
        self.fc3 = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return self.fc3(nnx.relu(self.fc2(nnx.relu(self.fc1(x)))))


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, epsilon=1e-6, rngs=rngs) for _ in range(2))
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, WIDTH, (4, 4), 4, rngs=rngs)
        self.cls, self.places = nnx.Param(jnp.zeros((1, 1, WIDTH))), nnx.Param(jnp.zeros((1, 5, WIDTH)))
        self.layers = nnx.List([Layer(rngs), Layer(rngs)])
        self.norm, self.head = nnx.LayerNorm(WIDTH, epsilon=1e-6, rngs=rngs), nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.patches(x).reshape(x.shape[0], -1, WIDTH)
        x = jnp.concatenate([jnp.tile(self.cls[...], (x.shape[0], 1, 1)), x], 1) + self.places[...]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)


class Grouped(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.query, self.out = _dense(WIDTH, 2 * WIDTH, rngs), _dense(2 * WIDTH, WIDTH, rngs)
        self.key, self.value = _dense(WIDTH, WIDTH, rngs), _dense(WIDTH, WIDTH, rngs)

    def __call__(self, x: Any) -> Any:
        q, k, v = (part(x).reshape(*x.shape[:2], -1, SIZE) for part in (self.query, self.key, self.value))
        seen = jax.nn.dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        return self.out(seen.reshape(*x.shape[:2], -1))


class Decoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = (nnx.RMSNorm(WIDTH, epsilon=1e-6, rngs=rngs) for _ in range(2))
        self.attention = Grouped(rngs)
        self.gate, self.up = _dense(WIDTH, HIDDEN, rngs), _dense(WIDTH, HIDDEN, rngs)
        self.down = _dense(HIDDEN, WIDTH, rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        hidden = self.norm2(x)
        return x + self.down(nnx.silu(self.gate(hidden)) * self.up(hidden))


class Llama(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.words, self.layers = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs), nnx.List([Decoder(rngs), Decoder(rngs)])
        self.norm, self.head = nnx.RMSNorm(WIDTH, epsilon=1e-6, rngs=rngs), _dense(WIDTH, VOCABULARY, rngs)

    def __call__(self, ids: Any) -> Any:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, -1])
