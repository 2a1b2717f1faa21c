"""The fused attention operators of com.microsoft, against onnxruntime."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from backtrace_jax.errors import UnsupportedError
from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import check_node, floats, node_model

check = partial(check_node, domain="com.microsoft", rtol=1e-4, atol=1e-5)


def reference(op_type, operands, **settings):
    """What onnxruntime computes of operands that are all inputs."""
    inputs = {f"x{i}": operand for i, operand in enumerate(operands) if operand is not None}
    return onnxruntime_outputs(node_model(op_type, operands, domain="com.microsoft", **settings), inputs)


def int32(*values, shape=None):
    return np.asarray(values, np.int32).reshape(shape or -1)


def projected(**changes):
    """Operands of Attention: X [2, 4, 6], two heads of size 3."""
    return [changes.get("X", floats(2, 4, 6)), floats(6, 18, seed=1), floats(18, seed=2)]


KEYS = int32(1, 1, 0, 1, 1, 1, 1, 0, shape=(2, 4))
EACH = np.concatenate([np.tri(4, dtype=np.int32)[None], np.triu(np.ones((1, 4, 4), np.int32))])


@pytest.mark.parametrize(
    "mask",
    [None, KEYS, int32(3, 4), int32(3, 4, 1, 0), EACH],
    ids=lambda mask: "none" if mask is None else str(mask.shape),
)
def test_masks(mask):
    check("Attention", [*projected(), mask], (1, 2), num_heads=2)


def test_a_mask_over_the_longest_sequence():
    """It is cut to size; onnxruntime can only do that on GPUs."""
    whole = np.zeros((2, 1, 6, 6), np.int32)
    whole[:, 0, :4, :4] = EACH
    wanted = reference("Attention", [*projected(), EACH], num_heads=2)
    check("Attention", [*projected(), whole], (1, 2), wanted, num_heads=2)


@pytest.mark.parametrize(
    "settings",
    [{"unidirectional": 1}, {"scale": 0.3}, {"unidirectional": 1, "mask_filter_value": -50.0}],
    ids=str,
)
def test_settings(settings):
    check("Attention", [*projected(), KEYS], (1, 2), num_heads=2, **settings)


def test_values_of_another_size():
    operands = [floats(2, 4, 6), floats(6, 16, seed=1), floats(16, seed=2)]
    check("Attention", operands, (1, 2), num_heads=2, qkv_hidden_sizes=[6, 6, 4])


@pytest.mark.parametrize("unidirectional", [0, 1])
def test_a_past(unidirectional):
    past, settings = floats(2, 2, 2, 3, 3, seed=3), {"num_heads": 2, "results": 2, "unidirectional": unidirectional}
    check("Attention", [*projected(), None, past], (1, 2), **settings)


def test_a_bias_of_positions():
    check("Attention", [*projected(), None, None, floats(1, 2, 4, 4, seed=4)], (1, 2), num_heads=2)


@pytest.mark.parametrize("setting", ["do_rotary", "past_present_share_buffer"])
def test_unsupported_settings(setting):
    with pytest.raises(UnsupportedError, match="GroupQueryAttention"):
        check("Attention", projected(), (1, 2), [], num_heads=2, **{setting: 1})


def apart():
    """Operands of MultiHeadAttention: two heads of size 3, values of size 4."""
    return [floats(2, 4, 6), floats(2, 5, 6, seed=1), floats(2, 5, 8, seed=2)]


PADDING = int32(1, 1, 1, 0, 1, 1, 1, 1, 1, 0, shape=(2, 5))


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [floats(20, seed=3)],
        [None, PADDING],
        [None, int32(3, 5)],
        [floats(20, seed=3), None, floats(1, 2, 4, 5, seed=4)],
    ],
    ids=["plain", "bias", "mask", "lengths", "position bias"],
)
def test_operands_apart(rest):
    check("MultiHeadAttention", [*apart(), *rest], num_heads=2)


def test_queries_keys_and_values_packed():
    """onnxruntime can only unpack them on GPUs."""
    packed = floats(2, 4, 2, 3, 3)
    wanted = reference("MultiHeadAttention", [packed[:, :, :, i].reshape(2, 4, 6) for i in range(3)], num_heads=2)
    check("MultiHeadAttention", [packed], expected=wanted, num_heads=2)


def test_keys_and_values_packed():
    Q, packed = floats(2, 4, 6), floats(2, 5, 2, 2, 3, seed=1)
    wanted = reference("MultiHeadAttention", [Q, *(packed[:, :, :, i].reshape(2, 5, 6) for i in range(2))], num_heads=2)
    check("MultiHeadAttention", [Q, packed], expected=wanted, num_heads=2)


def test_keys_and_values_by_heads():
    check("MultiHeadAttention", [floats(2, 4, 6), floats(2, 2, 5, 3, seed=1), floats(2, 2, 5, 3, seed=2)], num_heads=2)


def test_keys_and_values_of_the_past():
    Q, K, V = floats(2, 4, 6), floats(2, 4, 6, seed=1), floats(2, 4, 6, seed=2)
    past = [floats(2, 2, 3, 3, seed=3), floats(2, 2, 3, 3, seed=4)]
    check("MultiHeadAttention", [Q, K, V, None, None, None, *past], num_heads=2, results=3, unidirectional=1)


def test_scores_are_a_result():
    Q, K = (x.reshape(2, -1, 2, 3).swapaxes(1, 2) for x in apart()[:2])
    wanted = reference("MultiHeadAttention", apart(), num_heads=2, results=3)
    check(
        "MultiHeadAttention",
        apart(),
        expected=[*wanted, Q @ K.swapaxes(2, 3) / np.float32(np.sqrt(3))],
        num_heads=2,
        results=4,
    )


ANGLES = floats(16, 8, seed=8)
TABLES = [np.cos(ANGLES), np.sin(ANGLES)]


def grouped(steps=4, past=0, batch=1, filled=None, buffer=0):
    """Operands of GroupQueryAttention: four heads of queries on two of keys, each of size 16."""
    filled = [past] * batch if filled is None else filled
    parts = [floats(batch, steps, 64), floats(batch, steps, 32, seed=1), floats(batch, steps, 32, seed=2)]
    size = buffer or past
    before = [floats(batch, 2, size, 16, seed=seed) for seed in (3, 4)] if size else [None, None]
    lengths = int32(*(length + steps - 1 for length in filled))
    return [*parts, *before, lengths, np.asarray(max(filled) + steps, np.int32)]


check_grouped = partial(check, "GroupQueryAttention", num_heads=4, kv_num_heads=2, results=3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": 0.2}, {"softcap": 0.5}, {"local_window_size": 2}, {"smooth_softmax": 1}, {"causal": 0}],
    ids=str,
)
def test_groups(settings):
    check_grouped(grouped(), (5, 6), **settings)


@pytest.mark.parametrize("known", [(5, 6), (6,)])
@pytest.mark.parametrize(
    "case", [{"steps": 1, "past": 5}, {"steps": 3, "past": 2}, {"steps": 1, "batch": 2, "past": 4}]
)
def test_a_cache(case, known):
    check_grouped([*grouped(**case), *TABLES], known, do_rotary=1)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotation(interleaved):
    check_grouped([*grouped(), *TABLES], (5, 6), do_rotary=1, rotary_interleaved=interleaved)


def test_rotation_by_given_positions():
    positions = np.asarray([[5]])
    check_grouped([*grouped(steps=1, past=5), *TABLES, positions], (5, 6), do_rotary=1)


def test_packed():
    Q, K, V, *rest = grouped()
    check_grouped([np.concatenate([Q, K, V], axis=2), None, None, *rest], (5, 6))


def test_sinks_and_a_bias():
    operands = [*grouped(), None, None, None, floats(1, 4, 4, 4, seed=5), floats(4, seed=6)]
    check_grouped(operands, (5, 6))


@pytest.mark.parametrize("known", [(5, 6), (6,)])
def test_members_of_a_batch_with_pasts_of_their_own(known):
    """Behind what is filled, the cache passed out holds anything."""
    operands = [*grouped(steps=1, past=4, batch=2, filled=[2, 4], buffer=4), *TABLES]
    settings = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1}
    wanted = reference("GroupQueryAttention", operands, results=3, **settings)
    check("GroupQueryAttention", operands, known, wanted[:1], **settings)


def test_prompts_of_their_own_lengths():
    """What comes out behind the end of a prompt is anything."""
    operands, settings = grouped(steps=4, batch=2, filled=[-1, 0]), {"num_heads": 4, "kv_num_heads": 2}
    (wanted,) = reference("GroupQueryAttention", operands, **settings)
    model = node_model("GroupQueryAttention", operands, domain="com.microsoft", **settings)
    (found,) = run_model(model, {f"x{i}": x for i, x in enumerate(operands) if x is not None})
    np.testing.assert_allclose(found[0, :3], wanted[0, :3], 1e-4, 1e-5)
    np.testing.assert_allclose(found[1], wanted[1], 1e-4, 1e-5)


def test_a_quantised_cache():
    operands = [*grouped(steps=1, past=4), *[None] * 5, floats(1)]
    with pytest.raises(UnsupportedError, match="quantised"):
        check_grouped(operands, (5, 6), [])


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [np.asarray([3]), np.asarray([[0, 1, 2], [4, 5, 6]])])
def test_rotary_embedding(interleaved, positions):
    check("RotaryEmbedding", [floats(2, 3, 32), positions, *TABLES], (2, 3), interleaved=interleaved)


def test_rotary_embedding_by_heads():
    check("RotaryEmbedding", [floats(2, 2, 3, 16), np.asarray([1]), *TABLES], (2, 3))


def test_rotary_embedding_of_part_of_a_head():
    operands = [floats(2, 3, 48), np.asarray([[0, 1, 2], [4, 5, 6]]), *TABLES]
    check("RotaryEmbedding", operands, (2, 3), num_heads=2, rotary_embedding_dim=16)
