"""Embeddings that onnxruntime fuses with the normalisation behind them, in the domain com.microsoft."""

from __future__ import annotations

import numpy as np

from backtrace_jax.errors import ModelError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from .microsoft import MICROSOFT
from .normalisation import stashed
from .quantisation import dequantize_linear
from .registry import operator


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    lowering: Lowering,
    input_ids: Value,
    segment_ids: Value | None,
    word_embedding: Value,
    position_embedding: Value,
    segment_embedding: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None = None,
    position_ids: Value | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Value, ...]:
    """Layer normalisation of the sum of embeddings; the number of tokens that are not masked, and the sum besides."""
    length = input_ids.shape[1]
    positions = np.arange(length).reshape(1, length) if position_ids is None else position_ids
    looked_up = [(word_embedding, input_ids), (position_embedding, positions), (segment_embedding, segment_ids)]
    rows = [lowering.emit("gather", table, at, axis=0) for table, at in looked_up if _both(table, at)]
    total = lowering.emit("add", *rows)
    result = stashed(lowering, "layer_norm", total, [gamma, beta], 1, axes=(2,), epsilon=epsilon)
    return result, _count(lowering, mask, input_ids.shape[0]), total


def _both(table: Value | None, positions: Value | None) -> bool:
    if (table is None) != (positions is None):
        raise ModelError("segment_ids and segment_embedding are needed together, or neither")
    return table is not None


def _count(lowering: Lowering, mask: Value | None, batch: int) -> Value:
    """How many tokens of each member of the batch the mask leaves."""
    if mask is None:
        return np.zeros(batch, np.int32)
    ones = lowering.cast(lowering.emit("equal", mask, np.ones((), mask.dtype)), np.dtype(np.int32))
    return lowering.emit("reduce_sum", ones, axes=(1,), keepdims=False)


@operator("QEmbedLayerNormalization", domain=MICROSOFT)
def q_embed_layer_normalization(
    lowering: Lowering,
    input_ids: Value,
    segment_ids: Value | None,
    word_embedding: Value,
    position_embedding: Value,
    segment_embedding: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None,
    *settings: Value | None,
    epsilon: float = 1e-12,
) -> tuple[Value, ...]:
    """The same with quantised parameters; `settings` are the scales of all five, then their zero points."""
    parameters = [word_embedding, position_embedding, segment_embedding, gamma, beta]
    scales, zero_points = settings[:5], settings[5:]
    floats = [_floats(lowering, *each) for each in zip(parameters, scales, zero_points, strict=True)]
    operands = [input_ids, segment_ids, *floats, mask]
    return embed_layer_normalization(lowering, *operands, epsilon=epsilon)[:2]


def _floats(lowering: Lowering, quantised: Value | None, scale: Value | None, zero_point: Value | None) -> Value | None:
    """What quantised parameters stand for, under their name."""
    if quantised is None or scale is None:
        return quantised
    floats = dequantize_linear(lowering, quantised, scale, zero_point)
    return lowering.derived(quantised, floats) if isinstance(floats, np.ndarray) else floats
