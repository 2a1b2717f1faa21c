"""How often the place that decided the answer has the most relevance (top-1 recall of the cause)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backtrace_jax import explain

pytestmark = pytest.mark.optimised
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One model, its held-out sequences [batch, places, ...], and the places that decided each answer."""

    model: Path
    inputs: np.ndarray
    labels: np.ndarray
    cause: np.ndarray


def _case(name: str, dtype: type) -> Case:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file.items())
    return Case(FOLDER / f"{name}.onnx", arrays["inputs"].astype(dtype), arrays["label"], arrays["cause"])


@pytest.fixture(scope="module")
def flag() -> Case:
    """A flag, 30 to 40 steps before the last, is the answer."""
    return _case("flag_lstm", np.float32)


@pytest.fixture(scope="module")
def lookup() -> Case:
    """A key of the list and the value after it are the answer to the query, which is the last token."""
    return _case("lookup_transformer", np.int64)


def recall(case: Case, mode: str) -> float:
    """The share of sequences in which a place of the cause comes first among all, features summed."""
    explanation = explain(case.model, case.inputs, mode=mode)
    (answers,), (relevance,) = explanation.outputs.values(), explanation.relevance.values()
    assert (answers.argmax(axis=1) == case.labels).mean() >= 0.99
    first = relevance.reshape(*relevance.shape[:2], -1).sum(axis=2).argmax(axis=1)
    return float((first[:, None] == case.cause).any(axis=1).mean())


def test_the_flag_comes_first_when_the_signal_takes_all(flag):
    assert recall(flag, "default") >= 0.95


def test_the_flag_is_lost_when_open_gates_take_nearly_all(flag):
    assert recall(flag, "dlbacktrace-0.0.24") < 0.5


@pytest.mark.parametrize("mode", ["attnlrp", "cp-lrp"])
def test_the_looked_up_pair_comes_before_every_token_even_the_query(lookup, mode):
    assert recall(lookup, mode) >= 0.95


def test_the_flags_stand_far_from_the_end(flag):
    count, steps, _ = flag.inputs.shape
    assert count >= 200
    assert set(steps - 1 - flag.cause[:, 0].astype(int)) == set(range(30, 41))
    np.testing.assert_array_equal(flag.inputs[..., -1].argmax(axis=1), flag.cause[:, 0])


def test_the_pairs_stand_all_over_the_list(lookup):
    count, tokens = lookup.inputs.shape
    assert count >= 200
    assert set(lookup.cause[:, 0]) == set(range(0, tokens - 1, 2))
    key, value = np.take_along_axis(lookup.inputs, lookup.cause.astype(int), 1).T
    np.testing.assert_array_equal(key, lookup.inputs[:, -1])
    np.testing.assert_array_equal(value - 24, lookup.labels)
