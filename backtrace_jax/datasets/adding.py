"""What the explanations of one block add up to: sums by unit and predicted class, and the examples that count most.

Everything is taken in the order of the examples' places, so that it does not matter in how many parts they came.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backtrace_jax.engine.settling import totals
from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import printable
from backtrace_jax.explanation.describe import predicted_classes
from backtrace_jax.explanation.explanation import Explanation

TOP = 8
"""Examples that are kept for each feature: those in which it counted most, for or against."""

Part: TypeAlias = "tuple[NDArray[np.int64], Explanation]"
Sums: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # signed and of magnitudes, [classes, units] float64
Tops: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # numbers of examples and their relevance, [TOP, units]
Rows: TypeAlias = Callable[[Explanation], np.ndarray]  # one row for each example


@dataclass(frozen=True, eq=False)
class Block:
    """The explanations of a block.

    Attributes:
        parts: Each with the places of its examples within the block; one part at least, and none without examples.
        first: Number of the block's first example in the dataset.
        classes: How many classes are predicted; None: none are.
        threshold: What a single unit exceeds where it predicts class 1.
        left_out: Places of examples that are not counted.
    """

    parts: Sequence[Part]
    first: int
    classes: int | None
    threshold: float = 0.5
    left_out: Collection[int] = ()

    @cached_property
    def order(self) -> np.ndarray:
        """The examples of all parts, one after the other, by their places."""
        return self._ordered(self._places)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class predicted for each example, [examples]; 0 where there are no classes."""
        if self.classes is None:
            return np.zeros(len(self.order), np.int64)
        return self.rows(lambda explanation: predicted_classes(explanation, self.threshold))

    def rows(self, of: Rows) -> np.ndarray:
        """What each explanation has for its examples, in the order of places."""
        arrays = [of(explanation) for _, explanation in self.parts]
        found = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        whole = len(self.order) == len(found) and (np.diff(self.order) == 1).all()
        return found if whole else found.take(self.order, axis=0)

    def features(self, relevance: Rows, shape: tuple[int, ...], apart: bool) -> tuple[Sums, Tops]:
        """Sums by value of an input, and its top examples: their numbers, and the relevance, [TOP, units]."""
        rows = self.rows(lambda explanation: _fitted(relevance(explanation), shape))
        rows = rows.reshape(len(rows), -1)
        top = no_top(rows.shape[1])
        for some in _pieces(*rows.shape):
            top = merged_tops(top, self._top(rows[some], some.start))
        return self._sums(rows, None, apart), top

    def units(self, relevance: Rows, axis: int | None, apart: bool) -> Sums:
        """Sums by channel, or of the value as a whole where `axis` is None."""

        def by_unit(explanation: Explanation) -> np.ndarray:
            array = relevance(explanation)
            moved = array[:, None] if axis is None else np.moveaxis(array, axis + 1, 1)
            found = totals(moved.reshape(moved.shape[0] * moved.shape[1], -1))
            return found.reshape(*moved.shape[:2], 2)

        signed, magnitude = np.moveaxis(self.rows(by_unit), 2, 0)
        return self._sums(signed, magnitude, apart)

    def tokens(self, relevance: Rows, name: str, vocabulary: int, apart: bool) -> tuple[Sums, np.ndarray]:
        """Sums by token id, and how often each token occurs."""
        shares, ids = self._entries(relevance), self._entries(lambda explanation: explanation.inputs[name])
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
            worst = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(
                f"input {printable(name)!r} holds token {worst}, but the tokenizer's vocabulary goes from 0 to "
                f"{vocabulary - 1}; pass the tokenizer that the ids were made with"
            )
        classes = (self.classes or 1) if apart else 1
        widths = self.rows(lambda explanation: np.full(len(explanation), relevance(explanation)[0].size))
        keys = ids.astype(np.int64) + (np.repeat(self.predicted, widths) * vocabulary if apart else 0)

        def counted(weights: np.ndarray | None) -> np.ndarray:
            return np.bincount(keys, weights, classes * vocabulary).reshape(classes, vocabulary)

        exact = shares.astype(np.float64)
        return (counted(exact), counted(np.abs(exact))), counted(None)

    def books(self) -> np.ndarray:
        """Totals of the ledgers, signed and absolute, [2, columns]."""
        return np.stack([self.rows(part).sum(axis=0) for part in (_signed, _absolute)])

    @cached_property
    def _places(self) -> np.ndarray:
        return np.concatenate([places for places, _ in self.parts])

    def _sums(self, signed: np.ndarray, magnitude: np.ndarray | None, apart: bool) -> Sums:
        """Sums of [examples, units] over the examples, by class where they are kept apart: [classes, units].

        Args:
            signed: What is added up.
            magnitude: Likewise; None: the magnitudes of `signed`.
            apart: Whether classes are kept apart.
        """
        found = np.zeros((2, (self.classes or 1) if apart else 1, signed.shape[1]))
        for some in _pieces(*signed.shape):
            adding = _Adding.of(self.predicted[some] if apart else None, found.shape[1])
            columns = adding.columns(signed[some])
            found[0] += adding.summed(columns)
            sizes = np.abs(columns, out=columns) if magnitude is None else adding.columns(magnitude[some])
            found[1] += adding.summed(sizes)
        return found[0], found[1]

    def _top(self, rows: np.ndarray, first: int) -> Tops:
        """The examples of largest magnitude in [examples, units], the earlier one where two are equal."""
        columns = np.ascontiguousarray(rows.T)
        examples, found = no_top(len(columns))
        size, units = np.abs(columns), np.arange(len(columns))
        for rank in range(min(TOP, columns.shape[1])):
            places = size.argmax(axis=1)
            examples[rank] = self.first + self._places[self.order[first + places]]
            found[rank] = columns[units, places]
            size[units, places] = -1
        return examples, found

    def _entries(self, of: Rows) -> np.ndarray:
        """All entries of an array whose shape may differ between parts, example after example."""
        arrays = [of(explanation) for _, explanation in self.parts]
        sizes = [array[0].size for array in arrays]
        places = np.concatenate([np.repeat(part[0], size) for part, size in zip(self.parts, sizes, strict=True)])
        return np.concatenate([array.ravel() for array in arrays])[self._ordered(places)]

    def _ordered(self, places: np.ndarray) -> np.ndarray:
        """Where what belongs to these places is, by place."""
        order = np.argsort(places, kind="stable")
        return order[~np.isin(places[order], [*self.left_out])] if self.left_out else order


