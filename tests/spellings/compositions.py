"""Several rewrites in a row, and what is compared of the model they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .comparing import MODES, alike, difference, feeds, relevance, simplified
from .networks import NETWORKS
from .random_networks import random_network
from .rewrites import REWRITES, rewritten
from .table import EXCLUDED
from .writing import in_doubles

LARGEST = 150  # nodes of a model that is still rewritten
EQUAL = 1e-6  # of the largest magnitude, in float64


def drawn(seed: int) -> tuple[onnx.ModelProto, list[tuple[str, onnx.ModelProto]]]:
    """A network, random or of the table, and two to five rewrites of it in a row: their names, each with the model."""
    generator = np.random.default_rng(seed)
    names = list(NETWORKS)
    first = model = random_network(seed) if generator.random() < 0.7 else NETWORKS[names[seed % len(names)]]()
    applied, wanted = [], int(generator.integers(2, 6))
    for rewrite in generator.permutation(list(REWRITES)).tolist():
        changed, places = rewritten(model, rewrite)
        if places and len(changed.graph.node) <= LARGEST:
            model = changed
            applied.append((rewrite, model))
        if len(applied) == wanted:
            break
    return first, applied


def outputs(model: onnx.ModelProto) -> list[np.ndarray] | None:
    """What ONNX's reference evaluator makes of a model in float64; None for operators it does not know."""
    if any(node.domain for node in model.graph.node):
        return None
    results: Any = ReferenceEvaluator(in_doubles(model)).run(None, feeds(model))
    return list(results)


def differences(first: onnx.ModelProto, other: onnx.ModelProto, rewrites: Sequence[str]) -> dict[str, float]:
    """By mode, how far relevance of a model and of its rewritten form are apart; 0 where both are one program."""
    one, two = simplified(first), simplified(other)
    modes = [mode for mode in MODES if not any((rewrite, mode) in EXCLUDED for rewrite in rewrites)]
    if alike(two, one):
        return dict.fromkeys(modes, 0.0)
    x = feeds(first)
    return {mode: difference(relevance(two, x, mode), relevance(one, x, mode)) for mode in modes}


def check_composition(seed: int) -> str:
    """Several rewrites in a row leave function and relevance as they are."""
    first, applied = drawn(seed)
    names, other = [name for name, _ in applied], applied[-1][1]
    onnx.checker.check_model(other)
    expected, found = outputs(first), outputs(other)
    for wanted, output in zip(expected or [], found or [], strict=found is not None):
        assert np.abs(output - wanted).max() <= EQUAL * np.abs(wanted).max(), names
    apart = differences(first, other, names)
    assert all(each <= EQUAL for each in apart.values()), (names, apart)
    return "one program" if not any(apart.values()) else "the same relevance"
