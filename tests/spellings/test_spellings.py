"""Relevance belongs to the network: every spelling of it gets the same (RULES section 13).

A rewrite leaves a network's function unchanged, which ONNX's reference evaluator confirms in float64. What is explained
of the two files is then compared: where both come down to the same operations on the same weights, their relevance is
the same in every mode. Where they do not, it is computed in every mode, and compared in float64.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from backtrace_jax import explain
from backtrace_jax.ir import Program

from .comparing import MODES, alike, difference, feeds, relevance, simplified
from .networks import NETWORKS
from .rewrites import REWRITES, rewritten
from .table import EXCLUDED
from .writing import in_doubles

EQUAL = 1e-6  # of the largest magnitude, in float64
REWRITTEN = 12  # ways to spell each network, at least


@cache
def network(name: str) -> onnx.ModelProto:
    model = NETWORKS[name]()
    onnx.checker.check_model(model)
    return model


@cache
def program(name: str) -> Program:
    return simplified(network(name))


@cache
def spellings(name: str) -> dict[str, onnx.ModelProto]:
    """The network in every spelling that applies to it."""
    found = {rewrite: rewritten(network(name), rewrite) for rewrite in REWRITES}
    return {rewrite: model for rewrite, (model, places) in found.items() if places}


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    results: Any = ReferenceEvaluator(in_doubles(model)).run(None, feeds(model))
    return list(results)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_the_same(name):
    expected = outputs(network(name))
    assert len(spellings(name)) >= REWRITTEN
    for rewrite, model in spellings(name).items():
        onnx.checker.check_model(model)
        if any(node.domain for node in model.graph.node):
            continue  # onnxruntime's own operators, which the reference does not know: see test_microsoft.py
        for one, other in zip(outputs(model), expected, strict=True):
            assert np.abs(one - other).max() <= 1e-6 * np.abs(other).max(), rewrite


@cache
def differing(name: str) -> list[str]:
    """Spellings that do not come down to the same program."""
    return [rewrite for rewrite, model in spellings(name).items() if not alike(simplified(model), program(name))]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_differs_is_in_the_table(name):
    """Most spellings come down to one program; only these rewrites leave another one with the same relevance."""
    unknown = [rewrite for rewrite in differing(name) if rewrite not in DIFFERING]
    assert not unknown


DIFFERING = {
    "convolution_as_dense": "the product stands between transpositions",
    "concat_nested": "concatenations of concatenations stay",
    "convolution_as_tf2onnx": "a convolution of higher rank",
    "convolution_of_higher_rank": "the axis that was put in is part of the convolution",
    "dense_as_convolution": "a convolution of one entry at a time",
    "dense_as_einsum": "another operation, of the same kind",
    "dense_as_gemm": "rows are merged along with heads",
    "dense_turned": "the product of the turned factors",
    "difference_by_minus_one": "a difference of a difference, in another order",
    "expanded_constants": "a number along the last axis may be a scale",
    "global_pool_as_mean": "axes of size 1 are dropped by the reduction or behind it",
    "groups_apart": "one convolution for each group",
    "layer_norm_of_rows": "the norm stands between reshapes",
    "mask_as_choice": "a choice where others add",
    "mask_from_booleans": "other numbers in the mask",
    "mask_of_infinity": "other numbers in the mask",
    "mean_as_pool": "the pool stands behind a transposition",
    "projections_fused": "one product, split",
    "resize_as_upsampling": "copies made by moves",
    "scale_ahead": "what a user gives bounds for (z-box) keeps its scale",
    "scale_behind": "a number between keys and scores moves to the queries",
    "scores_as_einsum": "another operation, of the same kind",
    "softmax_guarded": "rows that are masked altogether are computed otherwise",
    "softmax_of_another_axis": "the softmax stands between transpositions",
}
"""Rewrites that may leave another program, and why it is left as it is."""


@cache
def wanted(name: str, mode: str) -> dict[str, np.ndarray]:
    """Relevance of the network in its plainest spelling."""
    return relevance(program(name), feeds(network(name)), mode)


@pytest.mark.parametrize("rewrite", DIFFERING)
def test_relevance_of_what_differs(rewrite):
    """Computed in float64 in every mode, for two networks; `benchmarks.spellings` computes it for all of them."""
    rewritten_in = (name for name in reversed(NETWORKS) if rewrite in spellings(name))
    names = list(itertools.islice((name for name in rewritten_in if rewrite in differing(name)), 2))
    assert names
    for name, mode in itertools.product(names, MODES):
        if (rewrite, mode) not in EXCLUDED:
            found = relevance(simplified(spellings(name)[rewrite]), feeds(network(name)), mode)
            assert difference(found, wanted(name, mode)) <= EQUAL, (name, mode)


SAMPLE = {
    "default": ("conv1d", "convolution_as_tf2onnx"),
    "contrastive": ("resnet", "bias_behind_several_moves"),
    "lrp-epsilon-plus": ("mobile", "hard_swish_by_relu_and_minimum"),
    "attnlrp": ("bert", "layer_norm_as_flax"),
}


@pytest.mark.parametrize("mode", SAMPLE)
def test_as_a_user_calls_it(mode):
    name, rewrite = SAMPLE[mode]
    x = {
        key: array.astype(array.dtype if array.dtype.kind == "i" else np.float32)
        for key, array in feeds(network(name)).items()
    }
    one, other = (explain(model, x, mode=mode, dtype="float64") for model in (network(name), spellings(name)[rewrite]))
    assert difference(other.relevance, one.relevance) <= EQUAL
