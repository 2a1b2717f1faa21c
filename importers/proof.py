"""Proof of an import: what the lowered model computes is what the framework's own model computes.

Exporters drop arguments, freeze branches and routings, and trace one length where several are meant, without a word.
So every import is compared with its source before it is explained, on the examples given and on perturbed ones in a
batch of another size; and the outputs of every call are compared with the source's own (`compare`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from backtrace_jax.batch import TOGETHER
from backtrace_jax.engine.compile import compile_forward
from backtrace_jax.errors import ImportMismatchError, InputError, MixedExamplesError
from backtrace_jax.layout import Axes, batch_first, kept, left, rows_of
from backtrace_jax.leaving import leavings
from backtrace_jax.numerics import exact_types
from backtrace_jax.passes import simplify

from . import Imported

Arrays: TypeAlias = Mapping[str, np.ndarray]
Run: TypeAlias = Callable[[Arrays], Arrays]
"""The framework's own model: outputs by name from inputs by name, batch first."""

NOTHING: Mapping[str, Any] = {}

EXAMPLES = 4  # that an import is compared on at most; a wrong export is wrong on the first
_TOLERANCE = 1e-4  # relative to the largest entry of an output, and of a unit but for its rounding
_STEPS = 8  # of rounding at the largest entry, in which two orders of adding may differ
_DOUBT = 1e-2  # relative to a unit itself: more than this is not taken for rounding before it was measured
_MEASURED = 32  # times the rounding measured of a unit, which is a few draws of it
_SINGLE = float(np.finfo(np.float32).eps)
_SMALLEST = 1e-30  # denormal numbers are zero to some machines
_APART, _NEAR = 0.1, 3e-3  # noise relative to the spread of an input: another example, and one that goes the same way
_FAR, _SAME = 1.0, 1e-5  # noise that makes quite another example, and what of an answer counts as the same
_SPANS = ("start_logits", "end_logits")  # with a unit for each position; others with two axes have one for each class
_FILL = 1e30  # from here on an entry is no quantity: logits left out are filled with the lowest float


