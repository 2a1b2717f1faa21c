"""Embeddings and biases by position that onnxruntime fuses, against onnxruntime or the formula."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from backtrace_jax.errors import UnsupportedError
from tests.importers.test_quantisation import integers

from .nodes import check_node, floats

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_embeddings(segments, given):
    words, positions = floats(7, 4), floats(6, 4, seed=1)
    ids = np.asarray([[1, 5, 0], [2, 2, 6]], np.int32)
    segment_ids, kinds = (
        (np.asarray([[0, 1, 1], [0, 0, 1]], np.int32), floats(2, 4, seed=2)) if segments else (None,) * 2
    )
    mask, order = np.asarray([[1, 1, 1], [1, 1, 0]], np.int32), np.asarray([[2, 0, 1], [5, 1, 0]], np.int32)
    operands = [ids, segment_ids, words, positions, kinds, floats(4, seed=3), floats(4, seed=4), mask]
    check("EmbedLayerNormalization", [*operands, order if given else None], (2, 3, 4, 5, 6), results=3)


@pytest.mark.parametrize("segments", [True, False])
def test_quantised_embeddings(segments):
    ids, mask = np.asarray([[1, 5, 0], [2, 2, 6]], np.int32), np.asarray([[1, 1, 1], [1, 1, 0]], np.int32)
    kinds = np.asarray([[0, 1, 1], [0, 0, 1]], np.int32)
    tables = [integers("uint8", *shape, seed=i) for i, shape in enumerate([(7, 4), (6, 4), (2, 4), (4,), (4,)])]
    scales, zeros = [np.float32(0.01 * i + 0.01) for i in range(5)], [np.uint8(100 + i) for i in range(5)]
    segment_ids = kinds
    if not segments:
        tables[2] = scales[2] = zeros[2] = segment_ids = None
    operands = [ids, segment_ids, *tables, mask, *scales, *zeros]
    check("QEmbedLayerNormalization", operands, (2, 3, 4, 5, 6, *range(8, 18)), results=2)


@pytest.mark.parametrize("both_ways", [0, 1])
def test_a_bias_by_relative_position(both_ways):
    """Buckets as transformers has them (T5), whose reference onnxruntime names; it has no kernel for CPUs."""
    from transformers.models.t5.modeling_t5 import T5Attention

    torch = pytest.importorskip("torch")
    table, (queries, keys) = floats(8, 2), (9, 9)
    distance = torch.arange(keys)[None] - torch.arange(queries)[:, None]
    buckets = T5Attention._relative_position_bucket(distance, bool(both_ways), 8, 20).numpy()
    lengths = [np.asarray(queries), np.asarray(keys)]
    wanted = table[buckets].transpose(2, 0, 1)[None]
    settings = {"is_bidirectional": both_ways, "max_distance": 20}
    check("RelativePositionBias", [table, *lengths], (1, 2), [wanted], **settings)


def gated():
    """Operands of GatedRelativePositionBias: two heads of size 3."""
    return [floats(1, 4, 6), floats(6, seed=1), floats(1, 2, 4, 4, seed=2), floats(3, 8, seed=3), floats(8, seed=4),
            floats(1, 2, 1, 1, seed=5)]  # fmt: skip


def test_a_bias_behind_a_gate():
    """The formula of onnxruntime's schema; it has no kernel for CPUs."""
    query, bias, places, W, b, eco = gated()
    queries = (query + bias).reshape(1, 4, 2, 3).swapaxes(1, 2)
    gates = 1 / (1 + np.exp(-(queries @ W + b).reshape(1, 2, 4, 2, 4).sum(-1)))
    update, reset = np.split(gates, 2, -1)
    check("GatedRelativePositionBias", gated(), (1, 3, 4, 5), [(update * (reset * eco - 1) + 2) * places], num_heads=2)


def test_packed_tokens_behind_a_gate_are_refused():
    operands = [*gated(), np.zeros((1, 4), np.int32)]
    with pytest.raises(UnsupportedError, match="packing mode"):
        check("GatedRelativePositionBias", operands, (6,), [], num_heads=2)
