"""Flax models in the nnx API, of true block structure and tiny sizes: text and other sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .zoo import (
    CLASSES,
    HEAD,
    HEADS,
    HIDDEN,
    LENGTH,
    NEXT,
    SENTENCE,
    TINY,
    TRANSFORMER,
    TRANSLATION,
    VOCABULARY,
    WIDTH,
    Call,
    Example,
    Sizes,
    buckets,
    rotated,
    tokens,
    vectors,
)  # fmt: skip
from .zoo_nnx import Feedforward, PreNorm, example

Array = Any


class PostNorm(nnx.Module):
    """A block of a transformer that normalises what it has made, as BERT has it."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = (nnx.LayerNorm(sizes.width, epsilon=1e-12, rngs=rngs) for _ in range(2))
        self.attn = nnx.MultiHeadAttention(sizes.heads, sizes.width, decode=False, rngs=rngs)
        self.mlp = Feedforward(sizes, rngs=rngs)

    def __call__(self, x: Array, mask: Array) -> Array:
        x = self.norm1(x + self.attn(x, mask=mask))
        return self.norm2(x + self.mlp(x))


class Bert(nnx.Module):
    def __init__(self, sizes: Sizes = TINY, *, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(sizes.vocabulary, sizes.width, rngs=rngs)
        self.places = nnx.Embed(sizes.places, sizes.width, rngs=rngs)
        self.types = nnx.Embed(2, sizes.width, rngs=rngs)
        self.norm = nnx.LayerNorm(sizes.width, epsilon=1e-12, rngs=rngs)
        self.blocks = nnx.List([PostNorm(sizes, rngs=rngs) for _ in range(sizes.layers)])
        self.pooler = nnx.Linear(sizes.width, sizes.width, rngs=rngs)
        self.head = nnx.Linear(sizes.width, CLASSES, rngs=rngs)

    def __call__(self, input_ids: Array, attention_mask: Array, token_type_ids: Array) -> Array:
        places = self.places(jnp.arange(input_ids.shape[1])[None])
        x = self.norm(self.words(input_ids) + places + self.types(token_type_ids))
        seen = attention_mask > 0
        for block in self.blocks:
            x = block(x, nnx.make_attention_mask(seen, seen))
        return self.head(nnx.tanh(self.pooler(x[:, 0])))


class Gpt2(nnx.Module):
    """The head is the table of words."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.places = nnx.Embed(16, WIDTH, rngs=rngs)
        self.blocks = nnx.List([PreNorm(rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens) + self.places(jnp.arange(tokens.shape[1])[None])
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        return self.words.attend(self.norm(x))


def _dense(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, use_bias=False, rngs=rngs)


class Grouped(nnx.Module):
    """Causal attention with rotated positions, whose key and value all heads of a group share."""

    def __init__(self, sizes: Sizes, *, normed: bool, rngs: nnx.Rngs) -> None:
        self.size = sizes.head
        self.query = _dense(sizes.width, sizes.queries * sizes.head, rngs)
        self.key, self.value = (_dense(sizes.width, sizes.heads * sizes.head, rngs) for _ in range(2))
        self.out = _dense(sizes.queries * sizes.head, sizes.width, rngs)
        self.query_norm = nnx.RMSNorm(sizes.head, rngs=rngs) if normed else None
        self.key_norm = nnx.RMSNorm(sizes.head, rngs=rngs) if normed else None

    def __call__(self, x: Array) -> Array:
        query, key, value = (
            part(x).reshape(*x.shape[:2], -1, self.size) for part in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        seen = jax.nn.dot_product_attention(rotated(query), rotated(key), value, is_causal=True)
        return self.out(seen.reshape(*x.shape[:2], -1))


class SwiGlu(nnx.Module):
    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        self.gate, self.up = (_dense(sizes.width, sizes.hidden, rngs) for _ in range(2))
        self.down = _dense(sizes.hidden, sizes.width, rngs)

    def __call__(self, x: Array) -> Array:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class Experts(nnx.Module):
    """Every token goes through the two experts that its router likes best, in parts that add up to one."""

    def __init__(self, count: int = 3, *, rngs: nnx.Rngs) -> None:
        self.router = _dense(WIDTH, count, rngs)
        self.gate, self.up = (nnx.Param(jnp.zeros((count, WIDTH, WIDTH))) for _ in range(2))
        self.down = nnx.Param(jnp.zeros((count, WIDTH, WIDTH)))

    def __call__(self, x: Array) -> Array:
        parts, chosen = jax.lax.top_k(jax.nn.softmax(self.router(x), axis=-1), 2)
        parts = parts / parts.sum(-1, keepdims=True)
        routed = (jax.nn.one_hot(chosen, self.gate.shape[0], dtype=x.dtype) * parts[..., None]).sum(-2)
        hidden = nnx.silu(jnp.einsum("btd,edh->bteh", x, self.gate[...]))
        hidden = hidden * jnp.einsum("btd,edh->bteh", x, self.up[...])
        return jnp.einsum("bteh,ehd,bte->btd", hidden, self.down[...], routed)


class Decoder(nnx.Module):
    """A block as LLaMA has it; with experts, as Qwen3-MoE."""

    def __init__(self, sizes: Sizes, *, experts: bool, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = (nnx.RMSNorm(sizes.width, rngs=rngs) for _ in range(2))
        self.attn = Grouped(sizes, normed=experts, rngs=rngs)
        self.mlp = Experts(rngs=rngs) if experts else SwiGlu(sizes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Llama(nnx.Module):
    """With experts it is Qwen3-MoE, whose queries and keys are normalised as well."""

    def __init__(self, sizes: Sizes = TINY, *, experts: bool = False, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(sizes.vocabulary, sizes.width, rngs=rngs)
        self.blocks = nnx.List([Decoder(sizes, experts=experts, rngs=rngs) for _ in range(sizes.layers)])
        self.norm = nnx.RMSNorm(sizes.width, rngs=rngs)
        self.head = _dense(sizes.width, sizes.vocabulary, rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class T5Attention(nnx.Module):
    """Attention without scale and biases; how far apart two tokens are is added to its scores."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.query, self.key, self.value, self.out = (_dense(WIDTH, WIDTH, rngs) for _ in range(4))

    def __call__(self, x: Array, context: Array, bias: Array) -> Array:
        query = self.query(x).reshape(*x.shape[:2], HEADS, HEAD)
        key, value = (part(context).reshape(*context.shape[:2], HEADS, HEAD) for part in (self.key, self.value))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) + bias, axis=-1)
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(*x.shape[:2], WIDTH))


