"""Proof of an import: what the lowered model computes is what the framework's own model computes.

Exporters drop arguments, freeze branches and routings, and trace one length where several are meant, without a word.
So every import is compared with its source once, on the examples given and on perturbed ones in a batch of another
size; the outputs of every call are compared with the source's own (`comparison`). What an explanation computes of the
outputs is compared, so that no forward pass is compiled beside it; `compiled_forward` is for an import that is not
explained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.batch import TOGETHER
from backtrace_jax.batch.layout import Axes, batch_first, kept, left, rows_of
from backtrace_jax.batch.leaving import leavings
from backtrace_jax.engine.forward import compile_forward
from backtrace_jax.errors import InputError, MixedExamplesError
from backtrace_jax.ir import Program
from backtrace_jax.ir.imported import Imported
from backtrace_jax.passes import simplify
from backtrace_jax.runtime.numerics import exact_types

from .comparison import Arrays, compare

Run: TypeAlias = Callable[[Arrays], Arrays]
"""The framework's own model: outputs by name from inputs by name, batch first."""

EXAMPLES = 4  # that an import is compared on at most; a wrong export is wrong on the first
_APART, _NEAR = 0.1, 3e-3  # noise relative to the spread of an input: another example, and one that goes the same way
_FAR, _SAME = 1.0, 1e-5  # noise that makes quite another example, and what of an answer counts as the same

_NEXT = (1e-5, 1e-4, 1e-3)  # noise of inputs next to those given, relative to their spread


@dataclass(frozen=True)
class Forward:
    """The forward pass of an import.

    Attributes:
        run: Outputs by name from inputs by name, batch first.
        mixing: Names of the outputs that are left out, since they are not told example by example.
    """

    run: Run
    mixing: Collection[str] = ()

    def told(self, outputs: Arrays) -> Arrays:
        """The outputs that are compared."""
        return {name: array for name, array in outputs.items() if name not in self.mixing}


def prove(
    imported: Imported,
    run: Run,
    feeds: Arrays,
    forward: Forward,
    examples: int = EXAMPLES,
    axes: Axes | None = None,
) -> None:
    """Compare an imported model with its source, on the first examples given and on perturbed ones.

    Args:
        imported: The import.
        run: The source.
        feeds: Inputs by name, batch first.
        forward: The import's own forward pass.
        examples: How many are compared at most.
        axes: The axis of the batch in each of the import's inputs, where it is not the first.

    Raises:
        ImportMismatchError: When they disagree, with both values.
    """
    axes = axes or dict.fromkeys(feeds, 0)
    declared = batch_first(imported, axes).inputs
    rows = rows_of(declared)
    count = rows if rows > 1 else min(examples, len(next(iter(feeds.values()))))
    given, batched = resized(feeds, count), any(axis is not None for axis in axes.values())
    other = perturbed(given, count + 1 if rows == 1 and batched else count)
    fixed = any(entry.dims and entry.dims[0] is not None for entry in declared if axes[entry.name] is not None)
    if fixed and batched and not _takes(run, other):
        other = perturbed(given, count)
    _agree(imported, run, (given, other), forward, axes)


def _takes(run: Run, feeds: Arrays) -> bool:
    """Whether the source takes a batch of this size: some take only one."""
    try:
        run(feeds)
    except InputError:
        return False
    return True


def prove_alone(imported: Imported, run: Run, feeds: Arrays, forward: Forward, axes: Axes | None = None) -> None:
    """Compare an import that is good for these inputs only: on all of them, and on others next to them.

    Next to an input a module goes the same way, but what a trace took for a constant has another value already.

    A trace unrolls what it does row by row, so that its graph does not say whether rows are apart; its values do.

    Raises:
        ImportMismatchError: When they disagree, with both values.
        MixedExamplesError: When an example has a say in the answer to another.
    """
    axes, count = axes or dict.fromkeys(feeds, 0), len(next(iter(feeds.values())))
    other = perturbed(feeds, 2 if count == 1 else count, _NEAR)
    if count == 1 and (all(axis is None for axis in axes.values()) or not _takes(run, other)):
        other = perturbed(feeds, count, _NEAR)
    _agree(imported, run, (feeds, other), forward, axes)
    if count > 1:
        _check_apart(forward.run, feeds, axes)


def _agree(imported: Imported, run: Run, trials: Iterable[Arrays], forward: Forward, axes: Axes) -> None:
    for trial in trials:
        arrays = {name: array if axes[name] is not None else _shared(array) for name, array in trial.items()}
        compare(imported, forward.run(arrays), forward.told(run(arrays)), arrays)


def _check_apart(forward: Run, feeds: Arrays, axes: Axes) -> None:
    """That the answers to every second example stay when the others change, and the other way round."""
    count = len(next(iter(feeds.values())))
    other, plain = perturbed(feeds, count, _FAR), forward(feeds)
    for changed in (np.arange(count) % 2 == 0, np.arange(count) % 2 == 1):
        mixed = {
            name: array if axes[name] is None else _where(changed, other[name], array) for name, array in feeds.items()
        }
        for name, array in forward(mixed).items():
            if not stays(plain[name][~changed], array[~changed], _SAME):
                raise MixedExamplesError(f"output {name!r} of an example depends on the other examples", TOGETHER)


