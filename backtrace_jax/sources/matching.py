"""Which column of a source is which input of the model, which is carried, and which is left out on purpose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backtrace_jax.batch.layout import Axes, dims_first
from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.arguments import is_whole
from backtrace_jax.errors.texts import shown
from backtrace_jax.ir.imported import InputType
from backtrace_jax.question.feeds import read_inputs

from .protocol import Typed
from .reading import REST, Carry, Reading, several


@dataclass(frozen=True)
class Columns:
    """The columns of a source.

    Attributes:
        called: What to call the source.
        names: Their names, in its own order.
        quantities: Those that hold one number for each example, and can be features.
        wide: Those that hold arrays of numbers.
        placed: Those that have places only, "0", "1", ...
        offered: Those that need not be left out by name.
        strict: Whether columns are inputs by their names only, as in a dict of arrays.
    """

    called: str
    names: tuple[str, ...]
    quantities: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    placed: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()
    strict: bool = False

    def known(self, name: Any, setting: str) -> str:
        """The name of a column.

        Raises:
            InputError: When there is none of this name.
        """
        found = str(int(name)) if is_whole(name) and str(int(name)) in self.placed else name
        if not isinstance(found, str) or found not in self.names:
            raise InputError(f"{setting}: {self.called} has no column {shown(name)}; it has {self.listed()}")
        return found

    def listed(self) -> str:
        """The names, as a message lists them."""
        text = ", ".join(self.names) or "none"
        return text if len(text) <= _LISTED else f"{text[:_LISTED]}... ({len(self.names)} columns)"


_LISTED = 120


@dataclass(frozen=True)
class Matched:
    """What each column is.

    Attributes:
        inputs: By input name, its column, or the columns of its features.
        features: Names of inputs whose columns are features, one beside the other.
        carried: By the name that it has then, the column that is carried.
    """

    inputs: Mapping[str, tuple[str, ...]]
    features: frozenset[str]
    carried: Mapping[str, str]


def matched(
    columns: Columns,
    declared: Sequence[InputType],
    ranks: Mapping[str, int | None],
    carry: Carry,
    reading: Reading,
    read: Collection[str] = (),
) -> Matched:
    """Match columns to inputs: as the caller says, else by name, by place, or as features of the only input.

    Args:
        columns: The columns that there are.
        declared: The inputs that columns are looked for.
        ranks: By input, axes of one example; None where that is not declared.
        carry: What the caller has carried.
        reading: What the caller says of columns.
        read: Columns that are read as something else, texts.

    Raises:
        InputError: Naming a column that is missing, or one that is left over without being told to be.
    """
    left_out = [] if reading.ignore == REST else [columns.known(name, "ignore") for name in several(reading.ignore)]
    beside = carried_by_name(columns, carry) - {each.name for each in declared}  # an input may be carried as well
    inputs, features = _inputs(columns, declared, ranks, {*left_out, *read, *beside}, reading)
    used = {name for each in inputs.values() for name in each} | set(read)
    rest = [name for name in columns.names if name not in used and name not in left_out]
    carried = _carried(columns, carry, rest)
    over = [name for name in rest if name not in carried.values() and name not in columns.offered]
    if over and reading.ignore != REST:
        what = ", ".join(map(str, declared))
        raise InputError(
            f"column {over[0]!r} of {columns.called} is no input of the model ({what:.120}); keep it by carry=, leave "
            f"it out by ignore=[{over[0]!r}], or all such by ignore='rest'"
        )
    return Matched(inputs, features, carried)


def carried_by_name(columns: Columns, carry: Carry) -> set[str]:
    """Columns that are certainly carried; those of places may be told only behind the inputs."""
    if isinstance(carry, Mapping):
        return {columns.known(name, "carry") for name in carry.values()}
    return {name for name in map(str, several(carry)) if name in columns.names}


def _carried(columns: Columns, carry: Carry, rest: Sequence[str]) -> dict[str, str]:
    if isinstance(carry, Mapping):
        return {name: columns.known(column, f"carry={{{name!r}: ...}}") for name, column in carry.items()}
    names = several(carry)
    named = {str(name): columns.known(name, "carry") for name in names if is_whole(name) or name in columns.names}
    others = [name for name in names if str(name) not in named]
    places = [name for name in rest if name in columns.placed and name not in named.values()]
    if others and not columns.placed:
        columns.known(others[0], "carry")
    if len(others) > len(places):
        raise InputError(f"carry={shown([*names])}: {columns.called} has {len(places)} entries beside the inputs")
    return named | dict(zip(others, places, strict=False))


def _inputs(
    columns: Columns,
    declared: Sequence[InputType],
    ranks: Mapping[str, int | None],
    taken: Collection[str],
    reading: Reading,
) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    names = [each.name for each in declared]
    free = [name for name in columns.names if name not in taken and name not in columns.offered]
    if reading.columns is not None:
        return _as_said(columns, names, reading.columns)
    if set(names) <= set(free):
        return {name: (name,) for name in names}, frozenset()
    places = [name for name in free if name in columns.placed]
    quantities = [name for name in free if name in columns.quantities]
    if len(names) == 1 and quantities and ranks[names[0]] in (1, None) and columns.wide.isdisjoint(free):
        return {names[0]: tuple(quantities)}, frozenset(names)
    if len(places) == len(free) >= len(names):
        return {name: (place,) for name, place in zip(names, free, strict=False)}, frozenset()
    if len(names) == 1 and len(free) == 1 and not columns.strict:
        return {names[0]: (free[0],)}, frozenset()
    if free and len(places) == len(free):
        listed = ", ".join(map(str, declared))
        raise InputError(
            f"{columns.called} has {len(free)} entries, the model takes {len(names)} inputs ({listed:.150})"
        )
    missing = next((name for name in names if name not in free), names[0] if names else "")
    raise InputError(
        f"no column of {columns.called} is called {missing!r}, as the input is; it has {columns.listed()}; say which "
        f"by columns={{{missing!r}: ...}}"
    )


def _as_said(columns: Columns, names: Sequence[str], said: Any) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    if not isinstance(said, Mapping):
        if len(names) != 1:
            raise SettingError(f"columns= says for each input which columns it is: {', '.join(names)}")
        said = {names[0]: said}
    if unknown := [name for name in said if name not in names]:
        raise SettingError(f"columns: no input is called {shown(unknown[0])}; there are: {', '.join(names)}")
    asked = {name: said.get(name, name) for name in names}
    setting = "columns"
    found = {name: tuple(columns.known(each, setting) for each in several(one)) for name, one in asked.items()}
    if empty := [name for name, each in found.items() if not each]:
        raise SettingError(f"columns: input {empty[0]!r} is given none")
    return found, frozenset(name for name, one in asked.items() if not isinstance(one, str | int))


def check_types(types: Mapping[str, Typed], declared: Sequence[InputType], axes: Axes) -> None:
    """Refuse types and shapes that the model does not take, as `explain` refuses them, before anything is read.

    Raises:
        InputError: Naming the input, what was expected, and what to do.
    """
    zeros = {name: np.zeros((1, *shape), np.dtype(dtype)) for name, (shape, dtype) in types.items()}
    read_inputs(zeros, [batch_first(each, axes) for each in declared])


def batch_first(known: InputType, axes: Axes) -> InputType:
    """An input with its batch in front."""
    return replace(known, dims=dims_first(known.dims, axes.get(known.name, 0)))