def prove(imported: Imported, run: Run, feeds: Arrays, examples: int = EXAMPLES, axes: Axes | None = None) -> None:
    """Compare an imported model with its source, on the first examples given and on perturbed ones.

    Args:
        imported: The import.
        run: The source.
        feeds: Inputs by name, batch first.
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
    _agree(imported, run, (given, other), axes)


def _takes(run: Run, feeds: Arrays) -> bool:
    """Whether the source takes a batch of this size: some take only one."""
    try:
        run(feeds)
    except InputError:
        return False
    return True


def prove_alone(imported: Imported, run: Run, feeds: Arrays, axes: Axes | None = None) -> None:
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
    forward = _agree(imported, run, (feeds, other), axes)
    if count > 1:
        _check_apart(forward, feeds, axes)


def _agree(imported: Imported, run: Run, trials: Iterable[Arrays], axes: Axes) -> Run:
    forward = None
    for trial in trials:
        arrays = {name: array if axes[name] is not None else _shared(array) for name, array in trial.items()}
        forward = forward or _forward(imported, arrays, axes)
        compare(imported, forward(arrays), run(arrays), arrays)
    assert forward is not None
    return forward


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


def resized(feeds: Arrays, count: int) -> dict[str, np.ndarray]:
    """This many examples, those that there are over and over again."""
    return {name: array[np.arange(count) % len(array)] for name, array in feeds.items()}


def _forward(imported: Imported, feeds: Arrays, axes: Axes) -> Run:
    """The lowered model, run by run of its graph, batch first."""
    imported = kept(imported)
    first = batch_first(imported, axes)
    rows, shapes = rows_of(first.inputs), {name: array.shape[1:] for name, array in feeds.items()}
    leaving = leavings(imported, axes, shapes, max(rows, 2))
    refused = next((each.refused for each in leaving or () if each.refused), "")
    if refused:
        raise MixedExamplesError(refused, TOGETHER)
    program = simplify(left(first.lower({name: (rows, *shape) for name, shape in shapes.items()}), leaving, rows))
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
        results = [np.concatenate([_stacked(each, rows) for each in found]) for found in zip(*parts, strict=True)]
        return dict(zip(graph.output_names, results, strict=True))

    return run


def _stacked(found: Any, rows: int) -> np.ndarray:
    """An output of one run of the graph; one without a batch belongs to each of its examples."""
    array = np.asarray(found)
    return array if array.shape[:1] == (rows,) else np.repeat(array[None], rows, 0)


def compare(
    imported: Imported, found: Arrays, expected: Arrays, feeds: Arrays, asked: Mapping[str, np.ndarray | None] = NOTHING
) -> None:
    """Compare outputs of an import with those of its source on the same inputs, but for rounding.

    Positions that an attention mask leaves out are not compared: what stands there is nobody's answer. A unit that is
    small beside others is compared by itself: where it is apart by more than a step of rounding can explain, the
    source measures how far its own rounding moves it.

    Args:
        imported: The import.
        found: Its outputs.
        expected: Those of the source.
        feeds: The inputs.
        asked: By output, flat indices of the units [batch] that are explained; these are compared wherever they stand.

    Raises:
        ImportMismatchError: When they disagree, with both values.
    """
    for name, array in expected.items():
        where = f"output {name!r} of {imported.name}"
        if name not in found:
            raise ImportMismatchError(f"{where} is not among the outputs of the import; the export is wrong")
        ours, theirs = found[name], np.asarray(array)
        if ours.shape != theirs.shape:
            raise ImportMismatchError(
                f"{where}: shape {list(ours.shape)} after the import, {list(theirs.shape)} before; the export is wrong"
            )
        ignored = left_out(name, theirs, feeds)
        units = asked.get(name)
        if units is not None and ignored.any():
            known = np.flatnonzero((units >= 0) & (units < ignored[0].size))
            ignored.reshape(len(ignored), -1)[known, units[known]] = False
        if ours.ndim:  # a softmax over nothing is NaN: the explanation names these examples
            broken = np.isnan(ours.astype(np.float64)).reshape(len(ours), -1).any(1)
            ignored[broken & _all_left_out(len(ours), feeds)] = True
        rounding = max(imported.rounding, _rounding(theirs.dtype))
        difference = _difference(ours, theirs, rounding, ignored)
        _refuse(where, difference, difference.apart > difference.tolerance * difference.size)
        doubtful = difference.apart > difference.units()
        measured = imported.source.rounding(feeds) if imported.source is not None and doubtful.any() else NOTHING
        if name in measured:
            _refuse(where, difference, difference.apart > difference.units() + _MEASURED * measured[name])


def left_out(output: str, array: np.ndarray, feeds: Arrays) -> np.ndarray:
    """Which entries of an output stand at positions that a mask among the inputs leaves out."""
    found = np.zeros(array.shape, bool)
    two_sided = any(name.startswith("decoder_") for name in feeds)
    for name, mask in feeds.items():
        encoder = not name.startswith("decoder_")
        padding = _padding(name, mask)
        if (
            padding is None
            or array.ndim < (2 if output.endswith(_SPANS) else 3)
            or (two_sided and encoder != output.startswith("encoder"))
        ):
            continue
        axis = 2 if array.shape[2:] == (padding.shape[1],) * 2 else 1  # scores of an attention, or values
        if (array.shape[0], array.shape[axis]) == padding.shape:
            found |= np.expand_dims(padding, [i for i in range(array.ndim) if i not in (0, axis)])
    return found


def _all_left_out(count: int, feeds: Arrays) -> np.ndarray:
    """Which examples a mask leaves out from end to end."""
    masks = [padding for name, mask in feeds.items() if (padding := _padding(name, mask)) is not None]
    return np.any([mask.all(1) for mask in masks if len(mask) == count] or [np.zeros(count, bool)], axis=0)


def _padding(name: str, mask: np.ndarray) -> np.ndarray | None:
    """The positions [batch, length] that a mask leaves out, told by its name; None for any other input."""
    if mask.ndim != 2:
        return None
    if name.endswith("attention_mask"):
        return mask == 0
    return mask if name.endswith("padding_mask") and mask.dtype == bool else None


@dataclass(frozen=True)
class _Difference:
    """How far apart two arrays are that should be one.

    Attributes:
        ours: What was found.
        theirs: What was expected.
        apart: How far apart they are; 0 where they agree or are not compared.
        tolerance: Relative to the magnitude of what is compared.
        step: Relative size of a rounding.
        size: The largest entry.
        own: The largest entry of each unit, over the batch [1, ...].
    """

    ours: np.ndarray
    theirs: np.ndarray
    apart: np.ndarray
    tolerance: float
    step: float
    size: float
    own: np.ndarray

    def units(self) -> np.ndarray:
        """Beyond this a unit is in doubt: it is apart by more than its share, and by more than rounding can explain."""
        rounding = np.minimum(_STEPS * self.step * self.size, _DOUBT * self.own)
        return np.maximum(self.tolerance * self.own, rounding) + _SMALLEST


def _difference(found: np.ndarray, expected: np.ndarray, rounding: float, ignored: np.ndarray) -> _Difference:
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    tolerance = max(_TOLERANCE, 32 * rounding)
    fills = np.abs(theirs) >= _fill(expected.dtype)
    with np.errstate(invalid="ignore"):
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)) | ignored
        same |= fills & np.isclose(ours, theirs, rtol=tolerance)
        apart = np.where(same, 0.0, np.abs(ours - theirs))
    apart[np.isnan(apart)] = np.inf
    counted = np.where(fills | np.isnan(theirs) | ignored, 0.0, np.abs(theirs))
    size = float(counted.max(initial=0))
    own = counted.max(0, initial=0, keepdims=True) if counted.ndim else counted
    return _Difference(ours, theirs, apart, tolerance, max(rounding, _SINGLE), size, own)


def _refuse(where: str, difference: _Difference, wrong: np.ndarray) -> None:
    if not wrong.any():
        return
    worst = np.unravel_index(int(np.where(wrong, difference.apart, -1.0).argmax()), wrong.shape)
    place = [int(index) for index in worst]
    raise ImportMismatchError(
        f"{where}: {difference.ours[worst]:.6g} after the import, {difference.theirs[worst]:.6g} before, at {place} "
        f"(largest entry {difference.size:.3g}); the exported file computes something else, so there is nothing sound "
        "to explain"
    )


def _fill(dtype: np.dtype) -> float:
    """Magnitude from which on entries are no quantities."""
    try:
        return min(_FILL, float(ml_dtypes.finfo(dtype).max))
    except ValueError:
        return np.inf


def _rounding(dtype: np.dtype) -> float:
    """Relative rounding of half precision; what is computed in it agrees no better."""
    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except ValueError:
        return 0.0
