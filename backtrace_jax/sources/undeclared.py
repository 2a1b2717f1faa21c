"""A source for what declares no inputs but the names of its parameters: a module that is still to be traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backtrace_jax.ir.imported import InputType

from .building import columnar
from .columnar import Columnar
from .matching import Columns, carried_by_name
from .reading import REST, Carry, Reading, several
from .rows import Reader, Rows
from .texts import ROLES
from .values import numbers_in

_LOSS = "labels"  # by which the modules of `transformers` compute a loss beside their answer
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def undeclared(reader: Reader, names: Sequence[str], needed: int, carry: Carry, reading: Reading) -> Columnar:
    """The columns of a reader as a source of arguments.

    Args:
        reader: What reads rows.
        names: Names of the parameters.
        needed: How many there have to be.
        carry: What is carried.
        reading: What the caller says of the source.

    Raises:
        InputError: When columns do not fit the parameters.
    """
    sample = reader.sample()
    columns = Columns(reader.called, reader.columns, placed=reader.placed, offered=reader.offered)
    chosen = _names(columns, names, needed, carry, reading)
    declared = [InputType(name, None, _dtype(name, place, sample, reading)) for place, name in enumerate(chosen)]
    return columnar(reader, declared, {}, carry, reading)


def _names(columns: Columns, names: Sequence[str], needed: int, carry: Carry, reading: Reading) -> list[str]:
    """The parameters that the source has something for."""
    if isinstance(reading.columns, Mapping):
        return [*reading.columns]
    if reading.tokenizer is not None and (tokens := [n for n in names if any(n in ROLES[role] for role in _TOKENS)]):
        return tokens
    ignored = () if reading.ignore == REST else several(reading.ignore)
    taken = {*map(str, ignored), *carried_by_name(columns, carry), _LOSS}
    return [name for name in names if name in columns.names and name not in taken] or [*names[: max(needed, 1)]]


def _dtype(name: str, place: int, sample: Rows, reading: Reading) -> np.dtype:
    """The type of an argument: that of its column."""
    said: Any = reading.columns.get(name, name) if isinstance(reading.columns, Mapping) else name
    column = next((each for each in (said, str(place)) if each in sample.columns), None)
    found = None if column is None else numbers_in(sample, column)
    default = np.float32 if reading.tokenizer is None else np.int64
    return np.dtype(default) if found is None else found[1]
