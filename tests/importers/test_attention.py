"""The fused attention operator, spelled out, against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax import explain
from backtrace_jax.errors import ModelError

from .nodes import boolean, check_node, floats, node_model


def softmax(scores):
    shifted = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def attention(Q, K, V, bias=0.0, scale=None, softcap=0.0):
    group = Q.shape[1] // K.shape[1]
    K, V = np.repeat(K, group, axis=1), np.repeat(V, group, axis=1)
    scores = Q @ K.swapaxes(2, 3) * (scale or Q.shape[3] ** -0.5)
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    return (softmax(scores + bias) @ V).astype(np.float32)


def split(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def operands(query_heads=2, heads=2, queries=3, keys=5):
    return floats(2, query_heads, queries, 4), floats(2, heads, keys, 4, seed=1), floats(2, heads, keys, 6, seed=2)


CAUSAL = np.where(np.tri(3, 5, dtype=bool), 0, -np.inf).astype(np.float32)
MASK = boolean(2, 1, 3, 5) | np.eye(3, 5, dtype=bool)
HIDDEN = np.where(MASK, 0, -np.inf)


@pytest.mark.parametrize(
    ("attributes", "settings"),
    [
        ({}, {}),
        ({"scale": 0.3}, {"scale": 0.3}),
        ({"softcap": 0.7}, {"softcap": 0.7}),
        ({"is_causal": 1}, {"bias": CAUSAL}),
    ],
)
def test_settings(attributes, settings):
    Q, K, V = operands()
    check_node("Attention", [Q, K, V], expected=[attention(Q, K, V, **settings)], opset=23, **attributes)


@pytest.mark.parametrize("known", [(), (3,)])
@pytest.mark.parametrize(
    ("mask", "bias"), [(MASK, HIDDEN), (floats(3, 5), floats(3, 5)), (floats(2, 1, 3, 5), floats(2, 1, 3, 5))]
)
def test_masks(mask, bias, known):
    Q, K, V = operands()
    check_node("Attention", [Q, K, V, mask], known, [attention(Q, K, V, bias)], opset=23)


def test_masks_combine_with_causality():
    Q, K, V = operands()
    wanted = attention(Q, K, V, HIDDEN + CAUSAL)
    check_node("Attention", [Q, K, V, MASK], (3,), [wanted], opset=23, is_causal=1)


@pytest.mark.parametrize("known", [(), (3,)])
def test_a_query_that_sees_nothing_gives_zeros(known):
    Q, K, V = operands()
    mask = MASK.copy()
    mask[:, :, 1] = False
    wanted = attention(Q, K, V, np.where(mask[..., :1] | mask, HIDDEN, 0))
    wanted[:, :, 1] = 0
    bias = np.where(mask, 0, -np.inf)
    bias[:, :, 1] = 0
    wanted = attention(Q, K, V, bias)
    wanted[:, :, 1] = 0
    check_node("Attention", [Q, K, V, mask], known, [wanted], opset=23)


def test_heads_are_shared_by_groups_of_queries():
    Q, K, V = operands(query_heads=6, heads=2)
    check_node("Attention", [Q, K, V], expected=[attention(Q, K, V)], opset=23)


def test_merged_heads():
    Q, K, V = floats(2, 3, 8), floats(2, 5, 4, seed=1), floats(2, 5, 6, seed=2)
    wanted = attention(split(Q, 4), split(K, 2), split(V, 2)).swapaxes(1, 2).reshape(2, 3, 12)
    check_node("Attention", [Q, K, V], expected=[wanted], opset=23, q_num_heads=4, kv_num_heads=2)


def test_keys_and_values_of_the_past_come_first():
    Q, K, V = operands(keys=5)
    past_K, past_V, K, V = K[:, :, :2], V[:, :, :2], K[:, :, 2:], V[:, :, 2:]
    bias = np.where(np.tri(3, 5, 2, dtype=bool), 0, -np.inf)
    all_K, all_V = np.concatenate([past_K, K], 2), np.concatenate([past_V, V], 2)
    wanted = [attention(Q, all_K, all_V, bias), all_K, all_V]
    check_node("Attention", [Q, K, V, None, past_K, past_V], expected=wanted, opset=23, is_causal=1, results=3)


@pytest.mark.parametrize("known", [(), (6,)])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_a_static_cache_is_filled_in_part(is_causal, known):
    Q, K, V = operands()
    lengths = np.asarray([4, 5])
    bias = np.where(np.arange(5) < lengths[:, None], 0, -np.inf).reshape(2, 1, 1, 5)
    if is_causal:
        bias = (
            bias + np.stack([np.where(np.tri(3, 5, length - 3, dtype=bool), 0, -np.inf) for length in lengths])[:, None]
        )
    wanted = attention(Q, K, V, bias)
    check_node("Attention", [Q, K, V, *[None] * 3, lengths], known, [wanted], opset=24, is_causal=is_causal)


@pytest.mark.parametrize("limits", [(1, -1), (-1, 1), (1, 0), (0, 2)])
def test_a_window_of_keys(limits):
    Q, K, V = operands()
    left, right = limits
    distance = np.arange(5) - np.arange(3)[:, None]
    seen = ((left < 0) | (distance >= -left)) & ((right < 0) | (distance <= right))
    wanted = attention(Q, K, V, np.where(seen, 0, -np.inf))
    check_node("Attention", [Q, K, V], (), [wanted], opset=25, left_window_size=left, right_window_size=right)


@pytest.mark.parametrize("mode", ["default", "gradient-x-input"])
def test_a_query_that_sees_nothing_spoils_no_explanation(mode):
    """Two queries, one key: the first query comes before the cache begins."""
    Q, K, V = floats(1, 1, 2, 4), floats(1, 1, 3, 4, seed=1), floats(1, 1, 3, 4, seed=2)
    inputs = {"x0": Q, "x1": K, "x2": V, "x6": np.asarray([1])}
    model = node_model("Attention", [Q, K, V, *[None] * 3, inputs["x6"]], opset=24, is_causal=1)
    relevance = explain(model, inputs, mode=mode, start=np.ones((1, 1, 2, 4), np.float32)).relevance
    assert all(np.isfinite(relevance[name]).all() for name in ("x0", "x1", "x2"))
    assert np.abs(relevance["x2"][:, :, 0]).min() > 0
    np.testing.assert_array_equal(relevance["x2"][:, :, 1:], 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qk_matmul_output_mode": 4}, "'qk_matmul_output_mode' must be one of 0, 1, 2, 3, found 4"),
        ({"q_num_heads": 3, "kv_num_heads": 2}, "a width of 8 cannot be cut into 3 heads"),
        ({"kv_num_heads": None}, "3D inputs expected to have kv_num_heads"),
    ],
)
def test_wrong_settings(settings, message):
    shapes = (2, 3, 8), (2, 5, 4), (2, 5, 4)
    settings = {"q_num_heads": 4, "kv_num_heads": 2} | settings
    with pytest.raises(ModelError, match=message):
        check_node("Attention", [floats(*shape) for shape in shapes], (), [], opset=23, **settings)
