"""The choices of a user that decide what is compiled, besides the model and the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backtrace_jax.errors import NumericsError, SettingError
from backtrace_jax.errors.arguments import choice, is_finite, is_whole
from backtrace_jax.errors.texts import shown
from backtrace_jax.rules import find_mode
from backtrace_jax.runtime.numerics import PRECISIONS, float_type

from .words import HIGH, LEDGERS, MEMORIES, NODES, canonical_task

EVERY, FIRST = "every", "first"
PROOFS = (EVERY, FIRST)
"""How often what an import computes is compared with the framework's own model."""

ALL = "all"
"""Of the devices of this process."""

MOST = 2**16
"""Examples of the largest chunk that is taken."""
ROWS = 8
"""XLA's CPU matmuls give a row the same bits at any position in multiples of this many rows."""


@dataclass(frozen=True)
class Settings:
    """One choice of settings, checked as far as it can be without a model; `explain` says what they mean.

    This is the one list of them: `explain` and `Explainer` take its fields.
    """

    mode: Any = "default"
    task: str = "auto"
    output: str | int | None = None
    scaler: float | int | None = 1.0
    thresholding: float | int = 0.5
    class_axis: int | None = None
    layers: tuple[str, ...] | None = None
    wrt: tuple[str, ...] | None = None
    chunk: int | None = None
    dtype: str = "float32"
    precision: str = "highest"
    batch_axis: Any = 0
    prepare: bool = True
    prove: str = EVERY
    ledger: str | None = NODES
    memory: str = HIGH
    devices: int | str = 1

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Settings as a user gives them: one name or several, one axis or some by input name.

        Raises:
            SettingError: Naming the setting that is wrong.
        """
        names = {name: as_names(name, given[name]) for name in ("layers", "wrt") if name in given}
        axes = {"batch_axis": as_axes(given["batch_axis"])} if "batch_axis" in given else {}
        return cls(**{**given, **names, **axes})

    @property
    def hoists(self) -> bool:
        """Whether what follows from the weights is made once and kept; in low memory it is not."""
        return self.prepare and self.memory == HIGH

    @property
    def axes(self) -> Any:
        """The batch axis, or axes by input name."""
        return _by_name(self.batch_axis)

    def __post_init__(self) -> None:
        """Refuse what does not exist.

        Raises:
            SettingError: Naming the setting and the choices there are.
        """
        find_mode(self.mode)
        canonical_task(self.task)
        float_type(self.dtype)
        choice("precision", self.precision, PRECISIONS)
        choice("prove", self.prove, PROOFS)
        if self.ledger is not None:
            choice("ledger", self.ledger, LEDGERS)
        choice("memory", self.memory, MEMORIES)
        given = self.devices
        if not (isinstance(given, str) and given == ALL) and not (is_whole(given) and int(given) > 0):
            raise SettingError(f"devices must be a whole number from 1 on, or 'all', found {shown(given)}")
        if not isinstance(self.prepare, bool):
            raise SettingError(f"prepare must be True or False, found {shown(self.prepare)}")
        if self.output is not None and (not isinstance(self.output, str | int) or isinstance(self.output, bool)):
            raise SettingError(f"output must be a name or an index, found {shown(self.output)}")
        if self.chunk is not None:
            check_chunk(self.chunk)
        if self.scaler is not None and not (is_finite(self.scaler) and self.scaler):
            raise SettingError(f"scaler must be a finite number other than 0, or None, found {shown(self.scaler)}")
        _check_range(self.scaler, self.dtype)
        if not is_finite(self.thresholding):
            raise SettingError(f"thresholding must be a finite number, found {shown(self.thresholding)}")
        if self.class_axis is not None and not is_whole(self.class_axis):
            raise SettingError(f"class_axis must be a whole number or None, found {shown(self.class_axis)}")
        if self.wrt == ():
            raise SettingError("wrt=[] names no input; leave it out, or name those that bear relevance")


def _check_range(scaler: Any, dtype: str) -> None:
    """Refuse a total that the float type does not hold.

    Raises:
        NumericsError: Naming the type that does, if there is one.
    """
    limits = np.finfo(float_type(dtype))
    smallest, largest = float(limits.smallest_normal), float(limits.max)
    if scaler is not None and not smallest <= abs(float(scaler)) <= largest:
        raise NumericsError(
            f"scaler={scaler!r:.40} is beyond the range of {dtype}, {smallest:.0e} to {largest:.0e}; "
            + ("pass dtype='float64'" if dtype == "float32" else "pass a larger one")
        )


def as_axes(batch_axis: Any) -> Any:
    """Axes by input name as something that can be a key.

    Raises:
        SettingError: When an axis is no whole number.
    """
    axes = [*batch_axis.values()] if isinstance(batch_axis, Mapping) else [batch_axis]
    if not all(axis is None or is_whole(axis) for axis in axes):
        raise SettingError(
            f"batch_axis must be a whole number, None, or a dict of these by input; found {shown(batch_axis)}"
        )
    if isinstance(batch_axis, Mapping):
        return tuple(sorted(((name, _whole(axis)) for name, axis in batch_axis.items()), key=str))
    return _whole(batch_axis)


def given_axes(batch_axis: Any) -> Any:
    """The batch axis, or axes by input name, of what a user gives."""
    return _by_name(as_axes(batch_axis))


def _by_name(axes: Any) -> Any:
    return dict(axes) if isinstance(axes, tuple) else axes


def _whole(axis: Any) -> int | None:
    return None if axis is None else int(axis)


_LONGEST_NAME = 10_000  # characters, beyond which looking for a pattern takes seconds


def as_names(setting: str, names: Any) -> tuple[str, ...] | None:
    """One name or several, as a tuple.

    Raises:
        SettingError: When it is neither.
    """
    if names is None:
        return None
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, Sequence | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"{setting} must be a name or a list of names, found {shown(names)}")
    if too_long := [name for name in names if len(name) > _LONGEST_NAME]:
        raise SettingError(f"{setting} has a name of {len(too_long[0])} characters: {shown(too_long[0])}")
    return tuple(sorted(names) if isinstance(names, set | frozenset) else names)


def check_chunk(chunk: Any) -> None:
    """Refuse chunk sizes at which an example's bytes would depend on its position.

    Raises:
        SettingError: For anything but 1 or a multiple of 8, and for more than a machine can hold.
    """
    if isinstance(chunk, int) and chunk > MOST:
        raise SettingError(f"chunk must be at most {MOST}, found {chunk}: all of a chunk is in memory at once")
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1 or (chunk > 1 and chunk % ROWS):
        raise SettingError(
            f"chunk must be 1 or a multiple of {ROWS}, found {shown(chunk)}: at other sizes the bytes of a result "
            "would depend on an example's position in the batch"
        )
