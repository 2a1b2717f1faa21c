"""Examples one by one, or batches of them, out of anybody's objects: datasets, loaders, generators, lists."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError, InputError
from backtrace_jax.ir.imported import InputType

from .rows import AtRandom, Reached, Reader, Rows, Stream, by_row, in_batches

GATHERED = 64
"""Examples of a stream that are handed on together, where it gives them one by one."""


@dataclass(frozen=True, eq=False)
class Item:
    """An example, or a batch, as its entries by name.

    Attributes:
        entries: By name, or by place "0", "1", ..., what it holds.
        placed: Those that have places only.
    """

    entries: Mapping[str, Any]
    placed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, given: Any) -> Item:
        """An array; inputs and what follows them; or a mapping. Inputs may be a tuple or a mapping of their own."""
        if isinstance(given, Mapping):
            return cls({str(name): as_numpy(value) for name, value in given.items()})
        if isinstance(given, tuple) and (names := getattr(given, "_fields", ())):
            return cls({name: as_numpy(value) for name, value in zip(names, given, strict=True)})
        if not _is_several(given):
            return cls._placed([given])
        first, *others = given
        if not isinstance(first, Mapping) and not _is_several(first):
            return cls._placed(given)
        inner = cls.of(first)
        more = cls._placed(others, len(inner.entries) if inner.placed else 1)
        return cls({**inner.entries, **more.entries}, inner.placed | more.placed)

    @classmethod
    def _placed(cls, values: Sequence[Any], start: int = 0) -> Item:
        found = {str(place): as_numpy(value) for place, value in enumerate(values, start)}
        return cls(found, frozenset(found))

    def holds_batch(self, declared: Sequence[InputType]) -> bool:
        """Whether it is a batch: by the axes that the model declares, else whether all entries have one length."""
        for place, known in enumerate(declared):
            name = known.name if known.name in self.entries else str(place)
            if known.dims is not None and name in self.entries:
                if (rank := _rank(self.entries[name])) == len(known.dims):
                    return True
                if rank == len(known.dims) - 1:
                    return False
        lengths = {len(value) if _rank(value) else None for value in self.entries.values()}
        return len(lengths) == 1 and None not in lengths


def _is_several(given: Any) -> bool:
    """Whether this lists entries; a list of numbers is an array, and a list of texts a column."""
    if isinstance(given, tuple):
        return True
    return isinstance(given, list) and any(
        hasattr(each, "shape") or isinstance(each, Mapping | tuple) for each in given
    )


def _rank(value: Any) -> int:
    if hasattr(value, "shape"):
        return len(value.shape)
    if isinstance(value, list | tuple):
        return 1 + (_rank(value[0]) if value else 0)
    return 0


def as_numpy(value: Any) -> Any:
    """Tensors and arrays as arrays of NumPy; whatever else as it is."""
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # of torch
        value = value.detach().cpu()
        return value.float().numpy() if "bfloat16" in str(value.dtype) else value.numpy()
    return np.asarray(value) if hasattr(value, "__array__") and hasattr(value, "shape") else value


@dataclass(frozen=True, eq=False)
class Items(AtRandom):
    """Examples by their number.

    Attributes:
        items: What has `__getitem__`.
    """

    items: Any = None
    _reached: Reached = field(default_factory=Reached)

    def read(self, first: int, last: int, columns: Collection[str]) -> Rows:
        """As `AtRandom.read`; one at a time, since nobody knows whether somebody else's code may run twice."""
        values: dict[str, list[Any]] = {name: [] for name in columns}
        failed: dict[int, str] = {}
        for place in range(last - first):
            try:
                with self._reached.lock:
                    entries = _entries(self.items[first + place], columns)
            except Exception as error:  # of somebody else's code: an example that cannot be read
                failed[place], entries = f"{type(error).__name__}: {error!s:.200}", {}
            for name in columns:
                values[name].append(entries.get(name))
        return Rows(last - first, {name: by_row(each) for name, each in values.items()}, failed)


def _entries(given: Any, columns: Collection[str]) -> Mapping[str, Any]:
    """What an example holds.

    Raises:
        InputError: When it lacks a column.
    """
    if given is None:
        raise InputError("the dataset gives None, as where an example is filtered out")
    entries = Item.of(given).entries
    if missing := [name for name in columns if name not in entries]:
        raise InputError(f"it has no {missing[0]!r}; it has {', '.join(entries)!s:.100}")
    return entries


