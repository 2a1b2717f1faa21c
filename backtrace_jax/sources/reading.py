"""What the caller says of a source: which columns are what, and what is done to pictures and texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import is_finite, is_whole
from backtrace_jax.errors.texts import shown

REST = "rest"
EXACT = "exact"
LARGEST_SIDE = 2**14
"""Pixels of a picture's side that it may be resized to."""
LAYOUTS = ("channels first", "channels last")


class GivenReading(TypedDict, total=False):
    """The fields of `Reading`, as keywords."""

    columns: Any
    ignore: Any
    limit: int | None
    tokenizer: Any
    text: Any
    lengths: Any
    size: Any
    resize: bool
    mean: Any
    std: Any
    layout: str | None


@dataclass(frozen=True)
class Reading:
    """How a source is read.

    Attributes:
        columns: By input name, the column that is this input, or the columns that are its features in their order; for
            a model of one input, these alone. By default columns are matched by their names.
        ignore: Columns that are left out on purpose, or "rest": all that are neither inputs nor carried.
        limit: Examples that are taken from the front; None: all.
        tokenizer: Turns texts into token ids: a `tokenizers.Tokenizer`, its tokenizer.json, or one of `transformers`.
        text: The column that holds the text, or two columns for pairs; None: the only one that there is.
        lengths: Lengths that token sequences are padded to, the longest of which they are cut to; "exact": none is
            padded, and every length compiled for itself; None: those of `lengths.LENGTHS`.
        size: Pixels that pictures are resized to: of the side, or (width, height); None: as the model takes them.
        resize: Whether pictures of another size are resized to what the model takes; otherwise they are refused.
        mean: Taken from the values 0..1 of a picture: one number, or one for each channel.
        std: What they are divided by then.
        layout: "channels first" or "channels last"; None: as the model declares it.
    """

    columns: Any = None
    ignore: Any = ()
    limit: int | None = None
    tokenizer: Any = None
    text: Any = None
    lengths: Any = None
    size: Any = None
    resize: bool = False
    mean: Any = 0.0
    std: Any = 1.0
    layout: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the source.

        Raises:
            SettingError: Naming the setting.
        """
        if self.limit is not None and not (is_whole(self.limit) and self.limit > 0):
            raise SettingError(f"limit is a number of examples from 1, found {shown(self.limit)}")
        if self.layout is not None and self.layout not in LAYOUTS:
            raise SettingError(f"layout is {' or '.join(map(repr, LAYOUTS))}, found {shown(self.layout)}")
        if self.lengths is not None and self.lengths != EXACT and not _increasing(self.lengths):
            raise SettingError(f"lengths are increasing numbers of tokens, or {EXACT!r}; found {shown(self.lengths)}")
        for setting in ("ignore", "text"):
            if not isinstance(getattr(self, setting), str | Sequence | Collection | None):
                raise SettingError(f"{setting} names columns, found {shown(getattr(self, setting))}")

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """Width and height that pictures are resized to."""
        size = (self.size, self.size) if is_whole(self.size) else self.size
        if size is None:
            return None
        if (
            not isinstance(size, Sequence)
            or len(size) != 2
            or not all(is_whole(n) and 0 < n <= LARGEST_SIDE for n in size)
        ):
            raise SettingError(
                f"size is pixels, or (width, height), from 1 to {LARGEST_SIDE}; found {shown(self.size)}"
            )
        return int(size[0]), int(size[1])

    def numbers(self, setting: str) -> tuple[float, ...]:
        """`mean` or `std` as numbers, one or one for each channel."""
        value = getattr(self, setting)
        found = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)
        if not found or not all(map(is_finite, found)):
            raise SettingError(f"{setting} is a number, or one for each channel; found {shown(value)}")
        return tuple(map(float, found))

    def refuse(self, settings: Collection[str], because: str) -> None:
        """Refuse settings that would say nothing about this source.

        Raises:
            SettingError: Naming the first that was given.
        """
        for each in fields(self):
            if each.name in settings and shown(getattr(self, each.name)) != shown(getattr(PLAIN, each.name)):
                raise SettingError(f"{each.name}= {because}")


PLAIN = Reading()
"""Nothing is said."""


def _increasing(lengths: Any) -> bool:
    if not isinstance(lengths, Sequence) or isinstance(lengths, str) or not lengths:
        return False
    whole = all(is_whole(n) and n > 0 for n in lengths)
    return whole and all(a < b for a, b in pairwise(lengths))


Carry = str | Collection[Any] | Mapping[str, Any]
"""Columns that travel along: their names; of columns without names, a name for each that follows the inputs, in their
order; or by the name that they are to have, the column's name or place."""


def several(names: Any) -> tuple[Any, ...]:
    """Names of columns, where one may stand alone."""
    return (names,) if isinstance(names, str | int) else tuple(names or ())


def carrying(carry: Carry, more: Collection[str]) -> Carry:
    """What is carried, and columns beside, under their own names."""
    if isinstance(carry, Mapping):
        return {**carry, **{name: name for name in more if name not in carry}}
    return tuple(dict.fromkeys((*several(carry), *more)))
