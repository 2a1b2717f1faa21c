"""Proof of an import: what the lowered model computes is what the framework's own model computes.

Exporters drop arguments, freeze branches and routings, and trace one length where several are meant, without a word.
So every import is compared with its source before it is explained, on the examples given and on perturbed ones in a
batch of another size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import ml_dtypes
import numpy as np

from backtrace_jax.engine.compile import compile_forward
from backtrace_jax.errors import ImportMismatchError
from backtrace_jax.layout import rows_of
from backtrace_jax.numerics import exact_types
from backtrace_jax.passes import simplify

from . import Imported

Arrays: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[Arrays], Arrays]
"""The framework's own model: outputs by name from inputs by name, batch first."""

_EXAMPLES = 4  # that are compared at most; a wrong export is wrong on the first
_TOLERANCE = 1e-4  # relative to the largest entry of an output


def prove(imported: Imported, run: Run, feeds: Arrays) -> None:
    """Compare an imported model with its source, on the first examples given and on perturbed ones.

    Args:
        imported: The import.
        run: The source.
        feeds: Inputs by name, batch first.

    Raises:
        ImportMismatchError: When they disagree, with both values.
    """
    rows = rows_of(imported.inputs)
    count = rows if rows > 1 else min(_EXAMPLES, len(next(iter(feeds.values()))))
    given = resized(feeds, count)
    forward = _forward(imported, given, rows)
    fixed = any(entry.dims and entry.dims[0] is not None for entry in imported.inputs)
    for arrays in (given, perturbed(given, count if fixed else count + 1)):
        expected, found = run(arrays), forward(arrays)
        for name, array in found.items():
            _compare(imported.name, name, array, np.asarray(expected[name]))


def perturbed(feeds: Arrays, count: int) -> dict[str, np.ndarray]:
    """Other examples of the same kind: floats with noise, integers in another order, with zeros where they were."""
    generator = np.random.default_rng(0)
    return {name: _perturbed(generator, array) for name, array in resized(feeds, count).items()}


def _perturbed(generator: np.random.Generator, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":  # padding and masks are told by zeros, and any other entry is a valid one
        moved = array.copy()
        for example in moved:
            example[example != 0] = generator.permutation(example[example != 0])
        return moved
    if array.dtype.kind == "b":
        return array
    values = array.astype(np.float64)
    spread = values.std() or 1.0
    return (values + 0.1 * spread * generator.normal(size=values.shape)).astype(array.dtype)


def resized(feeds: Arrays, count: int) -> dict[str, np.ndarray]:
    """This many examples, those that there are over and over again."""
    return {name: array[np.arange(count) % len(array)] for name, array in feeds.items()}


def _forward(imported: Imported, feeds: Arrays, rows: int) -> Run:
    """The lowered model, run by run of its graph."""
    program = simplify(imported.lower({name: (rows, *array.shape[1:]) for name, array in feeds.items()}))
    graph = program.graph
    types = {var.name: var.dtype for var in graph.inputs}
    function = compile_forward(
        graph, program.weights, {var.name: np.zeros(var.shape, var.dtype) for var in graph.inputs}
    )

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        count = len(next(iter(arrays.values())))
        with exact_types():
            parts = [
                function(program.weights, {name: arrays[name][i : i + rows].astype(types[name]) for name in types})
                for i in range(0, count, rows)
            ]
        results = [np.concatenate([np.asarray(each) for each in found]) for found in zip(*parts, strict=True)]
        return dict(zip(graph.output_names, results, strict=True))

    return run


def _compare(model: str, output: str, found: np.ndarray, expected: np.ndarray) -> None:
    where = f"output {output!r} of {model}"
    if found.shape != expected.shape:
        raise ImportMismatchError(
            f"{where}: shape {list(found.shape)} after the import, {list(expected.shape)} before; the export is wrong"
        )
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)), 0.0, np.abs(ours - theirs))
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0)
    if apart.size == 0 or apart.max() <= max(_TOLERANCE, 32 * _rounding(expected.dtype)) * size:
        return
    worst = np.unravel_index(int(np.nan_to_num(apart, nan=np.inf).argmax()), apart.shape)
    place = [int(index) for index in worst]
    raise ImportMismatchError(
        f"{where}: {ours[worst]:.6g} after the import, {theirs[worst]:.6g} before, at {place} (largest entry "
        f"{size:.3g}); the exported file computes something else, so there is nothing sound to explain"
    )


def _rounding(dtype: np.dtype) -> float:
    """Relative rounding of half precision; what is computed in it agrees no better."""
    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except ValueError:
        return 0.0
