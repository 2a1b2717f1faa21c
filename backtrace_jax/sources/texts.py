"""Texts as inputs: token ids, mask, types and positions, whichever the model takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backtrace_jax.errors import InputError, RelevanceWarning, SettingError
from backtrace_jax.ir.imported import InputType

from .lengths import LENGTHS, MASKS, Padding, padding_for
from .matching import Columns, carried_by_name
from .protocol import Typed
from .reading import REST, Carry, Reading, several
from .rows import Reader, Rows
from .tokens import Encoded, Text, Tokenizer
from .values import Made, Maker, sampled

CUT = "tokens_cut"
"""What is carried beside each text: how many of its tokens were left out."""

_CUT = "texts of more than {} tokens are cut; {!r} is carried beside each, and says by how many"

ROLES: Mapping[str, tuple[str, ...]] = {
    "input_ids": ("input_ids", "ids", "token_ids", "tokens"),
    "attention_mask": MASKS,
    "token_type_ids": ("token_type_ids", "segment_ids", "type_ids"),
    "position_ids": ("position_ids", "positions"),
}
"""What a tokenizer gives, and the names of inputs that take it."""

_GIVEN: Mapping[str, Callable[[Encoded], Sequence[int]]] = {
    "input_ids": lambda text: text.ids,
    "attention_mask": lambda text: [1] * len(text.ids),
    "token_type_ids": lambda text: text.types,
    "position_ids": lambda text: range(len(text.ids)),
}


@dataclass(frozen=True, eq=False)
class Texts(Maker):
    """Inputs that a tokenizer makes of a column of texts, or of two.

    Attributes:
        columns: The column, or the two.
        roles: By input, what of the tokens it takes.
        types: The type of each.
        tokenizer: What makes tokens.
        most: Tokens that a text is cut to.
        padding: What they are padded to.
    """

    columns: tuple[str, ...]
    roles: Mapping[str, str]
    types: Mapping[str, np.dtype]
    tokenizer: Tokenizer
    most: int
    padding: Padding

    def needs(self) -> tuple[str, ...]:
        """As `Maker.needs`."""
        return self.columns

    @property
    def inputs(self) -> Mapping[str, Typed]:
        """As `Maker.inputs`; as long as the longest may be."""
        return {name: ((self.padding.longest,), self.types[name].name) for name in self.roles}

    @property
    def carried(self) -> Mapping[str, Typed]:
        """How many tokens of each were left out."""
        return {CUT: ((), "int32")}

    @property
    def kept(self) -> Mapping[str, tuple[str, ...] | None]:
        """The token ids, and their words."""
        return {name: self.tokenizer.known.words for name, role in self.roles.items() if role == "input_ids"}

    @property
    def lengths(self) -> tuple[int, ...]:
        """As `Maker.lengths`."""
        return self.padding.several

    @property
    def identity(self) -> Mapping[str, Any]:
        """The tokenizer, and the lengths."""
        return {
            "columns": {name: [*self.columns] for name in self.roles},
            "tokenizer": self.tokenizer.known.sha256,
            "lengths": [*self.padding.lengths] or "exact",
            "cut to": self.most,
            "padding": {"id": self.tokenizer.known.pad, "first": self.padding.left},
        }

    def rest(self, known: Sequence[InputType], reading: Reading) -> tuple[list[InputType], Reading, tuple[str, ...]]:
        """The inputs that texts do not make, what is said of their columns, and the columns that are texts."""
        said = reading.columns
        if isinstance(said, Mapping):
            said = {name: column for name, column in said.items() if name not in self.roles} or None
        return [each for each in known if each.name not in self.roles], replace(reading, columns=said), self.columns

    def make(self, rows: Rows) -> Made:
        """As `Maker.make`."""
        failed: dict[int, str] = {}
        each = ((place, _text(rows, self.columns, place, failed)) for place in range(rows.count))
        texts = {place: text for place, text in each if text is not None}
        found = dict(zip(texts, self.tokenizer.encode([*texts.values()], self.most), strict=True))
        failed |= {place: "its text has no tokens" for place, text in found.items() if not text.ids}
        found = {place: text for place, text in found.items() if text.ids}
        lengths, cut = np.zeros(rows.count, np.int64), np.zeros(rows.count, np.int32)
        for place, text in found.items():
            lengths[place], cut[place] = len(text.ids), text.cut
        good = lengths > 0
        lengths[good] = self.padding.of(lengths[good])
        kept = [found.get(place) for place in range(rows.count)]
        if cut.any():
            warnings.warn(_CUT.format(self.most, CUT), RelevanceWarning, stacklevel=2)
        arrays = {name: self._laid(name, kept, int(lengths.max(initial=1))) for name in self.roles}
        return Made(arrays, failed, lengths, self.padding.left, {CUT: cut})

    def _laid(self, name: str, texts: Sequence[Encoded | None], width: int) -> np.ndarray:
        role, known = self.roles[name], self.tokenizer.known
        pad = {"input_ids": known.pad or 0, "token_type_ids": known.pad_type}.get(role, 0)
        found = [None if text is None else _GIVEN[role](text) for text in texts]
        return self.padding.laid(found, width, pad, self.types[name])


def _text(rows: Rows, columns: Sequence[str], place: int, failed: dict[int, str]) -> Text | None:
    """The text of a row; None, with the reason in `failed`, where there is none."""
    if place in rows.failed:
        return None
    values = [rows.columns[name][place] for name in columns]
    for name, value in zip(columns, values, strict=True):
        if not isinstance(value, str):
            failed[place] = f"column {name!r} holds " + ("nothing" if value is None else "no text")
            return None
    return str(values[0]) if len(values) == 1 else (str(values[0]), str(values[1]))


def _encoded(reader: Reader, columns: Sequence[str], tokenizer: Tokenizer, most: int) -> Iterator[Encoded]:
    """Some texts from all over the source."""
    for rows in reader.spread(columns):
        texts = (_text(rows, columns, place, {}) for place in range(rows.count))
        yield from tokenizer.encode([text for text in texts if text is not None], most)


def texts_of(
    columns: Columns, reader: Reader, sample: Rows, known: Sequence[InputType], carry: Carry, reading: Reading
) -> Texts | None:
    """What makes inputs of texts; None where no tokenizer is given.

    Args:
        columns: The columns that there are.
        reader: What reads them.
        sample: A few rows.
        known: The model's inputs, batch first.
        carry: What is carried.
        reading: What the caller says of texts.

    Raises:
        InputError: When it is not clear which column is the text, or which input takes the tokens.
    """
    if reading.tokenizer is None:
        return None
    chosen = _text_columns(columns, sample, carry, reading)
    if not chosen:
        return None
    tokenizer, roles = Tokenizer(reading.tokenizer), _roles(known, reading.columns)
    types = {each.name: each.dtype for each in known if each.name in roles}
    size = _size([each for each in known if each.name in roles])
    table = None if reading.lengths in (None, "exact") else int(reading.lengths[-1])
    most = min(
        n for n in (tokenizer.known.longest, size, table, LENGTHS[-1] if table is None else table) if n is not None
    )
    open_ = size is None and reading.lengths is None
    found = [len(each.ids) for each in _encoded(reader, chosen, tokenizer, most)] if open_ else []
    masked = "attention_mask" in roles.values()
    padding = padding_for(size, reading.lengths, most, found, masked=masked, left=tokenizer.known.left)
    if tokenizer.known.pad is None and padding.lengths:
        raise InputError(
            "the tokenizer has no padding token; give it one (enable_padding(pad_id=...), or pad_token = eos_token), "
            "or pass lengths='exact'"
        )
    return Texts(chosen, roles, types, tokenizer, most, padding)


def _text_columns(columns: Columns, sample: Rows, carry: Carry, reading: Reading) -> tuple[str, ...]:
    if reading.text is not None:
        names = tuple(columns.known(name, "text") for name in several(reading.text))
        if not 1 <= len(names) <= 2:
            raise SettingError(f"text= is a column, or two for pairs; found {len(names)}")
        return names
    ignored = () if reading.ignore == REST else several(reading.ignore)
    taken = {*map(str, ignored), *columns.offered}
    found = [name for name in columns.names if name not in taken and isinstance(next(sampled(sample, name), None), str)]
    if len(found) > 1:
        found = [name for name in found if name not in carried_by_name(columns, carry)]
    if len(found) > 1:
        raise InputError(
            f"{columns.called} has several columns of texts: {', '.join(found)!s:.120}; say which by text="
        )
    return tuple(found)


def _roles(known: Sequence[InputType], said: Any) -> dict[str, str]:
    """What of the tokens each input takes, by its name, or as the caller says."""
    said = said if isinstance(said, Mapping) else {}
    found = {}
    for each in known:
        asked = said.get(each.name, each.name)
        role = next((role for role, names in ROLES.items() if asked in names), None)
        if role is not None:
            found[each.name] = role
    if "input_ids" not in found.values():
        free = [
            each.name for each in known if each.name not in found and each.dtype.kind in "iu" and each.name not in said
        ]
        if len(free) != 1:
            names = ", ".join(map(str, known))
            raise InputError(
                f"which input takes the token ids? the model has {names!s:.120}; columns={{name: 'input_ids'}}"
            )
        found[free[0]] = "input_ids"
    return found


def _size(known: Sequence[InputType]) -> int | None:
    """The length that the model fixes.

    Raises:
        InputError: When an input is no sequence, or two fix different lengths.
    """
    for each in known:
        if each.dims is not None and len(each.dims) != 2:
            raise InputError(f"tokens are sequences, [batch, length], and the model takes {each}")
    sizes = {each.dims[1] for each in known if each.dims is not None} - {None}
    if len(sizes) > 1:
        raise InputError(f"inputs fix different lengths: {', '.join(map(str, known))!s:.150}")
    return next(iter(sizes), None)
