"""Mixtures of experts, in the domain com.microsoft: every expert runs, the router's weights decide.

So the graph does not depend on which experts are chosen; what the router does not choose has the weight 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .activations import swish
from .microsoft import MICROSOFT
from .microsoft_bits import unpacked
from .reductions import top_k_1
from .registry import operator

_POINTWISE = {"identity": None, "relu": "relu", "silu": "silu"}


@dataclass(frozen=True)
class Mixture:
    """The attributes of a mixture, by their ONNX names."""

    activation_alpha: float = 1.0
    activation_beta: float = 0.0
    activation_type: str = "relu"
    k: int = 1
    normalize_routing_weights: int = 0
    swiglu_fusion: int = 0
    swiglu_limit: float | None = None
    use_sparse_mixer: int = 0


@dataclass(frozen=True)
class Map:
    """One linear map of every expert: weights [expert, out, in] and a bias [expert, out]."""

    weights: Value
    bias: Value | None = None

    def of(self, lowering: Lowering, values: Value, equation: str) -> Value:
        """What every expert makes of values: [expert, token, out]."""
        result = lowering.emit("einsum", values, self.weights, equation=equation)
        if self.bias is None:
            return result
        experts, width = self.bias.shape
        return lowering.emit("add", result, lowering.reshape(self.bias, (experts, 1, width)))


@operator("MoE", domain=MICROSOFT)
def mixture_of_experts(
    lowering: Lowering,
    input: Value,
    router_probs: Value,
    fc1_experts_weights: Value,
    fc1_experts_bias: Value | None,
    fc2_experts_weights: Value,
    fc2_experts_bias: Value | None = None,
    fc3_experts_weights: Value | None = None,
    fc3_experts_bias: Value | None = None,
    **attributes: Any,
) -> Value:
    """The answers of the best experts for each token, weighted by the router."""
    into, out = Map(fc1_experts_weights, fc1_experts_bias), Map(fc2_experts_weights, fc2_experts_bias)
    beside = None if fc3_experts_weights is None else Map(fc3_experts_weights, fc3_experts_bias)
    return _mixed(lowering, input, (router_probs, None), into, out, beside, Mixture(**attributes))


@operator("QMoE", domain=MICROSOFT)
def quantised_mixture_of_experts(
    lowering: Lowering,
    input: Value,
    router_probs: Value,
    fc1_experts_weights: Value,
    fc1_scales: Value | None,
    fc1_experts_bias: Value | None,
    fc2_experts_weights: Value,
    fc2_scales: Value | None,
    fc2_experts_bias: Value | None = None,
    fc3_experts_weights: Value | None = None,
    fc3_scales: Value | None = None,
    fc3_experts_bias: Value | None = None,
    fc1_zero_points: Value | None = None,
    fc2_zero_points: Value | None = None,
    fc3_zero_points: Value | None = None,
    router_weights: Value | None = None,
    *others: Value | None,
    accuracy_level: int = 0,
    block_size: int = 0,
    expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int | None = None,
    fc2_expert_weight_bits: int | None = None,
    fc3_expert_weight_bits: int | None = None,
    quant_type: str = "int",
    weights_prepacked: int = -1,
    **attributes: Any,
) -> Value:
    """The same with weights of 2, 4 or 8 bits each, in blocks along what they read, or one scale for each row."""
    if quant_type != "int" or weights_prepacked > 0 or any(each is not None for each in others):
        raise UnsupportedError("experts of few-bit floats, or packed for one kernel; quantise them to raw integers")
    sizes = fc1_expert_weight_bits, fc2_expert_weight_bits, fc3_expert_weight_bits
    weights = fc1_experts_weights, fc2_experts_weights, fc3_experts_weights
    scales, zero_points = (fc1_scales, fc2_scales, fc3_scales), (fc1_zero_points, fc2_zero_points, fc3_zero_points)
    first, second, third = (
        _read_out(lowering, packed, scale, zero, own or expert_weight_bits)
        for packed, scale, zero, own in zip(weights, scales, zero_points, sizes, strict=True)
    )
    into, out = Map(first, fc1_experts_bias), Map(second, fc2_experts_bias)
    beside = None if third is None else Map(third, fc3_experts_bias)
    return _mixed(lowering, input, (router_probs, router_weights), into, out, beside, Mixture(**attributes))


def _read_out(
    lowering: Lowering, packed: Value | None, scales: Value | None, zero_points: Value | None, bits: int
) -> Any:
    """Weights [expert, out, in] out of the bytes along what they read."""
    if packed is None:
        return None
    if scales is None:
        raise ModelError("quantised experts need scales")
    levels = unpacked(lowering.known(packed, "the weights of the experts"), bits).astype(np.float32)
    factors = lowering.known(scales, "the scales of the experts").astype(np.float32)
    zero = np.full(factors.shape, 2 ** (bits - 1), np.float32)
    if zero_points is not None:
        known = lowering.known(zero_points, "the zero points of the experts")
        zero = unpacked(known, bits)[..., : factors.shape[-1]].astype(np.float32)
    experts, rows, width = levels.shape
    blocks = levels.reshape(experts, rows, factors.size // (experts * rows), -1)
    offset, spread = (each.reshape(*blocks.shape[:3], 1) for each in (zero, factors))
    return lowering.derived(packed, ((blocks - offset) * spread).reshape(experts, rows, width))


def _mixed(
    lowering: Lowering,
    input: Value,
    router: tuple[Value, Value | None],
    into: Map,
    out: Map,
    beside: Map | None,
    mixture: Mixture,
) -> Value:
    if mixture.use_sparse_mixer:
        raise UnsupportedError("the sparse mixer's routing (use_sparse_mixer); export the router with the model")
    tokens = lowering.reshape(input, (math.prod(input.shape[:-1]), input.shape[-1]))
    hidden = into.of(lowering, tokens, "th,eih->eti")
    beside_it = None if beside is None else beside.of(lowering, tokens, "th,eih->eti")
    answers = out.of(lowering, _activated(lowering, hidden, beside_it, mixture), "eti,ehi->eth")
    shares = _shares(lowering, *router, mixture)
    column = lowering.reshape(lowering.transpose(shares, (1, 0)), (*answers.shape[:2], 1))
    mixed = lowering.emit("reduce_sum", lowering.emit("mul", answers, column), axes=(0,), keepdims=False)
    return lowering.reshape(mixed, input.shape)


def _shares(lowering: Lowering, scores: Value, weights: Value | None, mixture: Mixture) -> Value:
    """The weight of each expert for each token [token, expert], 0 where it is not chosen."""
    chances = lowering.emit("softmax", scores, axis=1) if weights is None else weights
    best, chosen = top_k_1(lowering, chances if weights is None else scores, k=mixture.k)
    if weights is not None:
        best = lowering.emit("gather_elements", weights, chosen, axis=1)
    if mixture.normalize_routing_weights:
        best = lowering.emit("div", best, lowering.emit("reduce_sum", best, axes=(1,), keepdims=True))
    count, (tokens, k) = scores.shape[1], best.shape
    own = lowering.emit("equal", lowering.reshape(chosen, (tokens, k, 1)), np.arange(count))
    spread = lowering.emit("where", own, lowering.reshape(best, (tokens, k, 1)), np.zeros((), best.dtype))
    return lowering.emit("reduce_sum", spread, axes=(1,), keepdims=False)


def _activated(lowering: Lowering, hidden: Value, beside: Value | None, mixture: Mixture) -> Value:
    """The activation of what experts compute first, gating what they compute beside it."""
    if mixture.activation_type == "swiglu":
        return _swiglu(lowering, *_halves(lowering, hidden, beside, mixture.swiglu_fusion), mixture)
    if mixture.activation_type == "gelu":
        active = lowering.emit("gelu", hidden, approximate=True)
    elif mixture.activation_type in _POINTWISE:
        op = _POINTWISE[mixture.activation_type]
        active = hidden if op is None else lowering.emit(op, hidden)
    else:
        wanted = "relu, gelu, silu, swiglu or identity"
        raise ModelError(f"activation_type should be {wanted}; found {mixture.activation_type!r}")
    return active if beside is None else lowering.emit("mul", active, beside)


def _halves(lowering: Lowering, hidden: Value, beside: Value | None, fusion: int) -> tuple[Value, Value]:
    """The gate and what it gates: apart, as every other entry, or as halves."""
    if not fusion:
        if beside is None:
            raise ModelError("swiglu that is not fused needs the weights of fc3")
        return hidden, beside
    *before, width = hidden.shape
    start, ones = tuple(0 for _ in before), tuple(1 for _ in before)
    ends = [(0, width, 2), (1, width, 2)] if fusion == 1 else [(0, width // 2, 1), (width // 2, width, 1)]
    first, second = (
        lowering.emit("slice", hidden, start=(*start, low), limit=(*before, high), stride=(*ones, step))
        for low, high, step in ends
    )
    return first, second


def _swiglu(lowering: Lowering, gate: Value, linear: Value, mixture: Mixture) -> Value:
    if mixture.swiglu_limit is not None:
        limit = mixture.swiglu_limit
        gate = lowering.emit("clip", gate, low=None, high=limit)
        linear = lowering.emit("clip", linear, low=-limit, high=limit)
    if mixture.activation_beta:
        linear = lowering.emit("add", linear, np.asarray(mixture.activation_beta).astype(linear.dtype))
    return lowering.emit("mul", swish(lowering, gate, alpha=mixture.activation_alpha), linear)
