"""Whether outputs of an import are those of its source, apart from rounding and positions that a mask leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from backtrace_jax.errors import ImportMismatchError
from backtrace_jax.ir.imported import Imported

Arrays: TypeAlias = Mapping[str, np.ndarray]

NOTHING: Mapping[str, Any] = {}

_TOLERANCE = 1e-4  # relative to the largest entry of an output, and of a unit but for its rounding
_STEPS = 8  # of rounding at the largest entry, in which two orders of adding may differ
_DOUBT = 1e-2  # relative to a unit itself: more than this is not taken for rounding before it was measured
_MEASURED = 32  # times the rounding measured of a unit, which is a few draws of it
_SINGLE, _DOUBLE = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))
_SMALLEST = 1e-30  # denormal numbers are zero to some machines
_SPANS = ("start_logits", "end_logits")  # with a unit for each position; others with two axes have one for each class
_FILL = 1e30  # from here on an entry is no quantity: logits left out are filled with the lowest float


def compare(
    imported: Imported, found: Arrays, expected: Arrays, feeds: Arrays, asked: Mapping[str, np.ndarray | None] = NOTHING
) -> tuple[str, ...]:
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

    Returns:
        A line for each output whose explained units agree no better than rounding at its largest entry would, where
        the source cannot measure whether it is rounding.

    Raises:
        ImportMismatchError: When they disagree, with both values.
    """
    check_shapes(imported, {name: array.shape for name, array in found.items()}, expected)
    open_questions: list[str] = []
    for name, array in expected.items():
        where, ours, theirs = _named(imported, name), found[name], np.asarray(array)
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
        elif units is not None:
            open_questions += difference.unsettled(name, units, doubtful)
    return tuple(open_questions)


def _named(imported: Imported, output: str) -> str:
    return f"output {output!r} of {imported.name}"


def check_shapes(imported: Imported, found: Mapping[str, tuple[int, ...]], expected: Arrays) -> None:
    """That the outputs of an import, of these shapes by name, are shaped as those of its source.

    Raises:
        ImportMismatchError: When one is missing, or has another shape.
    """
    for name, array in expected.items():
        where = _named(imported, name)
        if name not in found:
            raise ImportMismatchError(f"{where} is not among the outputs of the import; the export is wrong")
        ours, theirs = found[name], np.shape(array)
        if ours != theirs:
            raise ImportMismatchError(
                f"{where}: shape {list(ours)} after the import, {list(theirs)} before; the export is wrong"
            )


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
        immeasurable = _MEASURED * _DOUBLE * self.size  # rounding is measured in double precision, which rounds as well
        return np.maximum(self.tolerance * self.own, rounding) + immeasurable + _SMALLEST

    def unsettled(self, name: str, asked: np.ndarray, doubtful: np.ndarray) -> list[str]:
        """A line on the explained unit [batch] that is most in doubt, if one is."""
        rows = np.flatnonzero((asked >= 0) & (asked < doubtful[0].size)) if doubtful.ndim else np.zeros(0, int)
        ours, theirs, wide, open_ = (
            array.reshape(len(array), -1)[rows, asked[rows]] if len(rows) else rows
            for array in (self.ours, self.theirs, self.apart, doubtful)
        )
        if not np.any(open_):
            return []
        worst = int(np.where(open_, wide, -1.0).argmax())
        return [
            f"output {name!r}: the unit explained is {ours[worst]:.6g} here, {theirs[worst]:.6g} in the model itself "
            f"(example {rows[worst]}); beside the largest entry, {self.size:.3g}, that may be rounding: the model "
            "cannot be run in double to tell"
        ]


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
