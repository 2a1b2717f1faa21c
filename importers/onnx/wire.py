"""Counts the parts of a serialised model before it is parsed: two bytes of a file can become hundreds in memory.

Only what a parser would make an object of is counted, and what a message holds in one piece (the bytes of a tensor) is
stepped over, so that a file of gigabytes is counted in the time of its nodes. Whether the file is well formed, the
parser says.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import onnx

from backtrace_jax.errors import ModelError

SMALL = 2**23
"""Bytes of a file that cannot hold too many parts: it is not counted."""

_MOST_MESSAGES = 2**21
_MOST_TEXTS = 2**22
_SCALARS = re.compile(  # numbers one after the other, each after a tag of one byte
    rb"(?:[\x08\x10\x18\x20\x28\x30\x38\x40\x48\x50\x58\x60\x68\x70\x78][\x80-\xff]{0,9}+[\x00-\x7f]"
    rb"|[\x0d\x15\x1d\x25\x2d\x35\x3d\x45\x4d\x55\x5d\x65\x6d\x75\x7d].{4}"
    rb"|[\x09\x11\x19\x21\x29\x31\x39\x41\x49\x51\x59\x61\x69\x71\x79].{8})*+",
    re.DOTALL,
)
_SIZES = {1: 8, 5: 4}  # bytes of the numbers of fixed size, by wire type


def check_parts(data: bytes) -> None:
    """Refuse a serialised model of more parts than any network has.

    Raises:
        ModelError: Saying so.
    """
    if len(data) <= SMALL:
        return
    open_messages = [(len(data), _children(onnx.ModelProto.DESCRIPTOR))]
    position = messages = texts = 0
    while open_messages:
        end, children = open_messages[-1]
        scalars = _SCALARS.match(data, position, end)
        position = scalars.end() if scalars else position
        if position >= end:
            open_messages.pop()
            continue
        tag, position = _varint(data, position)
        if tag & 7 != 2:
            position = _after_number(data, position, tag & 7)
            continue
        length, position = _varint(data, position)
        child = children.get(tag >> 3)
        if child is None:
            position, texts = position + length, texts + 1
        else:
            open_messages.append((min(position + length, end), _children(child)))
            messages += 1
        if messages > _MOST_MESSAGES or texts > _MOST_TEXTS:
            raise ModelError("the file holds more nodes, attributes and names than any network; refused")


@cache
def _children(message: Any) -> dict[int, Any]:
    """Types of the messages that a message holds, by the number of the field."""
    return {field.number: field.message_type for field in message.fields if field.message_type is not None}


def _after_number(data: bytes, position: int, wire_type: int) -> int:
    if wire_type == 0:
        return _varint(data, position)[1]
    return position + _SIZES.get(wire_type, len(data))  # anything else is damaged: nothing after it is read


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits per byte, and where it ends."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            break
        shift += 7
    return value, position
