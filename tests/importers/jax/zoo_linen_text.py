"""The same Flax models in the linen API: text and other sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .zoo import (
    CLASSES,
    HEAD,
    HEADS,
    HIDDEN,
    LENGTH,
    NEXT,
    SENTENCE,
    TRANSFORMER,
    TRANSLATION,
    VOCABULARY,
    WIDTH,
    Call,
    Example,
    buckets,
    rotated,
    tokens,
    vectors,
)  # fmt: skip
from .zoo_linen import Feedforward, PreNorm, example

Array = Any


class PostNorm(nn.Module):
    """A block of a transformer that normalises what it has made, as BERT has it."""

    def setup(self) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(1e-12), nn.LayerNorm(1e-12)
        self.attn = nn.MultiHeadDotProductAttention(HEADS)
        self.mlp = Feedforward()

    def __call__(self, x: Array, mask: Array) -> Array:
        x = self.norm1(x + self.attn(x, mask=mask))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    def setup(self) -> None:
        self.words, self.places = nn.Embed(VOCABULARY, WIDTH), nn.Embed(16, WIDTH)
        self.types = nn.Embed(2, WIDTH)
        self.norm = nn.LayerNorm(1e-12)
        self.blocks = [PostNorm() for _ in range(2)]
        self.pooler, self.head = nn.Dense(WIDTH), nn.Dense(CLASSES)

    def __call__(self, input_ids: Array, attention_mask: Array, token_type_ids: Array) -> Array:
        places = self.places(jnp.arange(input_ids.shape[1])[None])
        x = self.norm(self.words(input_ids) + places + self.types(token_type_ids))
        seen = attention_mask > 0
        for block in self.blocks:
            x = block(x, nn.make_attention_mask(seen, seen))
        return self.head(nn.tanh(self.pooler(x[:, 0])))


class Gpt2(nn.Module):
    """The head is the table of words."""

    def setup(self) -> None:
        self.words, self.places = nn.Embed(VOCABULARY, WIDTH), nn.Embed(16, WIDTH)
        self.blocks = [PreNorm() for _ in range(2)]
        self.norm = nn.LayerNorm()

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens) + self.places(jnp.arange(tokens.shape[1])[None])
        mask = nn.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.words.attend(self.norm(x))


def _dense(outputs: int) -> nn.Dense:
    return nn.Dense(outputs, use_bias=False)


class Grouped(nn.Module):
    """Causal attention with rotated positions, whose key and value all heads of a group share."""

    normed: bool

    def setup(self) -> None:
        self.query, self.out = _dense(2 * WIDTH), _dense(WIDTH)
        self.key, self.value = _dense(WIDTH), _dense(WIDTH)
        if self.normed:
            self.query_norm, self.key_norm = nn.RMSNorm(), nn.RMSNorm()

    def __call__(self, x: Array) -> Array:
        query, key, value = (part(x).reshape(*x.shape[:2], -1, HEAD) for part in (self.query, self.key, self.value))
        if self.normed:
            query, key = self.query_norm(query), self.key_norm(key)
        seen = jax.nn.dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        return self.out(seen.reshape(*x.shape[:2], -1))


class SwiGlu(nn.Module):
    def setup(self) -> None:
        self.gate, self.up, self.down = _dense(HIDDEN), _dense(HIDDEN), _dense(WIDTH)

    def __call__(self, x: Array) -> Array:
        return self.down(nn.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """Every token goes through the two experts that its router likes best, in parts that add up to one."""

    count: int = 3

    def setup(self) -> None:
        self.router = _dense(self.count)
        shape = (self.count, WIDTH, WIDTH)
        self.gate, self.up, self.down = (
            self.param(name, nn.initializers.zeros, shape) for name in ("gate", "up", "down")
        )

    def __call__(self, x: Array) -> Array:
        parts, chosen = jax.lax.top_k(jax.nn.softmax(self.router(x), axis=-1), 2)
        parts = parts / parts.sum(-1, keepdims=True)
        routed = (jax.nn.one_hot(chosen, self.count, dtype=x.dtype) * parts[..., None]).sum(-2)
        hidden = nn.silu(jnp.einsum("btd,edh->bteh", x, self.gate)) * jnp.einsum("btd,edh->bteh", x, self.up)
        return jnp.einsum("bteh,ehd,bte->btd", hidden, self.down, routed)


class Decoder(nn.Module):
    """A block as LLaMA has it."""

    experts: bool

    def setup(self) -> None:
        self.norm1, self.norm2 = nn.RMSNorm(), nn.RMSNorm()
        self.attn = Grouped(self.experts)
        self.mlp = Experts() if self.experts else SwiGlu()

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    """With experts it is Qwen3-MoE, whose queries and keys are normalised as well."""

    experts: bool
    layers: int = 2

    def setup(self) -> None:
        self.words = nn.Embed(VOCABULARY, WIDTH)
        self.blocks = [Decoder(self.experts) for _ in range(self.layers)]
        self.norm, self.head = nn.RMSNorm(), _dense(VOCABULARY)

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class T5Attention(nn.Module):
    """Attention without scale and biases; how far apart two tokens are is added to its scores."""

    def setup(self) -> None:
        self.query, self.key, self.value, self.out = (_dense(WIDTH) for _ in range(4))

    def __call__(self, x: Array, context: Array, bias: Array) -> Array:
        query = self.query(x).reshape(*x.shape[:2], HEADS, HEAD)
        key, value = (part(context).reshape(*context.shape[:2], HEADS, HEAD) for part in (self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias, axis=-1)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(*x.shape[:2], WIDTH))


class GatedGelu(nn.Module):
    def setup(self) -> None:
        self.wi_0, self.wi_1, self.wo = _dense(HIDDEN), _dense(HIDDEN), _dense(WIDTH)

    def __call__(self, x: Array) -> Array:
        return self.wo(nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


class T5Block(nn.Module):
    crossed: bool

    def setup(self) -> None:
        self.norm1, self.norm3 = nn.RMSNorm(), nn.RMSNorm()
        self.attn, self.mlp = T5Attention(), GatedGelu()
        if self.crossed:
            self.norm2, self.cross = nn.RMSNorm(), T5Attention()

    def __call__(self, x: Array, bias: Array, context: Array | None = None, cross_bias: Array | None = None) -> Array:
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, bias)
        if self.crossed:
            x = x + self.cross(self.norm2(x), context, cross_bias)
        return x + self.mlp(self.norm3(x))


class T5Stack(nn.Module):
    """A side of T5; the distance of tokens has a bias for each head."""

    causal: bool

    def setup(self) -> None:
        self.distances = nn.Embed(8, HEADS)
        self.blocks = [T5Block(self.causal)]
        self.norm = nn.RMSNorm()

    def __call__(self, x: Array, hidden: Array, context: Array | None = None) -> Array:
        length = x.shape[1]
        bias = self.distances(buckets(length, both=not self.causal)).transpose(2, 0, 1)[None]
        if self.causal:
            bias = jnp.where(np.tri(length, dtype=bool)[None, None], bias, -1e9)
        for block in self.blocks:
            x = block(x, bias if self.causal else bias + hidden, context, hidden)
        return self.norm(x)


class T5(nn.Module):
    def setup(self) -> None:
        self.shared = nn.Embed(VOCABULARY, WIDTH)
        self.encoder, self.decoder = T5Stack(causal=False), T5Stack(causal=True)

    def __call__(self, input_ids: Array, attention_mask: Array, decoder_input_ids: Array) -> Array:
        hidden = jnp.where(attention_mask[:, None, None] > 0, 0.0, -1e9)
        context = self.encoder(self.shared(input_ids), hidden)
        written = self.decoder(self.shared(decoder_input_ids), hidden, context)
        return self.shared.attend(written * WIDTH**-0.5)


class Recurrent(nn.Module):
    """Both ways over time, read at every step."""

    kind: Callable[..., nn.RNNCellBase]

    def setup(self) -> None:
        wide = {"param_dtype": float}  # as wide as JAX has them
        self.body = nn.Bidirectional(nn.RNN(self.kind(5, **wide)), nn.RNN(self.kind(5, **wide)))
        self.head = nn.Dense(CLASSES)

    def __call__(self, x: Array) -> Array:
        return self.head(self.body(x).mean(1))


class Mamba(nn.Module):
    """A selective state space: its recurrence is linear and runs as an associative scan."""

    states: int = 2

    def setup(self) -> None:
        self.inside, self.chosen, self.out = _dense(2 * HIDDEN), _dense(2 * self.states + 1), _dense(WIDTH)
        self.conv = nn.Conv(HIDDEN, (3,), padding="CAUSAL", feature_group_count=HIDDEN)
        self.step = nn.Dense(HIDDEN)
        self.decay = self.param("decay", nn.initializers.zeros, (HIDDEN, self.states))
        self.skip = self.param("skip", nn.initializers.zeros, (HIDDEN,))

    def __call__(self, x: Array) -> Array:
        x, gate = jnp.split(self.inside(x), 2, axis=-1)
        x = nn.silu(self.conv(x))
        step, write, read = jnp.split(self.chosen(x), (1, 1 + self.states), axis=-1)
        step = nn.softplus(self.step(step))[..., None]
        kept = jnp.exp(-step * jnp.exp(self.decay))
        added = step * write[:, :, None] * x[..., None]
        _, states = jax.lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (kept, added), axis=1)
        seen = (states * read[:, :, None]).sum(-1) + x * self.skip
        return self.out(seen * nn.silu(gate))


class MambaModel(nn.Module):
    def setup(self) -> None:
        self.words = nn.Embed(VOCABULARY, WIDTH)
        self.norms, self.blocks = [nn.RMSNorm()], [Mamba()]
        self.norm = nn.RMSNorm()

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.words.attend(self.norm(x))


SEQUENCES: dict[str, Callable[[], Example]] = {
    "bert": lambda: example(Bert(), Call(SENTENCE, third=TRANSFORMER)),
    "gpt2": lambda: example(Gpt2(), Call(tokens(), third=TRANSFORMER, settings=NEXT)),
    "llama": lambda: example(Llama(experts=False), Call(tokens(), third=TRANSFORMER, settings=NEXT)),
    "qwen3_moe": lambda: example(Llama(experts=True, layers=1), Call(tokens(), third=TRANSFORMER, settings=NEXT)),
    "t5": lambda: example(T5(), Call(TRANSLATION, third=TRANSFORMER, settings=NEXT)),
    "lstm": lambda: example(Recurrent(nn.OptimizedLSTMCell), Call(vectors(LENGTH, 4))),
    "gru": lambda: example(Recurrent(nn.GRUCell), Call(vectors(LENGTH, 4))),
    "mamba": lambda: example(MambaModel(), Call(tokens(), settings=NEXT)),
}