class GatedGelu(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.wi_0, self.wi_1 = _dense(WIDTH, HIDDEN, rngs), _dense(WIDTH, HIDDEN, rngs)
        self.wo = _dense(HIDDEN, WIDTH, rngs)

    def __call__(self, x: Array) -> Array:
        return self.wo(nnx.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


class T5Block(nnx.Module):
    def __init__(self, *, crossed: bool, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm3 = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attn, self.mlp = T5Attention(rngs=rngs), GatedGelu(rngs=rngs)
        self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs) if crossed else None
        self.cross = T5Attention(rngs=rngs) if crossed else None

    def __call__(self, x: Array, bias: Array, context: Array | None = None, cross_bias: Array | None = None) -> Array:
        normed = self.norm1(x)
        x = x + self.attn(normed, normed, bias)
        if self.norm2 is not None and self.cross is not None:
            x = x + self.cross(self.norm2(x), context, cross_bias)
        return x + self.mlp(self.norm3(x))


class T5Stack(nnx.Module):
    """A side of T5; the distance of tokens has a bias for each head."""

    def __init__(self, *, causal: bool, rngs: nnx.Rngs) -> None:
        self.causal = causal
        self.distances = nnx.Embed(8, HEADS, rngs=rngs)
        self.blocks = nnx.List([T5Block(crossed=causal, rngs=rngs)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, x: Array, hidden: Array, context: Array | None = None) -> Array:
        length = x.shape[1]
        bias = self.distances(buckets(length, both=not self.causal)).transpose(2, 0, 1)[None]
        if self.causal:
            bias = jnp.where(np.tri(length, dtype=bool)[None, None], bias, -1e9)
        for block in self.blocks:
            x = block(x, bias if self.causal else bias + hidden, context, hidden)
        return self.norm(x)


class T5(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.shared = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.encoder, self.decoder = T5Stack(causal=False, rngs=rngs), T5Stack(causal=True, rngs=rngs)

    def __call__(self, input_ids: Array, attention_mask: Array, decoder_input_ids: Array) -> Array:
        hidden = jnp.where(attention_mask[:, None, None] > 0, 0.0, -1e9)
        context = self.encoder(self.shared(input_ids), hidden)
        written = self.decoder(self.shared(decoder_input_ids), hidden, context)
        return self.shared.attend(written * WIDTH**-0.5)


class Recurrent(nnx.Module):
    """Both ways over time, read at every step."""

    def __init__(self, kind: Callable[..., nnx.RNNCellBase], *, rngs: nnx.Rngs) -> None:
        self.body = nnx.Bidirectional(nnx.RNN(kind(4, 5, rngs=rngs)), nnx.RNN(kind(4, 5, rngs=rngs)))
        self.head = nnx.Linear(10, CLASSES, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(self.body(x).mean(1))


class Mamba(nnx.Module):
    """A selective state space: its recurrence is linear and runs as an associative scan."""

    def __init__(self, states: int = 2, *, rngs: nnx.Rngs) -> None:
        self.inside = _dense(WIDTH, 2 * HIDDEN, rngs)
        self.conv = nnx.Conv(HIDDEN, HIDDEN, (3,), padding="CAUSAL", feature_group_count=HIDDEN, rngs=rngs)
        self.chosen = _dense(HIDDEN, 2 * states + 1, rngs)
        self.step = nnx.Linear(1, HIDDEN, rngs=rngs)
        self.decay = nnx.Param(jnp.zeros((HIDDEN, states)))
        self.skip = nnx.Param(jnp.zeros(HIDDEN))
        self.out = _dense(HIDDEN, WIDTH, rngs)

    def __call__(self, x: Array) -> Array:
        x, gate = jnp.split(self.inside(x), 2, axis=-1)
        x = nnx.silu(self.conv(x))
        step, write, read = jnp.split(self.chosen(x), (1, 1 + self.decay.shape[1]), axis=-1)
        step = nnx.softplus(self.step(step))[..., None]
        kept = jnp.exp(-step * jnp.exp(self.decay[...]))
        added = step * write[:, :, None] * x[..., None]
        _, states = jax.lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (kept, added), axis=1)
        seen = (states * read[:, :, None]).sum(-1) + x * self.skip
        return self.out(seen * nnx.silu(gate))


class MambaModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs)])
        self.blocks = nnx.List([Mamba(rngs=rngs)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        x = self.words(tokens)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.words.attend(self.norm(x))


SEQUENCES: dict[str, Callable[[], Example]] = {
    "bert": lambda: example(lambda rngs: Bert(rngs=rngs), Call(SENTENCE, third=TRANSFORMER)),
    "gpt2": lambda: example(Gpt2, Call(tokens(), third=TRANSFORMER, settings=NEXT)),
    "llama": lambda: example(lambda rngs: Llama(rngs=rngs), Call(tokens(), third=TRANSFORMER, settings=NEXT)),
    "qwen3_moe": lambda: example(
        lambda rngs: Llama(Sizes(layers=1), experts=True, rngs=rngs), Call(tokens(), third=TRANSFORMER, settings=NEXT)
    ),
    "t5": lambda: example(T5, Call(TRANSLATION, third=TRANSFORMER, settings=NEXT)),
    "lstm": lambda: example(lambda rngs: Recurrent(nnx.LSTMCell, rngs=rngs), Call(vectors(LENGTH, 4))),
    "gru": lambda: example(lambda rngs: Recurrent(nnx.GRUCell, rngs=rngs), Call(vectors(LENGTH, 4))),
    "mamba": lambda: example(MambaModel, Call(tokens(), settings=NEXT)),
}
