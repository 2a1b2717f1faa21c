"""Global views: what the relevance of a whole dataset adds up to, block by block in one pass.

A `View` is one table over all examples: its units are the features of an input, the channels of an input or layer, the
tokens of a vocabulary, or a value as a whole. `Views.partial` adds up the examples of one block, `Views.merged` the
blocks in their order. Sums are float64 and taken in the order of the examples, so that their bytes depend on the block
alone, not on who computed it. Where the output is a row of classes, sums are kept by predicted class, as long as a
table has at most `MOST_ENTRIES`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import shown
from backtrace_jax.explanation.describe import classes_of
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import COLUMNS

from .adding import TOP, Block, Part, merged_tops, no_top
from .summary import CHANNEL, FEATURE, TOKEN, VALUE, Summary, Table, means

MOST_FEATURES = 4096
"""Values of an input that are told apart as features."""

MOST_ENTRIES = 2**16
"""Entries of a table, classes times units; one that would have more is not kept by class."""

Shape: TypeAlias = tuple[int, ...]
Sizes: TypeAlias = dict[str, int]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class View:
    """One table over all examples.

    Attributes:
        kind: What its units are.
        of: Name of the input or layer.
        layer: Whether it is one of the layers.
        units: How many units there are.
        shape: Shape of the relevance of one example; of the longest, where lengths differ.
        axis: Axis of the channels within one example.
        classes: How many predicted classes are told apart; 1: none are.
        labels: Names of the units; empty where they have none.
    """

    kind: str
    of: str
    layer: bool
    units: int
    shape: Shape
    axis: int | None = None
    classes: int = 1
    labels: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sizes(self) -> Sizes:
        """How much of each array of sums it takes up."""
        entries = self.classes * self.units
        top, tokens = (self.units * (self.kind == FEATURE), entries * (self.kind == TOKEN))
        return {"signed": entries, "magnitude": entries, "occurrences": tokens} | dict.fromkeys(_TOPS, top)

    def relevance(self, explanation: Explanation) -> np.ndarray:
        """The relevance that it is a view of."""
        return (explanation.layers if self.layer else explanation.relevance)[self.of]

    def sums(self, block: Block) -> dict[str, np.ndarray]:
        """Its sums of one block."""
        apart, found = self.classes > 1, {}
        if self.kind == FEATURE:
            sums, tops = block.features(self.relevance, self.shape, apart)
            found |= dict(zip(_TOPS, tops, strict=True))
        elif self.kind == TOKEN:
            sums, found["occurrences"] = block.tokens(self.relevance, self.of, self.units, apart)
        else:
            sums = block.units(self.relevance, self.axis, apart)
        return {**found, "signed": sums[0], "magnitude": sums[1]}

    def table(self, found: Mapping[str, np.ndarray], examples: np.ndarray) -> Table:
        """What its sums say, given how many examples there are of each class."""
        split = (self.classes, self.units)
        counts = examples if self.classes > 1 else examples.sum(keepdims=True)
        counts = np.broadcast_to(counts[:, None], split)
        if self.kind == TOKEN:
            counts = found["occurrences"].reshape(split)
        sums = [found[name].reshape(split) for name in ("signed", "magnitude")]
        whole = [means(each.sum(axis=0), counts.sum(axis=0)) for each in sums]
        by_class = [means(each, counts) if self.classes > 1 else None for each in sums]
        tops = [found[name] if self.kind == FEATURE else None for name in _TOPS]
        named = (self.kind, self.of, self.layer, self.shape, self.labels)
        return Table(*named, counts.sum(axis=0), *whole, *by_class, *tops)


_TOPS = ("top_examples", "top_relevance")


@dataclass(frozen=True)
class Views:
    """All views of a dataset; their sums lie side by side in a few arrays of fixed shapes.

    Attributes:
        views: The tables.
        classes: How many classes the output predicts; None: it is no row of classes.
        books: Whether there is a ledger.
        threshold: What a single unit exceeds where it predicts class 1.
    """

    views: tuple[View, ...]
    classes: int | None
    books: bool = True
    threshold: float = 0.5

    @classmethod
    def of(
        cls,
        relevance: Mapping[str, Shape],
        layers: Mapping[str, Shape],
        output: Shape,
        task: str,
        *,
        channel_axes: Mapping[str, int] = _NOTHING,
        features: Mapping[str, Sequence[str]] = _NOTHING,
        vocabulary: Mapping[str, Sequence[str]] = _NOTHING,
        books: bool = True,
        threshold: float = 0.5,
    ) -> Views:
        """The views of relevance of these shapes.

        Args:
            relevance: Shape of the relevance of one example by input; of the longest, where lengths differ.
            layers: Likewise by layer.
            output: Shape of the explained output of one example.
            task: What was explained, as the fingerprint of an explanation has it.
            channel_axes: Axis of the channels within one example, by input or layer; others have no view by channel.
            features: Names of the columns of inputs.
            vocabulary: Names of the tokens by id, of inputs that hold ids.
            books: Whether there is a ledger.
            threshold: What a single unit exceeds where it predicts class 1: 0.5 of a probability, 0 of a logit.
        """
        found = [*_whole(relevance, False), *_whole(layers, True)]
        for name, shape in relevance.items():
            if name in vocabulary:
                words = tuple(vocabulary[name])
                found.append(View(TOKEN, name, False, len(words), shape, labels=words))
            elif 1 <= math.prod(shape) <= MOST_FEATURES:
                found.append(View(FEATURE, name, False, math.prod(shape), shape, labels=tuple(features.get(name, ()))))
        found += [*_channels(relevance, False, channel_axes), *_channels(layers, True, channel_axes)]
        classes = classes_of(task, output)
        return cls(tuple(_by_class(view, classes) for view in found), classes, books, threshold)

    def shapes(self) -> dict[str, tuple[Shape, np.dtype[Any]]]:
        """Shape and type of each array of a block."""
        whole, real = np.dtype(np.int64), np.dtype(np.float64)
        ends = {name: (places[-1],) for name, places in self._places.items()}
        return {
            "examples": ((self.classes or 1,), whole),
            "signed": (ends["signed"], real),
            "magnitude": (ends["magnitude"], real),
            "occurrences": (ends["occurrences"], whole),
            "top_examples": ((TOP, *ends["top_examples"]), whole),
            "top_relevance": ((TOP, *ends["top_relevance"]), real),
            "ledger": ((2, len(COLUMNS)), real),
        }

    def partial(self, parts: Sequence[Part], first: int = 0, left_out: Collection[int] = ()) -> dict[str, np.ndarray]:
        """The sums of one block.

        Args:
            parts: Its explanations, each with the places of its examples within the block. Examples that could not be
                explained are in none.
            first: Number of the block's first example in the dataset.
            left_out: Places of examples that are not counted.

        Raises:
            InputError: A token id lies outside the vocabulary.
        """
        found = self._empty()
        parts = [part for part in parts if not np.isin(part[0], [*left_out]).all()]
        if not parts:
            return found
        block = Block(parts, first, self.classes, self.threshold, left_out)
        found["examples"][...] = np.bincount(block.predicted, minlength=self.classes or 1)
        for number, view in enumerate(self.views):
            for name, sums in view.sums(block).items():
                self._part(found, number, name)[...] = sums if name in _TOPS else sums.ravel()
        if self.books:
            found["ledger"][...] = block.books()
        return found

    def merged(self, partials: Mapping[str, Any]) -> Summary:
        """What all blocks add up to.

        Args:
            partials: The arrays of all blocks, [blocks, ...], in the order of blocks; read one block at a time, so
                that they may lie on the disk.

        Raises:
            InputError: The arrays are not of these views.
        """
        shapes = self.shapes()
        if wrong := [name for name in shapes if name not in partials or partials[name].shape[1:] != shapes[name][0]]:
            raise InputError(f"these sums are of other views, or of another version: {shown(wrong)}; explain anew")
        found = self._empty()
        for number in range(partials["examples"].shape[0]):
            block = {name: np.asarray(partials[name][number]) for name in shapes}
            tops = merged_tops(*([some[name] for name in _TOPS] for some in (found, block)))
            added = {name: found[name] + block[name] for name in shapes if name not in _TOPS}
            found = added | dict(zip(_TOPS, tops, strict=True))
        names = [name for name in shapes if name in self._places]
        tables = tuple(
            view.table({name: self._part(found, number, name) for name in names}, found["examples"])
            for number, view in enumerate(self.views)
        )
        by_class = found["examples"] if self.classes else None
        return Summary(int(found["examples"].sum()), by_class, tables, found["ledger"] if self.books else None)

    def _empty(self) -> dict[str, np.ndarray]:
        """The sums of no example."""
        found = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.shapes().items()}
        return found | dict(zip(_TOPS, no_top(found["top_examples"].shape[1]), strict=True))

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Where the sums of each view begin in each array, and where the last ones end."""
        sizes = [view.sizes for view in self.views]
        names = ("signed", "magnitude", "occurrences", *_TOPS)
        return {name: [0, *accumulate(each[name] for each in sizes)] for name in names}

    def _part(self, found: Mapping[str, np.ndarray], number: int, name: str) -> np.ndarray:
        """The part of an array that belongs to a view."""
        return found[name][..., slice(*self._places[name][number : number + 2])]


def _whole(shapes: Mapping[str, Shape], layer: bool) -> Iterator[View]:
    return (View(VALUE, name, layer, 1, shape) for name, shape in shapes.items())


def _channels(shapes: Mapping[str, Shape], layer: bool, axes: Mapping[str, int]) -> Iterator[View]:
    known = ((name, shape, axes[name]) for name, shape in shapes.items() if name in axes and shape[axes[name]] > 1)
    return (View(CHANNEL, name, layer, shape[axis], shape, axis) for name, shape, axis in known)


def _by_class(view: View, classes: int | None) -> View:
    """The view by class, unless that is too large a table."""
    return replace(view, classes=classes) if classes and classes * view.units <= MOST_ENTRIES else view
