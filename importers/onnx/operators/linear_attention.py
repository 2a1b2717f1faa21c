"""Attention whose memory is one matrix per head, written and read step by step, and the convolution before it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.ir import Program
from backtrace_jax.passes.build import Builder, Value

from ..lowering import Lowering
from .contractions import conv
from .registry import operator

_RULES = {  # whether the memory decays, and whether only what it does not hold yet is written
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}


@operator("LinearAttention", since=27)
@operator("LinearAttention", domain="com.microsoft")
def linear_attention(
    lowering: Lowering,
    query: Value,
    key: Value,
    value: Value,
    past_state: Value | None = None,
    decay: Value | None = None,
    beta: Value | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    state_window: int = 0,
    update_rule: str = "gated_delta",
) -> tuple[Value, Value]:
    """Recurrent attention; returns what is read in all steps [batch, time, heads x size] and the last memory."""
    if state_window:
        raise UnsupportedError("a window of states (state_window); only the last state is kept")
    _check(update_rule, decay, beta, q_num_heads, kv_num_heads)
    by_time = partial(_by_time, lowering, heads=kv_num_heads)
    width = query.shape[2] // q_num_heads
    q = lowering.scale(_by_time(lowering, query, q_num_heads), scale or 1 / math.sqrt(width))
    k, v = by_time(key), by_time(value)
    sequences = {"query": _grouped(lowering, q, kv_num_heads), "key": k, "value": v}
    if decay is not None:
        sequences["log_decay"] = by_time(decay)
    if beta is not None:
        sequences["rate"] = _by_time(lowering, beta, beta.shape[2])
    return _run(lowering, sequences, past_state, np.dtype(query.dtype))


def _check(rule: str, decay: Value | None, beta: Value | None, q_num_heads: int, kv_num_heads: int) -> None:
    for name, operand, needed in zip(("decay", "beta"), (decay, beta), _RULES[rule], strict=True):
        if (operand is not None) != needed:
            raise ModelError(f"update_rule {rule!r} {'needs' if needed else 'takes no'} {name}")
    if q_num_heads % kv_num_heads:
        raise UnsupportedError(f"{q_num_heads} heads of queries on {kv_num_heads} memories; export one read for each")


def _by_time(lowering: Lowering, X: Value, heads: int) -> Value:
    """[batch, time, heads x size] as [time, batch, heads, size], in float32 at least."""
    batch, steps, width = X.shape
    if width % heads:
        raise ModelError(f"a width of {width} cannot be cut into {heads} heads")
    wide = np.promote_types(X.dtype, np.float32) if X.dtype.isbuiltin else np.dtype(np.float32)
    apart = lowering.reshape(lowering.cast(X, wide), (batch, steps, heads, width // heads))
    return lowering.transpose(apart, (1, 0, 2, 3))


def _grouped(lowering: Lowering, q: Value, heads: int) -> Value:
    """Queries [time, batch, heads, size], apart by the memory that they read."""
    steps, batch, own, width = q.shape
    return lowering.reshape(q, (steps, batch, heads, own // heads, width))


def _run(lowering: Lowering, sequences: dict[str, Value], past: Value | None, dtype: np.dtype) -> tuple[Value, Value]:
    k, v = sequences["key"], sequences["value"]
    first = _first(lowering, past, (*k.shape[1:], v.shape[3]), k.dtype)
    body = _body(lowering, first, sequences)
    (last,), (read,) = lowering.scan(body, [first], list(sequences.values()), k.shape[0])
    steps, batch, heads, group, width = read.shape
    result = lowering.transpose(read, (1, 0, 2, 3, 4))
    result = lowering.reshape(result, (batch, steps, heads * group * width))
    return lowering.cast(result, dtype), lowering.cast(last, dtype if past is None else np.dtype(past.dtype))


def _first(lowering: Lowering, past: Value | None, shape: tuple[int, ...], dtype: np.dtype) -> Value:
    """The memory before the first step; empty where none is given."""
    if past is None:
        return np.zeros(shape, dtype)
    if past.shape != shape:
        raise ModelError(f"past_state should have shape {shape}; found {past.shape}")
    return lowering.cast(past, dtype)


def _body(lowering: Lowering, first: Value, sequences: dict[str, Value]) -> Program:
    """One time step: the memory decays, takes up a key and its value, and is read."""
    step = Builder()
    step.source = lowering.source
    memory = step.input("memory_before", first.shape, first.dtype)
    given = {name: step.input(name, value.shape[1:], value.dtype) for name, value in sequences.items()}
    key, value = given["key"], given["value"]
    if "log_decay" in given:
        kept = step.emit("gate", step.emit("exp", given["log_decay"]))
        memory = step.emit("mul", memory, _column(step, kept))
    if "rate" in given:
        missing = step.emit("sub", value, step.emit("einsum", memory, key, equation="bhkv,bhk->bhv"))
        value = step.emit("mul", missing, step.emit("gate", given["rate"]))
    written = step.emit("mul", _column(step, key), _row(step, value))
    memory = step.emit("add", memory, written)
    read = step.emit("einsum", given["query"], memory, equation="bhgk,bhkv->bhgv")
    step.rename(memory, "memory")
    return step.finish({"memory": memory, "read": read})


def _column(step: Builder, x: Value) -> Value:
    return step.emit("reshape", x, shape=(*x.shape, 1))


def _row(step: Builder, x: Value) -> Value:
    return step.emit("reshape", x, shape=(*x.shape[:-1], 1, x.shape[-1]))


@operator("CausalConvWithState", since=27)
def causal_convolution(
    lowering: Lowering,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    past_state: Value | None = None,
    *,
    activation: str = "none",
) -> tuple[Value, Value]:
    """Each channel convolved with its past; returns the result and the entries that the next call needs."""
    if activation not in ("none", "silu", "swish"):
        raise ModelError(f"activation should be none, silu or swish; found {activation!r}")
    (batch, channels, length), reach = input.shape, weight.shape[2] - 1
    past = np.zeros((batch, channels, reach), input.dtype) if past_state is None else past_state
    padded = lowering.emit("concat", past, input, axis=2)
    result = conv(lowering, padded, weight, bias, group=channels)
    ends = {"start": (0, 0, length), "limit": (batch, channels, length + reach), "stride": (1, 1, 1)}
    state = lowering.emit("slice", padded, **ends)
    return result if activation == "none" else lowering.emit("silu", result), state


@operator("CausalConvWithState", domain="com.microsoft")
def causal_convolution_microsoft(
    lowering: Lowering,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    past_state: Value | None = None,
    *,
    activation: str = "none",
    channels_last: int = 0,
    dilation: int = 1,
    ndim: int = 1,
    state_window: int = 0,
) -> tuple[Value, Value]:
    """The same, in the form that ONNX took over."""
    settings = {
        "channels_last": channels_last,
        "dilation": dilation - 1,
        "ndim": ndim - 1,
        "state_window": state_window,
    }
    changed = [name for name, value in settings.items() if value]
    if changed:
        raise UnsupportedError(f"settings {', '.join(changed)} that ONNX's own operator does not have; use a Conv")
    return causal_convolution(lowering, input, weight, bias, past_state, activation=activation)


@operator("LinearAttentionGate", domain="com.microsoft")
def linear_attention_gate(
    lowering: Lowering, a: Value, dt_bias: Value, decay_scale: Value, b: Value | None = None
) -> tuple[Value, ...]:
    """How fast a memory decays, and the rate at which it is written, of projections [batch, time, head]."""
    wide = lowering.emit("softplus", lowering.emit("add", lowering.cast(a, np.dtype(np.float32)), dt_bias))
    decay = lowering.cast(lowering.emit("mul", wide, decay_scale), np.dtype(a.dtype))
    return (decay,) if b is None else (decay, lowering.emit("sigmoid", b))
