"""The choices of a user that decide what is compiled, besides the model and the shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engine.chunks import check_chunk
from .errors import SettingError
from .numerics import PRECISIONS, float_type
from .questions import canonical_task
from .rules import find_mode

EVERY, FIRST = "every", "first"
PROOFS = (EVERY, FIRST)
"""How often what an import computes is compared with the framework's own model."""


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
    layers: tuple[str, ...] | None = None
    wrt: tuple[str, ...] | None = None
    chunk: int | None = None
    dtype: str = "float32"
    precision: str = "highest"
    batch_axis: Any = 0
    prepare: bool = True
    prove: str = EVERY

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
        if self.precision not in PRECISIONS:
            raise SettingError(f"precision {self.precision!r} does not exist; there are: {', '.join(PRECISIONS)}")
        if self.prove not in PROOFS:
            raise SettingError(f"prove {self.prove!r} does not exist; there are: {', '.join(PROOFS)}")
        if not isinstance(self.prepare, bool):
            raise SettingError(f"prepare must be True or False, found {self.prepare!r}")
        if self.output is not None and (not isinstance(self.output, str | int) or isinstance(self.output, bool)):
            raise SettingError(f"output must be a name or an index, found {self.output!r}")
        if self.chunk is not None:
            check_chunk(self.chunk)
        if self.scaler is not None and not (_is_number(self.scaler) and self.scaler):
            raise SettingError(f"scaler must be a finite number other than 0, or None, found {self.scaler!r:.80}")
        if not _is_number(self.thresholding):
            raise SettingError(f"thresholding must be a finite number, found {self.thresholding!r:.80}")
        if self.wrt == ():
            raise SettingError("wrt=[] names no input; leave it out, or name those that bear relevance")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def as_axes(batch_axis: Any) -> Any:
    """Axes by input name as something that can be a key.

    Raises:
        SettingError: When an axis is no whole number.
    """
    axes = [*batch_axis.values()] if isinstance(batch_axis, Mapping) else [batch_axis]
    if not all(axis is None or (isinstance(axis, int | np.integer) and not isinstance(axis, bool)) for axis in axes):
        raise SettingError(
            f"batch_axis must be a whole number, None, or a dict of these by input; found {batch_axis!r}"
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


def as_names(setting: str, names: Any) -> tuple[str, ...] | None:
    """One name or several, as a tuple.

    Raises:
        SettingError: When it is neither.
    """
    if names is None or isinstance(names, str):
        return (names,) if isinstance(names, str) else None
    if not isinstance(names, Sequence | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise SettingError(f"{setting} must be a name or a list of names, found {names!r:.80}")
    return tuple(sorted(names) if isinstance(names, set | frozenset) else names)
