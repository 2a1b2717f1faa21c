"""Arguments that do not exist are answered with those that were meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar, cast

from .errors import SettingError

F = TypeVar("F", bound=Callable[..., Any])


def known_arguments(function: F) -> F:
    """The same function; an argument that it does not have is a SettingError with the closest one it has."""
    names = [*inspect.signature(function).parameters]
    label = function.__qualname__.removesuffix(".__call__").removesuffix(".__init__")

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for unknown in (name for name in kwargs if name not in names):
            close = get_close_matches(unknown, names, n=1)
            meant = f"did you mean {close[0]}=?" if close else f"there are: {', '.join(names)}"
            raise SettingError(f"{label} has no argument {unknown!r}; {meant}")
        return function(*args, **kwargs)

    return cast(F, checked)