def _signed(explanation: Explanation) -> np.ndarray:
    assert explanation.ledger is not None
    return explanation.ledger.signed


def _absolute(explanation: Explanation) -> np.ndarray:
    assert explanation.ledger is not None
    return explanation.ledger.absolute


@dataclass(frozen=True, eq=False)
class _Adding:
    """How examples are added up by class.

    Attributes:
        classes: How many classes there are.
        order: The examples sorted by class; None: they are all of one class.
        found: The classes that there are.
        starts: Where each of them begins.
    """

    classes: int
    order: np.ndarray | None = None
    found: np.ndarray | None = None
    starts: np.ndarray | None = None

    @classmethod
    def of(cls, predicted: np.ndarray | None, classes: int) -> _Adding:
        """For examples of these classes; None: of one class."""
        if predicted is None:
            return cls(classes)
        small = predicted.astype(np.min_scalar_type(classes))  # which is sorted in linear time
        counts = np.bincount(small, minlength=classes)
        found = np.flatnonzero(counts)
        return cls(classes, np.argsort(small, kind="stable"), found, (np.cumsum(counts) - counts)[found])

    def columns(self, rows: np.ndarray) -> np.ndarray:
        """Rows as columns in float64, [units, examples], class by class."""
        ordered = rows if self.order is None else rows.take(self.order, axis=0)
        return np.array(ordered.T, np.float64, order="C")

    def summed(self, columns: np.ndarray) -> np.ndarray:
        """Such columns added up, [classes, units]."""
        if self.order is None or self.starts is None:
            return columns.sum(axis=1)[None]
        sums = np.zeros((self.classes, len(columns)))
        sums[self.found] = np.add.reduceat(columns, self.starts, axis=1).T
        return sums


_AT_ONCE = 2**17  # entries that are added up at a time, so that they stay in the cache


def _pieces(count: int, units: int) -> list[slice]:
    """The examples in pieces, whose size follows from the units alone."""
    step = max(1, _AT_ONCE // max(1, units))
    return [slice(first, first + step) for first in range(0, count, step)]


def no_top(units: int) -> Tops:
    """No example for any unit: number -1."""
    return np.full((TOP, units), -1, np.int64), np.zeros((TOP, units))


def merged_tops(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Tops:
    """The top examples, and their relevance, of two sets of examples, of which the first come earlier."""
    examples, relevance = (np.concatenate(both) for both in zip(one, other, strict=True))
    size = np.where(examples < 0, -1, np.abs(relevance))
    best = np.argsort(-size, axis=0, kind="stable")[:TOP]
    return np.take_along_axis(examples, best, 0), np.take_along_axis(relevance, best, 0)


def _fitted(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values of examples in the shape of the longest; what an example does not have is 0."""
    if array.shape[1:] == shape:
        return array
    found = np.zeros((len(array), *shape), array.dtype)
    found[tuple(map(slice, array.shape))] = array
    return found
