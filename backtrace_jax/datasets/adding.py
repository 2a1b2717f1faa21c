"""What the explanations of one block add up to: sums by unit and predicted class, and the examples that count most.

Everything is taken in the order of the examples' places, so that it does not matter in how many parts they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import printable
from backtrace_jax.explainer.results import totals
from backtrace_jax.explanation.describe import predicted_classes
from backtrace_jax.explanation.explanation import Explanation

TOP = 8
"""Examples that are kept for each feature: those in which it counted most, for or against."""

Part: TypeAlias = "tuple[NDArray[np.int64], Explanation]"
Sums: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # signed and of magnitudes, [classes, units] float64
Rows: TypeAlias = Callable[[Explanation], np.ndarray]  # one row for each example


@dataclass(frozen=True, eq=False)
class Block:
    """The explanations of a block.

    Attributes:
        parts: Each with the places of its examples within the block; one part at least, and none without examples.
        first: Number of the block's first example in the dataset.
        classes: How many classes are predicted; None: none are.
    """

    parts: Sequence[Part]
    first: int
    classes: int | None

    @cached_property
    def order(self) -> np.ndarray:
        """The examples of all parts, one after the other, by their places."""
        return np.argsort(self._places, kind="stable")

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class predicted for each example, [examples]; 0 where there are no classes."""
        return self.rows(predicted_classes) if self.classes else np.zeros(len(self.order), np.int64)

    def rows(self, of: Rows) -> np.ndarray:
        """What each explanation has for its examples, in the order of places."""
        found = np.concatenate([of(explanation) for _, explanation in self.parts])
        return found if (np.diff(self.order) == 1).all() else found.take(self.order, axis=0)

    def features(self, relevance: Rows, shape: tuple[int, ...], apart: bool) -> tuple[Sums, Sums]:
        """Sums by value of an input, and its top examples: their numbers, and the relevance, [TOP, units]."""
        rows = self.rows(lambda explanation: _fitted(relevance(explanation), shape))
        rows = rows.reshape(len(rows), -1)
        columns = self._columns(rows, apart)
        return (self._sums(columns, apart), self._sums(np.abs(columns), apart)), self._top(rows)

    def units(self, relevance: Rows, axis: int | None, apart: bool) -> Sums:
        """Sums by channel, or of the value as a whole where `axis` is None."""

        def by_unit(explanation: Explanation) -> np.ndarray:
            array = relevance(explanation)
            moved = array[:, None] if axis is None else np.moveaxis(array, axis + 1, 1)
            found = totals(moved.reshape(moved.shape[0] * moved.shape[1], -1))
            return found.reshape(*moved.shape[:2], 2)

        signed, magnitude = np.moveaxis(self.rows(by_unit), 2, 0)
        return self._sums(self._columns(signed, apart), apart), self._sums(self._columns(magnitude, apart), apart)

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

    @cached_property
    def _by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The examples sorted by predicted class, the classes that there are, and where each begins."""
        small = self.predicted.astype(np.min_scalar_type(self.classes or 1))  # which is sorted in linear time
        order = np.argsort(small, kind="stable")
        return order, *np.unique(small[order], return_index=True)

    def _columns(self, rows: np.ndarray, apart: bool) -> np.ndarray:
        """Rows as columns in float64, [units, examples], class by class where they are kept apart."""
        ordered = rows.take(self._by_class[0], axis=0) if apart else rows
        return np.ascontiguousarray(ordered.T, np.float64)

    def _sums(self, columns: np.ndarray, apart: bool) -> np.ndarray:
        """Sums of `_columns` over the examples, by class where they are kept apart: [classes, units]."""
        if not apart:
            return columns.sum(axis=1)[None]
        _, found, starts = self._by_class
        sums = np.zeros((self.classes or 1, len(columns)))
        sums[found] = np.add.reduceat(columns, starts, axis=1).T
        return sums

    def _top(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The examples of largest magnitude in [examples, units], the earlier one where two are equal."""
        columns = np.ascontiguousarray(rows.T)
        examples, found = no_top(len(columns))
        size, units = np.abs(columns), np.arange(len(columns))
        for rank in range(min(TOP, columns.shape[1])):
            places = size.argmax(axis=1)
            examples[rank] = self.first + self._places[self.order[places]]
            found[rank] = columns[units, places]
            size[units, places] = -1
        return examples, found

    def _entries(self, of: Rows) -> np.ndarray:
        """All entries of an array whose shape may differ between parts, example after example."""
        arrays = [of(explanation) for _, explanation in self.parts]
        sizes = [array[0].size for array in arrays]
        places = np.concatenate([np.repeat(part[0], size) for part, size in zip(self.parts, sizes, strict=True)])
        return np.concatenate([array.ravel() for array in arrays])[np.argsort(places, kind="stable")]


def _signed(explanation: Explanation) -> np.ndarray:
    assert explanation.ledger is not None
    return explanation.ledger.signed


def _absolute(explanation: Explanation) -> np.ndarray:
    assert explanation.ledger is not None
    return explanation.ledger.absolute


def no_top(units: int) -> tuple[np.ndarray, np.ndarray]:
    """No example for any unit: number -1."""
    return np.full((TOP, units), -1, np.int64), np.zeros((TOP, units))


def merged_tops(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
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
