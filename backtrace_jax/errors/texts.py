"""Text from strangers, made fit to be read: names come out of model files, values out of anybody's program."""

from __future__ import annotations


def printable(text: object, kept: str = "") -> str:
    """The text with control characters, overrides of direction and lone surrogates as escapes.

    It cannot steer a terminal, hide a part of itself, or break what writes it down.

    Args:
        text: Anything that is shown by `str`.
        kept: Characters that stay as they are, though they are not printable.
    """
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in str(text))


LONGEST = 999  # characters of a message


def shortened(text: str) -> str:
    """Beginning and end of what is too long for a message."""
    half = (LONGEST - len(_CUT)) // 2
    return text if len(text) <= LONGEST else f"{text[:half]}{_CUT}{text[-half:]}"


_CUT = " ... "


def shown(value: object, most: int = 80) -> str:
    """A value as a message shows it: the first characters of its `repr`, whatever that is or does."""
    try:
        text = repr(value)
    except Exception:  # somebody else's code: nests too deep, has too many digits, or fails on its own account
        text = f"an object of type {type(value).__name__}"
    return printable(text[:most])[:most]
