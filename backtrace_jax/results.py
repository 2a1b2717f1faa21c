"""Turns what a compiled function returned into an Explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from .compiled import Compiled
from .engine.compile import Result
from .errors import NumericsError
from .explanation import Explanation, Ledger
from .fingerprint import fingerprint
from .numerics import check_finite
from .settings import Settings
from .tasks import CUSTOM


def as_explanation(
    compiled: Compiled, settings: Settings, model_hash: str, feeds: dict[str, np.ndarray], result: Result
) -> Explanation:
    """The explanation of a batch.

    Raises:
        NumericsError: When the explained output or the relevance is NaN or Inf.
    """
    _check_result(compiled, feeds, result)
    return Explanation(
        relevance={name: unbatched(array) for name, array in result.relevance.items()},
        inputs=feeds,
        outputs={name: unbatched(array) for name, array in result.outputs.items()},
        output=compiled.output_name,
        target=None if compiled.request.task.name == CUSTOM else result.target,
        layers={name: unbatched(array) for name, array in result.layers.items()},
        ledger=_ledger(compiled, result),
        fingerprint=fingerprint(model_hash, _resolved(compiled, settings), compiled.device),
    )


def _resolved(compiled: Compiled, settings: Settings) -> dict[str, object]:
    """The settings with every choice that was left open as it was made."""
    return {
        **asdict(settings),
        "task": compiled.request.task.name,
        "output": compiled.output_name,
        "layers": list(compiled.request.layers),
        "wrt": [var.name for var in compiled.request.plan.inputs],
        "chunk": compiled.chunk,
    }


def joined(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a stacked value: the model's own batch axis, of size 1, gives way to the axis of examples."""
    return (shape[0], *shape[2:]) if shape[1:2] == (1,) else shape


def unbatched(array: np.ndarray) -> np.ndarray:
    """A stacked value without the model's own batch axis."""
    return array.reshape(joined(array.shape))


def _check_result(compiled: Compiled, feeds: Mapping[str, np.ndarray], result: Result) -> None:
    name = compiled.output_name
    bad = np.flatnonzero(~_finite_rows(result.outputs[name]))
    if len(bad):
        types = {var.name: var.dtype for var in compiled.program.graph.inputs}
        example = {key: array[bad[0]][None].astype(types[key]) for key, array in feeds.items()}
        check_finite(compiled.program.graph, compiled.program.weights, example, name)
    for key, array in result.relevance.items():
        if not _finite_rows(array).all():
            raise NumericsError(
                f"relevance of input {key!r} is not finite; explain with dtype='float64' or a smaller scaler"
            )


def _finite_rows(array: np.ndarray) -> np.ndarray:
    return np.all(np.isfinite(array).reshape(len(array), -1), axis=1)


def _ledger(compiled: Compiled, result: Result) -> Ledger:
    """The whole graph's books from those of its steps; inputs are added up once more from their relevance."""
    inputs = [np.zeros((len(result.target), 2))]
    for array in result.relevance.values():
        flat = array.reshape(len(array), -1).astype(np.float64)
        inputs.append(np.stack([flat.sum(1), np.abs(flat).sum(1)], axis=1))
    totals = np.sum(inputs, axis=0)
    nodes = [step.eqn.outvars[0].name for step in compiled.request.plan.steps]
    signed, absolute = (
        np.concatenate([result.start[:, k : k + 1], totals[:, k : k + 1], books[:, :, 2:].sum(axis=1)], axis=1)
        for k, books in enumerate(result.books)
    )
    by_node = {name: Ledger(result.books.signed[:, i], result.books.absolute[:, i], {}) for i, name in enumerate(nodes)}
    return Ledger(signed, absolute, by_node)