def items_of(kind: str, given: Any, declared: Sequence[InputType]) -> Reader:
    """Examples by their number as a reader; batches by their number are a stream.

    Raises:
        InputError: When it has no length, or none of the first examples can be read.
    """
    called = f"the {type(given).__name__}"
    try:
        count = len(given)
    except (TypeError, NotImplementedError) as error:
        raise InputError(f"{called} has no length; pass what iterates over it, such as its loader") from error
    if count == 0:
        raise InputError(f"{called} is empty: it holds no example")
    first = _first_item(given, min(count, 16), called)
    if first.holds_batch(declared):
        return stream_of(kind, (given[number] for number in range(count)), declared, called)
    return Items(kind, called, tuple(first.entries), count, first.placed, items=given)


def _first_item(given: Any, most: int, called: str) -> Item:
    """The first example that can be read."""
    reason: Exception | None = None
    for number in range(most):
        try:
            item = given[number]
        except Exception as error:  # of somebody else's code
            reason = reason or error
            continue
        if item is not None:
            return Item.of(item)
    raise InputError(f"{called} cannot be read: {reason!r:.200}") from reason


def stream_of(kind: str, given: Iterable[Any], declared: Sequence[InputType], called: str = "") -> Stream:
    """What is iterated over as a reader: batches, or examples one by one.

    Raises:
        InputError: When it ends at once, or fails.
    """
    called = called or f"the {type(given).__name__}"
    items = _guarded(given, called)
    first = next(items, None)
    if first is None:
        raise InputError(f"{called} is empty: it ended before its first example")
    rows = _of_batches if first.holds_batch(declared) else _of_examples
    return Stream(kind, called, rows(first, items, called), first.placed)


def _guarded(given: Iterable[Any], called: str) -> Iterator[Item]:
    """What it gives, whatever its own code raises told by name."""
    number = 0
    try:
        for item in given:
            yield Item.of(item)
            number += 1
    except BacktraceError:
        raise
    except Exception as error:  # of somebody else's code
        raise InputError(
            f"{called} failed behind {number} of its items: {type(error).__name__}: {error!s:.150}"
        ) from error


def _of_examples(first: Item, items: Iterator[Item], called: str) -> Iterator[Rows]:
    for batch in in_batches(_behind(first, items), GATHERED):
        failed = {
            place: "it has other entries than the first"
            for place, item in enumerate(batch)
            if first.entries.keys() - item.entries.keys()
        }
        columns = {name: by_row([item.entries.get(name) for item in batch]) for name in first.entries}
        yield Rows(len(batch), columns, failed)


def _of_batches(first: Item, items: Iterator[Item], called: str) -> Iterator[Rows]:
    for number, item in enumerate(_behind(first, items)):
        lengths = {name: len(value) for name, value in item.entries.items() if _rank(value)}
        if len(set(lengths.values())) != 1:
            raise InputError(f"{called}, batch {number}: entries of unequal lengths, {lengths}")
        count = next(iter(lengths.values()))
        for name, value in item.entries.items():
            _check_alike(first.entries.get(name), value, f"{called}, batch {number}: {name!r}")
        yield Rows(count, {name: _column(value, count) for name, value in item.entries.items()})


def _column(value: Any, count: int) -> Any:
    """An entry of a batch as a column; what has no length is the same for all of its examples."""
    if not _rank(value):
        return by_row([value] * count)
    return value if isinstance(value, np.ndarray) else by_row([*value])


def _behind(first: Item, items: Iterator[Item]) -> Iterator[Item]:
    yield first
    yield from items


def _check_alike(first: Any, value: Any, where: str) -> None:
    """Refuse arrays of another shape or type than those of the first batch."""
    if not isinstance(first, np.ndarray) or not isinstance(value, np.ndarray):
        return
    if first.shape[1:] != value.shape[1:] or first.dtype.kind != value.dtype.kind:
        found, expected = (f"{each.dtype.name} {list(each.shape[1:])}" for each in (value, first))
        raise InputError(f"{where} holds examples of {found}, the first batch of {expected}; a source keeps one form")


def made_by(value: Any, *names: str) -> bool:
    """Whether a class of a library made this, `library.Class`, or one derived from it; nothing is imported."""
    own = {f"{each.__module__.partition('.')[0]}.{each.__name__}" for each in type(value).__mro__}
    return not own.isdisjoint(names)


def endless(count: int | None) -> bool:
    """Whether a length says that there is no end."""
    return count is not None and count >= sys.maxsize // 2
