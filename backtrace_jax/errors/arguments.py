"""Arguments that do not exist, are missing or come in the wrong place are answered with those that were meant."""

from __future__ import annotations

import inspect
import math
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from . import BacktraceError, SettingError
from .texts import shown

F = TypeVar("F", bound=Callable[..., Any])


def known_arguments(function: F) -> F:
    """The same function; a call that it cannot take is a SettingError that says how it is called."""
    return _checked(function, inspect.signature(function))


def with_fields(*kinds: type, elsewhere: Mapping[str, str] | None = None) -> Callable[[F], F]:
    """The same for a function that takes the fields of dataclasses by keyword: they are part of its signature.

    Args:
        kinds: The dataclasses.
        elsewhere: By the name of an argument that is not taken here, how it is passed.
    """

    def decorate(function: F) -> F:
        own = inspect.signature(function)
        named = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for kind in kinds
            for each in fields(kind)
            if each.name not in own.parameters
        ]
        return _checked(function, own.replace(parameters=[*named, *more]), elsewhere)

    return decorate


def fields_of(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments given that are fields of a dataclass."""
    return {each.name: given[each.name] for each in fields(kind) if each.name in given}


def _checked(function: F, signature: inspect.Signature, elsewhere: Mapping[str, str] | None = None) -> F:
    label = function.__qualname__.removesuffix(".__call__").removesuffix(".__init__")
    plain, named = _plainly(signature)

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if len(args) in plain and kwargs.keys() <= named:  # as nearly always, and much faster to tell
            return function(*args, **kwargs)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise SettingError(_said(label, signature, args, kwargs, elsewhere or {})) from error
        return function(*args, **kwargs)

    checked.__dict__["__signature__"] = signature
    return cast(F, checked)


def _plainly(signature: inspect.Signature) -> tuple[range, frozenset[str]]:
    """With how many arguments by position, together with any of these by name, a call is sure to be one."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    placed = [each for each in signature.parameters.values() if each.kind in kinds]
    named = [each for each in signature.parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    needed = [each for each in placed if each.default is inspect.Parameter.empty]
    if any(each.default is inspect.Parameter.empty for each in named):
        return range(0), frozenset()
    return range(len(needed), len(placed) + 1), frozenset(each.name for each in named)


def _said(
    label: str, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any], elsewhere: Mapping[str, str]
) -> str:
    """What is wrong with a call."""
    given = {name: each for name, each in signature.parameters.items() if name not in ("self", "cls")}
    names = [name for name, each in given.items() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    placed = [name for name in names if given[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    args = args[len(signature.parameters) - len(given) :]
    for unknown in (name for name in kwargs if name not in names and len(names) == len(given)):
        if unknown in elsewhere:
            return f"{label} takes no {unknown}= here; pass it as {elsewhere[unknown]}"
        close = get_close_matches(unknown, names, n=1)
        meant = f"did you mean {close[0]}=?" if close else f"there are: {', '.join(names)}"
        return f"{label} has no argument {unknown!r}; {meant}"
    if len(args) > len(placed):
        other = next((name for name in names if name not in placed), "name")
        taken = ", ".join(placed) or "nothing"
        return f"{label} takes {taken} by position, found {len(args)}; name the others: {other}=..."
    if twice := [name for name in placed[: len(args)] if name in kwargs]:
        return f"{label} is given {twice[0]} twice: by position and by name"
    needed = [name for name in names if given[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in kwargs and name not in placed[: len(args)]]
    return f"{label} needs {' and '.join(missing)}: {label}({', '.join(needed)}, ...)"


def takes(function: Any, count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as one can tell without calling it."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # of a function written in C
        return callable(function)
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def more_than_numbers(value: Any) -> str:
    """What an array says beside its numbers, which would be lost, and what to pass instead; empty where nothing."""
    if isinstance(value, list | tuple):
        return next((more for each in value if isinstance(each, np.ndarray) and (more := more_than_numbers(each))), "")
    if not isinstance(value, np.ndarray):
        return ""
    if isinstance(value, np.ma.MaskedArray):
        return "is a masked array, which no model takes; pass x.filled(...)"
    if isinstance(value, np.matrix):
        return "is a np.matrix, whose axes cannot be moved; pass np.asarray(x)"
    if value.dtype.names is not None:
        return f"holds records of {', '.join(value.dtype.names)!s:.60}; pass an array of numbers"
    carries = next((name for name in ("unit", "units") if hasattr(value, name)), None)
    return f"is a {type(value).__name__} with a {carries}, which no model knows; pass its numbers" if carries else ""


def as_path(setting: str, path: Any) -> Path:
    """A path of the user's.

    Raises:
        SettingError: When it is none.
    """
    try:
        found = Path(path)
        name = os.fsencode(found)
    except (TypeError, ValueError):  # no text, or one that no file system takes
        found, name = Path(), b"\0"
    if b"\0" in name:
        raise SettingError(f"{setting} must be the path of a file, found {shown(path)}")
    if isinstance(path, str) and _ADDRESS.match(path):
        raise SettingError(f"{setting} must be a path on this machine, found the address {shown(path)}")
    return found


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # s3://..., file://..., which Path would take for folders


def check_plain_file(path: Path, error: type[BacktraceError]) -> None:
    """Refuse what is no plain file: what is not there, a folder, a device, a name that no file can have.

    Args:
        path: The path.
        error: What is raised then.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"no such file: {shown_path(path)}") from None
    except (OSError, ValueError) as problem:
        raise error(f"{shown_path(path)} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    if not stat.S_ISREG(mode):
        raise error(f"{shown_path(path)} is not a plain file")


def shown_path(path: Path) -> str:
    """A path as a message shows it: its end says most."""
    text = str(path)
    return text if len(text) <= _PATH else f"...{text[-_PATH:]}"


_PATH = 200  # characters of a path in a message


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float holds: neither truth nor NaN, and not as large as 10**400."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy; a truth is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def choice(setting: str, value: Any, choices: Collection[str]) -> str:
    """One of several words.

    Raises:
        SettingError: When it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise SettingError(f"{setting} {shown(value)} does not exist; there are: {', '.join(choices)}")
    return value
