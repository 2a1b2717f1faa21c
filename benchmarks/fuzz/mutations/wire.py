"""Bytes: flipped, cut, spliced, and messages inside messages."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from ..corpus import node
from .picking import Generator, pick


def flipped(data: bytes, rng: Generator) -> bytes:
    """Some bytes are others."""
    array = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(len(array), size=int(pick(rng, (1, 2, 8, 64))))
    array[places] = rng.integers(256, size=len(places))
    return array.tobytes()


def truncated(data: bytes, rng: Generator) -> bytes:
    """The file ends early."""
    return data[: int(rng.integers(len(data)))]


def spliced(data: bytes, rng: Generator) -> bytes:
    """A part cut out, put in again elsewhere, or repeated."""
    low, high = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    place = int(rng.integers(len(data) + 1))
    return pick(rng, (data[:low] + data[high:], data[:place] + data[low:high] + data[place:], data + data[low:] * 3))


def stuffed(data: bytes, rng: Generator) -> bytes:
    """A number with all its bits set, or noise, in the middle."""
    place = int(rng.integers(len(data) + 1))
    noise = rng.integers(256, size=20, dtype=np.uint8).tobytes()
    return data[:place] + pick(rng, (b"\xff" * 9 + b"\x01", b"\x80" * 40, noise, b"\0" * 1000)) + data[place:]


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field on the wire."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def nested(data: bytes, rng: Generator) -> bytes:
    """An If in an If in an If: graph 7 -> node 1 -> attribute 5 -> g 6."""
    inner = node("Identity", ["yes"], ["t"]).SerializeToString()
    other = _field(1, inner) + _field(12, _field(1, b"t"))
    for _ in range(int(pick(rng, (2, 20, 30, 34, 200, 10_000)))):
        branches = {b"then_branch": _field(1, inner) + _field(12, _field(1, b"t")), b"else_branch": other}
        graphs = [_field(1, name) + b"\xa0\x01\x05" + _field(6, branch) for name, branch in branches.items()]
        attributes = b"".join(_field(5, each) for each in graphs)
        inner = _field(1, b"yes") + _field(2, b"t") + _field(4, b"If") + attributes
    yes = numpy_helper.from_array(np.array(True), "yes").SerializeToString()
    return data + _field(7, _field(1, inner) + _field(5, yes))


def crowded(data: bytes, rng: Generator) -> bytes:
    """Very many empty messages in few bytes."""
    count = int(pick(rng, (1000, 200_000)))
    return data + _field(7, _field(int(pick(rng, (1, 5, 11, 12, 13))), b"") * count)
