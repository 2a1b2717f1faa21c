"""What an explanation is made of: the type and shape of every part, and what belongs together.

Written down once, and checked when a file is written and when one is read: what `Explanation.load` gives works in every
report. `COUNT` stands for the number of examples, `...` for any further axes.

    part                        holds                     shape
    inputs                      numbers                   [COUNT, ...]
    outputs                     numbers                   [COUNT, ...]
    outputs[output]             floats, at least one      [COUNT, ...]
    relevance                   finite floats             that of the input of this name
    layers                      floats                    [COUNT, ...]
    target, where there is one  int64, -1 or a unit       [COUNT]
    completeness_error, dito    floats                    [COUNT]
    ledger and each of by_node  finite float64, absolute  [COUNT, 6]
                                ones not negative
    channels                    both or none; relevance and layers as those of the whole; ledgers both or none
    fingerprint                 what JSON holds; mode and task are text
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from backtrace_jax.errors import InputError
from backtrace_jax.errors.texts import shown
from backtrace_jax.question.words import ALL_UNITS, CLASS_SEGMENTATION, SPAN

from .ledger import CHANNELS, COLUMNS, Ledger
from .record import Record

DEEPEST = 20
"""Levels of lists and dicts in a fingerprint."""

EXTENSIONS = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
"""Floats that NumPy knows by name only."""

_TEXTS = ("mode", "task")  # fields of the fingerprint that reports compare with names


class Part(NamedTuple):
    """An array of an explanation, and what it should be.

    Attributes:
        label: Its name, as `relevance['image']`.
        array: What is there.
        kinds: Kinds of the types that it may have.
        shape: What its shape begins with, all of it where it is `whole`.
        finite: Whether it holds neither NaN nor Inf.
    """

    label: str
    array: Any
    kinds: str
    shape: tuple[int, ...]
    whole: bool = False
    finite: bool = False


_NUMBERS, _FLOATS, _WHOLE = "biuf", "f", "i"


def check_structure(explanation: Record) -> None:
    """Refuse an explanation whose parts do not belong together.

    Raises:
        InputError: Naming the part.
    """
    if not all(map(np.ndim, explanation.inputs.values())) or not len(explanation):
        raise InputError("it holds no examples")
    if explanation.output not in explanation.outputs:
        raise InputError(f"its output {shown(explanation.output)} is none of its outputs")
    if foreign := [name for name in explanation.relevance if name not in explanation.inputs]:
        raise InputError(f"it has relevance of {shown(foreign[0])}, which is none of its inputs")
    _check_channels(explanation)
    for part in parts(explanation):
        _check_part(part)
    _check_target(explanation)
    _check_fingerprint(explanation.fingerprint)


def is_float(dtype: np.dtype) -> bool:
    """Whether a type is one of floats."""
    return dtype.kind == "f" or dtype.name in EXTENSIONS


def parts(explanation: Record) -> Iterator[Part]:
    """Every array of an explanation, by name, and what it should be; the explained output comes twice."""
    count = (len(explanation),)
    yield from _group("inputs", explanation.inputs, _NUMBERS, count)
    yield from _group("outputs", explanation.outputs, _NUMBERS, count)
    yield from _group("outputs", {explanation.output: explanation.outputs[explanation.output]}, _FLOATS, count)
    yield from _of_walk("", explanation, explanation.inputs, count)
    for name, channel in explanation.channels.items():
        yield from _of_walk(f"{name}.", channel, explanation.inputs, count)
    if explanation.target is not None:
        yield Part("target", explanation.target, _WHOLE, count, whole=True)
    if explanation.completeness_error is not None:
        yield Part("completeness_error", explanation.completeness_error, _FLOATS, count, whole=True)


def _group(label: str, arrays: Mapping[str, Any], kinds: str, shape: tuple[int, ...]) -> Iterator[Part]:
    return (Part(f"{label}[{shown(name)}]", array, kinds, shape) for name, array in arrays.items())


def _of_walk(prefix: str, walked: Any, inputs: Mapping[str, Any], count: tuple[int, ...]) -> Iterator[Part]:
    """What one walk gives: relevance, layers and books of the whole, or of a channel."""
    for name, array in walked.relevance.items():
        label = f"{prefix}relevance[{shown(name)}]"
        yield Part(label, array, _FLOATS, np.shape(inputs[name]), whole=True, finite=True)
    yield from _group(f"{prefix}layers", walked.layers, _FLOATS, count)
    if walked.ledger is not None:
        yield from _of_ledger(f"{prefix}ledger", walked.ledger, count)
        for name, ledger in walked.ledger.by_node.items():
            yield from _of_ledger(f"{prefix}ledger.by_node[{shown(name)}]", ledger, count)


def _of_ledger(label: str, ledger: Ledger, count: tuple[int, ...]) -> Iterator[Part]:
    shape = (*count, len(COLUMNS))
    yield Part(f"{label}.signed", ledger.signed, _FLOATS, shape, whole=True, finite=True)
    yield Part(f"{label}.absolute", ledger.absolute, _FLOATS, shape, whole=True, finite=True)
    if (ledger.absolute < 0).any():
        raise InputError(f"{label}.absolute holds negative numbers")


def _check_part(part: Part) -> None:
    array = part.array
    if not isinstance(array, np.ndarray):
        raise InputError(f"{part.label} is a {type(array).__name__}, no array")
    if array.dtype.kind not in part.kinds and not ("f" in part.kinds and is_float(array.dtype)):
        raise InputError(f"{part.label} holds {array.dtype.name}, not {_WORDS[part.kinds]}")
    found = array.shape if part.whole else array.shape[: len(part.shape)]
    if found != part.shape:
        more = "" if part.whole else ", ..."
        raise InputError(f"{part.label} has shape {list(array.shape)}, not [{', '.join(map(str, part.shape))}{more}]")
    if part.finite and not np.isfinite(array).all():
        raise InputError(f"{part.label} holds NaN or Inf")


_WORDS = {_NUMBERS: "numbers", _FLOATS: "floats", _WHOLE: "whole numbers"}


def _check_channels(explanation: Record) -> None:
    """Reports put the channels side by side, and the whole beside them."""
    if not explanation.channels:
        return
    if tuple(explanation.channels) != CHANNELS:
        raise InputError(f"its channels are {shown([*explanation.channels])}, not {' and '.join(CHANNELS)}")
    for name, channel in explanation.channels.items():
        for part in ("relevance", "layers"):
            if list(getattr(channel, part)) != list(getattr(explanation, part)):
                raise InputError(f"{name}.{part} is of other names than {part}")
    if len({channel.ledger is None for channel in explanation.channels.values()}) > 1:
        raise InputError("one of its channels has a ledger, the other none")


def _check_target(explanation: Record) -> None:
    """Reports look up the unit that a target names."""
    shape, target = explanation.outputs[explanation.output].shape[1:], explanation.target
    if not math.prod(shape):
        raise InputError(f"outputs[{shown(explanation.output)}] holds nothing that could be explained")
    if target is None:
        return
    if target.min() < ALL_UNITS or target.max() >= _targets(explanation.fingerprint.get("task"), shape):
        worst = target.min() if target.min() < ALL_UNITS else target.max()
        raise InputError(f"target {worst} is no unit of its output, {list(shape)}")


def _targets(task: Any, shape: tuple[int, ...]) -> int:
    """How many targets there are: pairs of places, classes along an axis, or units, of which a single one stands for
    two classes."""
    if task == SPAN and shape[1:] == (2,):
        return shape[0] ** 2
    return max(shape) if task == CLASS_SEGMENTATION and shape else max(math.prod(shape), 2)


def _check_fingerprint(fingerprint: Any) -> None:
    if not isinstance(fingerprint, dict) or not _is_json(fingerprint, DEEPEST):
        raise InputError(f"its fingerprint is no dict of plain values, at most {DEEPEST} levels deep")
    for name in _TEXTS:
        if not isinstance(fingerprint.get(name, ""), str):
            raise InputError(f"its fingerprint's {name} is no text: {shown(fingerprint[name])}")


def _is_json(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(isinstance(key, str) and _is_json(each, levels - 1) for key, each in value.items())
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_json(each, levels - 1) for each in value)
    return value is None or isinstance(value, str | bool | int | float)