def stays(before: np.ndarray, after: np.ndarray, share: float) -> bool:
    """Whether an answer is the same, up to this share of its largest entry."""
    size = np.abs(before).max(initial=0, where=np.isfinite(before))
    return before.shape == after.shape and np.allclose(after, before, rtol=0, atol=share * size, equal_nan=True)


def _where(rows: np.ndarray, chosen: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *(1,) * (others.ndim - 1)), chosen, others)


def _shared(array: np.ndarray) -> np.ndarray:
    """What all examples share, for each of them."""
    return np.repeat(array[:1], len(array), 0)


def perturbed(feeds: Arrays, count: int, noise: float = _APART) -> dict[str, np.ndarray]:
    """Other examples of the same kind: floats with noise, integers in another order, with zeros where they were."""
    generator = np.random.default_rng(0)
    return {name: _perturbed(generator, array, noise) for name, array in resized(feeds, count).items()}


def _perturbed(generator: np.random.Generator, array: np.ndarray, noise: float) -> np.ndarray:
    if array.dtype.kind in "iu" and noise == _APART:
        moved = array.copy()  # padding and masks are told by zeros, and any other entry is a valid one
        for example in moved.reshape(len(moved), -1):
            example[example != 0] = generator.permutation(example[example != 0])
        return moved
    if array.dtype.kind in "iub":
        return array
    values = array.astype(np.float64)
    spread = values.std() or 1.0
    return (values + noise * spread * generator.normal(size=values.shape)).astype(array.dtype)


def measured_rounding(run: Run, fine: Run, feeds: Arrays) -> dict[str, np.ndarray]:
    """How far rounding moves each unit of a source's outputs [1, ...], on these inputs and others next to them.

    Args:
        run: The source.
        fine: The source in double precision.
        feeds: Inputs by name, batch first.
    """
    rows, moved = len(next(iter(feeds.values()))), dict[str, Any]()
    for trial in (feeds, *(perturbed(feeds, rows, noise) for noise in _NEXT)):
        truth = fine(
            {name: each.astype(np.float64) if each.dtype.kind == "f" else each for name, each in trial.items()}
        )
        for name, array in run(trial).items():
            apart = np.abs(array.astype(np.float64) - truth[name]).max(0, initial=0, keepdims=True)
            moved[name] = np.maximum(np.nan_to_num(apart), moved.get(name, 0.0))
    return moved


def resized(feeds: Arrays, count: int) -> dict[str, np.ndarray]:
    """This many examples, those that there are over and over again."""
    return {name: array[np.arange(count) % len(array)] for name, array in feeds.items()}


@dataclass(frozen=True)
class Lowered:
    """An import lowered for inputs, run by run of its graph, batch first.

    Attributes:
        program: The graph and its weights.
        rows: Examples that a run takes.
        mixing: Names of the outputs that are left out, since they are not told example by example.
    """

    program: Program
    rows: int
    mixing: frozenset[str]

    def shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs of so many examples, by name."""
        graph = self.program.graph
        named = zip(graph.output_names, graph.outputs, strict=True)
        return {name: (count, *var.shape[var.shape[:1] == (self.rows,) :]) for name, var in named}

    def compiled(self) -> Forward:
        """The forward pass, compiled by itself."""
        graph, weights = self.program.graph, self.program.weights
        types = {var.name: var.dtype for var in graph.inputs}
        function = compile_forward(graph, weights, {var.name: np.zeros(var.shape, var.dtype) for var in graph.inputs})

        def run(arrays: Arrays) -> dict[str, np.ndarray]:
            with exact_types():
                parts = [
                    function(weights, {name: arrays[name][i : i + self.rows].astype(types[name]) for name in types})
                    for i in range(0, len(next(iter(arrays.values()))), self.rows)
                ]
            results = [np.concatenate([_stacked(each, self.rows) for each in out]) for out in zip(*parts, strict=True)]
            return dict(zip(graph.output_names, results, strict=True))

        return Forward(run, self.mixing)


def lowered(imported: Imported, feeds: Arrays, axes: Axes | None = None) -> Lowered:
    """The import lowered for these inputs; nothing is compiled.

    Raises:
        MixedExamplesError: When it has no output that is told example by example.
    """
    imported, axes = kept(imported), axes or dict.fromkeys(feeds, 0)
    first = batch_first(imported, axes)
    rows, shapes = rows_of(first.inputs), {name: array.shape[1:] for name, array in feeds.items()}
    leaving = leavings(imported, axes, shapes, max(rows, 2))
    whole = first.lower({name: (rows, *shape) for name, shape in shapes.items()})
    program = simplify(left(whole, leaving, rows))
    return Lowered(program, rows, frozenset(whole.graph.output_names) - {*program.graph.output_names})


def _stacked(found: Any, rows: int) -> np.ndarray:
    """An output of one run of the graph; one without a batch belongs to each of its examples."""
    array = np.asarray(found)
    return array if array.shape[:1] == (rows,) else np.repeat(array[None], rows, 0)
