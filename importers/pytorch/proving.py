"""That an export computes what its module computes, in the ways in which exports of modules go wrong.

What the graph of an export tells is looked at when it is made (`lowered`); what only its numbers tell, when there is a
forward pass to run (`prove`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backtrace_jax.batch import TOGETHER
from backtrace_jax.batch.layout import Axes
from backtrace_jax.batch.leaving import check_apart
from backtrace_jax.errors import InputError, MixedExamplesError, UnsupportedError
from backtrace_jax.ir.imported import Imported

from .. import proof
from ..comparison import Arrays, check_shapes
from ..proof import Forward, Lowered, Run
from .exporters import Attempt

_SAME = 1e-4  # of the largest entry: what counts as the same answer in a batch of another size


def lowered(imported: Imported, run: Run, feeds: Arrays, axes: Axes, attempt: Attempt) -> Lowered:
    """An export lowered, with all that its graph says of how it was exported; XLA is not needed.

    Args:
        imported: The export as an import.
        run: The module.
        feeds: Inputs by name, batch first.
        axes: The axis of the batch in each input.
        attempt: How it was exported.

    Raises:
        ImportMismatchError: When its outputs have other shapes than those of the module.
        UnsupportedError: When the file fixes a batch that it was to leave open, or mixes examples.
    """
    if not attempt.alone and attempt.rows is None:
        _check_open(imported, axes)
    if not attempt.alone and (attempt.rows or 1) > 1:
        check_apart(imported, axes, {name: array.shape[1:] for name, array in feeds.items()})
        _check_any_size(imported.name, run, feeds)
    found = proof.lowered(imported, feeds, axes)
    answer = {name: array for name, array in run(feeds).items() if name not in found.mixing}
    check_shapes(imported, found.shapes(len(next(iter(feeds.values())))), answer)
    return found


def prove(
    imported: Imported, run: Run, feeds: Arrays, forward: Forward, axes: Axes, attempt: Attempt, examples: int
) -> None:
    """Compare the outputs of an export with its module's, on all that the way it was exported could have got wrong.

    Args:
        imported: The export as an import.
        run: The module.
        feeds: Inputs by name, batch first.
        forward: The forward pass of the export.
        axes: The axis of the batch in each input.
        attempt: How it was exported.
        examples: How many examples are compared at most.

    Raises:
        ImportMismatchError: When they disagree.
        MixedExamplesError: When the examples of a trace are not apart.
    """
    if attempt.alone:
        proof.prove_alone(imported, run, feeds, forward, axes)
        return
    for trial in _trials(feeds, attempt):
        proof.prove(imported, run, trial, forward, examples, axes)


def _check_open(imported: Imported, axes: Axes) -> None:
    """That a file for any batch has none of one size: an exporter fixes what a module counts, without a word."""
    pairs = ((entry, axes[entry.name]) for entry in imported.inputs)
    fixed = next((entry for entry, axis in pairs if entry.dims and axis is not None and entry.dims[axis]), None)
    if fixed is not None:
        raise UnsupportedError(f"the exporter fixes the batch that it was to leave open: {fixed}")


def _check_any_size(name: str, run: Run, feeds: Arrays) -> None:
    """That the answers to examples do not change when there is one more, where the module takes one more.

    Raises:
        MixedExamplesError: When they do: the export holds the size of the batch as a number.
    """
    rows, own = len(next(iter(feeds.values()))), run(feeds)
    try:
        larger = run(proof.resized(feeds, rows + 1))
    except InputError:  # a batch of this size is all that it takes
        return
    for output, array in own.items():
        if not proof.stays(array, larger[output][: len(array)], _SAME):
            raise MixedExamplesError(f"output {output!r} of {name} depends on how many examples there are", TOGETHER)


def _trials(feeds: Arrays, attempt: Attempt) -> Iterator[Arrays]:
    """What an export is proven on: a trace that froze a branch is right where every example goes the traced way."""
    yield feeds
    if attempt.rows is not None and attempt.rows > 1:
        yield {name: np.roll(array, 1, axis=0) for name, array in feeds.items()}
    if attempt.exporter == "torchscript":
        yield {name: -array if array.dtype.kind == "f" else array for name, array in feeds.items()}
