"""Values of options, read from the command line's texts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from backtrace_jax.sources.reading import LARGEST_SIDE


def target(text: str) -> int | list[int] | tuple[int, ...]:
    """Read `3` (for all examples), `3,1,4` (one per example) or `(5, 1023)` (an index into the output's axes)."""
    text = text.strip()
    if text.startswith("("):
        return tuple(_whole_numbers(text.removeprefix("(").removesuffix(")")))
    return per_example(text)


def per_example(text: str) -> int | list[int]:
    """Read `3` (for all examples) or `3,1,4` (one per example)."""
    numbers = _whole_numbers(text)
    return numbers if "," in text else numbers[0]


TORCH = "torch"


def rival(text: str) -> str | int | list[int]:
    """Read `torch`, or classes as `per_example` does."""
    return TORCH if text == TORCH else per_example(text)


def _whole_numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number (3) nor several (3,1,4)")
    return numbers


def columns(text: str) -> tuple[str | None, tuple[str, ...]]:
    """Read `age,income` (columns of the only input) or `x=age,income` (columns of this one)."""
    name, equals, listed = text.rpartition("=")
    found = tuple(each.strip() for each in listed.split(","))
    if not all(found) or (equals and not name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} names no columns, such as age,income or x=age,income")
    return name.strip() or None, found


def or_column(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Read a value, or the name of a column that holds one for every example."""

    def column(text: str) -> Any:
        try:
            return read(text)
        except argparse.ArgumentTypeError:
            return text

    return column


def lengths(text: str) -> str | tuple[int, ...]:
    """Read `32,64,128`, or `exact`."""
    return text if text == "exact" else tuple(_whole_numbers(text))


def option(text: str) -> tuple[str, Any]:
    """Read `gamma=0.25`, `low=-1,-1,-1` or `bias=keep`."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as gamma=0.25")
    try:
        numbers = tuple(map(_number, value.split(",")))
    except ValueError:
        return name.strip(), value.strip()
    return name.strip(), numbers if "," in value else numbers[0]


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def scaler(text: str) -> float | None:
    """Read `1.5`, or `none`."""
    try:
        return None if text.lower() == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'") from None


def ledger(text: str) -> str | None:
    """Read `nodes`, `total`, or `none`."""
    return None if text.lower() == "none" else text


def devices(text: str) -> int | str:
    """Read a number of devices, or `all`."""
    return text.lower() if text.lower() == "all" else natural(text)


def whole(text: str) -> int:
    """Read a whole number, negative ones too."""
    return -natural(text[1:]) if text.startswith("-") else natural(text)


def picture_size(text: str) -> tuple[int, int]:
    """Read `224`, or `320x240` (width, height)."""
    width, _, height = text.lower().partition("x")
    size = natural(width), natural(height or width)
    if 0 in size or max(size) > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is no size of a picture from 1 to {LARGEST_SIDE}")
    return size


def numbers(text: str) -> tuple[float, ...]:
    """Read `0.485`, or `0.485,0.456,0.406`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, or several: 0.485,0.456,0.406") from None


def batch_axis(text: str) -> Any:
    """Read `1` (for all inputs), `none` (no batch) or `h=1,s=none` (by input; the others have it first)."""
    if "=" not in text:
        return _axis(text)
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(name.strip() for name, _, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AXIS, such as h=1,s=none")
    return {name.strip(): _axis(axis) for name, _, axis in pairs}


def _axis(text: str) -> int | None:
    try:
        return None if text.strip().lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an axis (1) nor 'none'; by input: h=1,s=none") from None


def natural(text: str) -> int:
    """Read a whole number from 0."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
