"""What makes relevance smaller before it is stored: summed over channels, by the user's function, in fewer bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import choice, takes
from backtrace_jax.errors.texts import shown

from .taking import shared_out

CHANNELS = "channels"
STORED = ("float16", "float32")


@dataclass(frozen=True)
class Reducing:
    """How relevance is stored.

    Attributes:
        reduce: None, "channels", or a function of (name, relevance [examples, ...]).
        dtype: "float16", "float32", or None: what it was computed in.
        axes: Axis of the channels within one example, of inputs and layers that have one.
    """

    reduce: str | Callable[[str, np.ndarray], Any] | None = None
    dtype: str | None = None
    axes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what does not exist.

        Raises:
            SettingError: Naming the choices.
        """
        if self.dtype is not None:
            choice("store_dtype", self.dtype, STORED)
        if callable(self.reduce) and not takes(self.reduce, 2):
            raise SettingError("reduce must be a function of (name, relevance): reduce=lambda name, relevance: ...")
        if self.reduce is not None and not callable(self.reduce):
            choice("reduce", self.reduce, (CHANNELS,))

    @property
    def described(self) -> dict[str, Any]:
        """What it is known by: a function by its name and code."""
        return {"reduce": known(self.reduce) if callable(self.reduce) else self.reduce, "store_dtype": self.dtype}

    def among(self, axes: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> Reducing:
        """The same, where channels are at these axes.

        Raises:
            SettingError: When nothing has channels, and "channels" is what is to be summed over.
        """
        several = [key for key, array in arrays.items() if shared_out(key) in axes and array.ndim > 2]
        if self.reduce == CHANNELS and not several:
            raise SettingError(
                "reduce='channels': the graph tells of no input's channels; pass a function, such as "
                "reduce=lambda name, relevance: relevance.sum(axis=1)"
            )
        return replace(self, axes=axes)

    def reduced(self, key: str, array: np.ndarray) -> np.ndarray:
        """An array as it is stored, before its type is changed.

        Raises:
            SettingError: When the user's function fails, or does not keep the examples apart.
        """
        name = shared_out(key)
        if self.reduce is None or name is None:
            return array
        if not callable(self.reduce):
            return array.sum(axis=self.axes[name] + 1) if name in self.axes and array.ndim > 2 else array
        try:
            found = np.asarray(self.reduce(name, array))
        except Exception as error:
            raise SettingError(
                f"reduce= fails on {name!r} {list(array.shape)}: {type(error).__name__}: {error!s:.150}"
            ) from error
        if found.shape[:1] != array.shape[:1] or found.dtype.kind != "f":
            raise SettingError(
                f"reduce= must return floats with the {len(array)} examples in front, found {shown(found.dtype.name)} "
                f"{list(found.shape)} for {name!r}"
            )
        return found

    def stored(self, key: str, array: np.ndarray) -> tuple[np.ndarray, float]:
        """An array in the type in which it is stored, and the largest rounding error of that."""
        if not self._narrows(key, array):
            return array, 0.0
        with np.errstate(over="ignore"):  # of the first example, which may be `beyond`, only the shape counts
            found = array.astype(self.dtype)
        return found, float(np.abs(found.astype(array.dtype) - array).max(initial=0.0))

    def beyond(self, arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """[examples], whether relevance of an example is beyond the range of what is stored."""
        found = np.zeros(count, bool)
        for array in (array for key, array in arrays.items() if self._narrows(key, array)):
            largest = np.abs(array).reshape(count, -1).max(axis=1, initial=0.0)
            with np.errstate(over="ignore"):
                found |= np.isinf(largest.astype(self.dtype))
        return found

    def _narrows(self, key: str, array: np.ndarray) -> bool:
        """Whether an array is stored in fewer bits than it was computed in."""
        wanted = self.dtype is not None and shared_out(key) is not None
        return wanted and array.dtype.itemsize > np.dtype(self.dtype).itemsize


def known(function: Callable[..., Any]) -> str:
    """What a function is known by: its name and a hash of its code."""
    code = getattr(function, "__code__", None)
    constants = [each for each in getattr(code, "co_consts", ()) if isinstance(each, int | float | str | tuple | None)]
    known = hashlib.sha256(code.co_code + repr(constants).encode()).hexdigest()[:16] if code else ""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)} {known}"
