"""From a reader and a model to a source: which columns are which inputs, and what makes the inputs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backtrace_jax.batch.layout import Axes
from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType

from .columnar import Columnar
from .items import endless
from .lengths import LENGTHS, MASKS, Sequences, padding_for
from .matching import Columns, Matched, batch_first, check_types, matched
from .pictures import Pictures, Preparation, called, is_picture, opened
from .protocol import Schema
from .reading import Carry, Reading
from .rows import Reader, Rows
from .texts import Texts, texts_of
from .values import Maker, Numbers, carried_type, chosen_type, numbers_in, sampled


def columnar(reader: Reader, declared: Sequence[InputType], axes: Axes, carry: Carry, reading: Reading) -> Columnar:
    """Columns of a reader as a source, matched to the inputs of a model.

    Args:
        reader: What reads rows.
        declared: The model's inputs, as the model has them.
        axes: Where each holds the examples.
        carry: What is carried.
        reading: What the caller says of the source.

    Raises:
        InputError: When the columns do not fit the model, or there is no example.
    """
    if reader.count == 0:
        raise InputError(f"{reader.called} is empty: it holds no example")
    sample = reader.sample()
    if len(sample.failed) == sample.count:
        raise InputError(f"{reader.called} cannot be read: {next(iter(sample.failed.values()))}")
    known = [batch_first(each, axes) for each in declared]
    makers, found = _makers(reader, sample, known, carry, reading)
    carried = {name: (column, carried_type(sample, column)) for name, column in found.carried.items()}
    schema = _schema(reader, makers, found, carried)
    check_types(schema.inputs, declared, axes)
    if endless(reader.count) and reading.limit is None:
        raise InputError(f"{reader.called} never ends; limit= says how many examples are taken of it")
    count = reader.count if reading.limit is None or reader.count is None else min(reader.count, reading.limit)
    return Columnar(schema, count, reader, makers, carried, reading.limit)


def _schema(reader: Reader, makers: Sequence[Maker], found: Matched, carried: Mapping[str, Any]) -> Schema:
    types = {name: typed for maker in makers for name, typed in maker.inputs.items()}
    kept = {name: words for maker in makers for name, words in maker.kept.items()}
    extra = {name: typed for maker in makers for name, typed in maker.carried.items()}
    if both := extra.keys() & carried.keys():
        raise InputError(
            f"carry: the name {min(both)!r} is taken; carry the column under another: carry={{name: column}}"
        )
    features = {name: found.inputs[name] for name in found.features}
    identity: dict[str, Any] = {"kind": reader.kind, **reader.said, "columns": {}}
    for maker in makers:
        identity["columns"] |= maker.identity.get("columns", {})
        identity |= {name: value for name, value in maker.identity.items() if name != "columns"}
    lengths = tuple(sorted({length for maker in makers for length in maker.lengths}))
    known = {name: typed for name, (_, typed) in carried.items()} | extra
    return Schema(types, known, features, kept, lengths, identity, reader.unsteady)


def _makers(
    reader: Reader, sample: Rows, known: Sequence[InputType], carry: Carry, reading: Reading
) -> tuple[tuple[Maker, ...], Matched]:
    """What makes the inputs, and which column is which."""
    columns = Columns(reader.called, reader.columns, *_numbers_of(sample), reader.placed, reader.offered)
    asked, texts = reading, texts_of(columns, reader, sample, known, carry, reading)
    rest, reading, read = (known, reading, ()) if texts is None else texts.rest(known, reading)
    ranks = {each.name: None if each.dims is None else len(each.dims) - 1 for each in rest}
    found = matched(columns, rest, ranks, carry, reading, read)
    sequences = _of_sequences(rest, found, sample, reading)
    makers: list[Maker] = [] if texts is None else [texts]
    makers += [_sequences(sequences, found, reading)] if sequences else []
    makers += [_maker(each, found, reader, sample, reading) for each in rest if each not in sequences]
    _refuse_unused(makers, asked, reader.called)
    return tuple(makers), found


def _numbers_of(sample: Rows) -> tuple[frozenset[str], frozenset[str]]:
    """Columns of one number for each example, and columns of several."""
    found = {name: numbers_in(sample, name) for name in sample.columns}
    single = frozenset(name for name, typed in found.items() if typed is not None and typed[0] == ())
    return single, frozenset(name for name, typed in found.items() if typed is not None) - single


def _of_sequences(known: Sequence[InputType], found: Matched, sample: Rows, reading: Reading) -> list[InputType]:
    """Inputs that are columns of sequences; none where all are of one length, and the caller says no other."""
    may = [each for each in known if _may_be_sequence(each, found, sample)]
    lengths = {len(value) for each in may for value in sampled(sample, found.inputs[each.name][0])}
    return may if len(lengths) > 1 or reading.lengths is not None else []


def _may_be_sequence(known: InputType, found: Matched, sample: Rows) -> bool:
    one_axis = known.dims is None or len(known.dims) == 2
    if known.name in found.features or known.dtype.kind not in "iub" or not one_axis:
        return False
    values = sampled(sample, found.inputs[known.name][0])
    return all(isinstance(value, Sequence | np.ndarray) and np.ndim(value[:1]) == 1 for value in values)


def _sequences(known: Sequence[InputType], found: Matched, reading: Reading) -> Sequences:
    by_input = {each.name: found.inputs[each.name][0] for each in known}
    masked = any(name in MASKS for name in (*by_input, *by_input.values()))
    size = next((each.dims[1] for each in known if each.dims is not None and each.dims[1] is not None), None)
    padding = padding_for(size, reading.lengths, LENGTHS[-1], masked=masked)
    return Sequences(by_input, {each.name: each.dtype for each in known}, dict.fromkeys(by_input, 0), padding)


def _maker(known: InputType, found: Matched, reader: Reader, sample: Rows, reading: Reading) -> Maker:
    """What makes one input, by what its column holds."""
    names = found.inputs[known.name]
    if known.name in found.features:
        return _features(known, names, reader, sample)
    first = next(sampled(sample, names[0]), None)
    if is_picture(first):
        return Pictures(known.name, names[0], _sized(Preparation.of(known, reading), names[0], sample))
    if isinstance(first, str):
        raise InputError(f"column {names[0]!r} of {reader.called} holds texts; tokenizer= turns them into token ids")
    wanted = None if known.dims is None else known.dims[1:]
    shape, dtype = _typed(names[0], reader, sample, wanted)
    whole = chosen_type(dtype, known.dtype, quantity=shape == () or reader.untyped)
    single = shape == () and known.dims is not None and known.dims[1:] == (1,)
    return Numbers(known.name, names, False, (1,) if single else shape, whole)


def _typed(
    name: str, reader: Reader, sample: Rows, wanted: tuple[int | None, ...] | None = None
) -> tuple[tuple[int, ...], np.dtype]:
    if (found := numbers_in(sample, name, wanted)) is None:
        what = shown(next(sampled(sample, name), None))
        raise InputError(f"column {name!r} of {reader.called} holds {what}, no numbers that a model could take")
    return found


def _features(known: InputType, names: tuple[str, ...], reader: Reader, sample: Rows) -> Numbers:
    wanted = None if known.dims is None or len(known.dims) != 2 else known.dims[1]
    if wanted is not None and len(names) != wanted:
        raise InputError(
            f"{reader.called} has {len(names)} columns of numbers for the {wanted} features of {known}: "
            f"{', '.join(names)!s:.120}; carry= or ignore= those that are none, or say which by columns=[...]"
        )
    types = {name: _typed(name, reader, sample) for name in names}
    if wide := next((name for name, (shape, _) in types.items() if shape), None):
        raise InputError(f"column {wide!r} of {reader.called} holds arrays; a feature is one number for each example")
    dtype = chosen_type(np.result_type(*(dtype for _, dtype in types.values())), known.dtype, quantity=True)
    return Numbers(known.name, names, True, (len(names),), dtype)


def _sized(prepared: Preparation, column: str, sample: Rows) -> Preparation:
    """With the size of the first picture that can be read, where neither the model nor the caller says one."""
    if None not in prepared.size:
        return prepared
    reason = "there are none"
    for value in sampled(sample, column):
        try:
            image = opened(value)
        except InputError as error:
            reason = f"{called(value)} {error}"
            continue
        return replace(prepared, size=(prepared.size[0] or image.width, prepared.size[1] or image.height))
    raise InputError(f"none of the first pictures can be read: {reason}")


def _refuse_unused(makers: Sequence[Maker], reading: Reading, source: str) -> None:
    """Refuse what the caller says of texts and pictures where there are none."""
    if not any(isinstance(each, Pictures) for each in makers):
        reading.refuse(("size", "resize", "mean", "std", "layout"), f"is for pictures, and {source} holds none")
    if not any(isinstance(each, Texts) for each in makers):
        reading.refuse(("tokenizer", "text"), f"is for texts, and {source} holds none")
        if not any(isinstance(each, Sequences) for each in makers):
            reading.refuse(("lengths",), f"is for token sequences, and {source} holds none")
