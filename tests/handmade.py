"""Explanations made by hand, for tests of what is done with one."""

from __future__ import annotations

import numpy as np

from backtrace_jax.explanation import COLUMNS, Explanation, Ledger

SIZE = 2  # examples in every one of them


def ledger(*, nodes: tuple[str, ...] = (), seed: int = 0) -> Ledger:
    """Books of two examples that close."""
    signed = np.random.default_rng(seed).standard_normal((SIZE, len(COLUMNS)))
    signed[:, 0] = signed[:, 1:].sum(axis=1)
    by_node = {name: ledger(seed=number + 1) for number, name in enumerate(nodes)}
    return Ledger(signed, np.abs(signed), by_node)


def explanation(values: np.ndarray, relevance: np.ndarray, /, *, name: str = "x", **changes) -> Explanation:
    """Two examples of one input, explained for units 1 and 2 of an output with four."""
    scores = np.arange(SIZE * 4, dtype=np.float32).reshape(SIZE, 4)
    parts = {
        "relevance": {name: relevance},
        "inputs": {name: values},
        "outputs": {"logits": scores},
        "output": "logits",
        "target": np.array([1, 2]),
        "layers": {},
        "ledger": ledger(),
        "fingerprint": {"mode": "default"},
    }
    return Explanation(**{**parts, **changes})
