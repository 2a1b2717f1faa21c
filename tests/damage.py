"""Damage to saved explanations: of the archive, of the metadata, of the arrays; and all that is done with one."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError
from backtrace_jax.explanation import terminal
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import COLUMNS

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**70, 1.5, float("nan"), 1e308, "", "x" * 5000, "\x1b[31m\u202e\0\ud800<script>", [], {}),
    *([[]], {"x": 1}, ["x"], ["x", "x"], [["x"]], [None], "bfloat16", "object", "classification", "span-qa"),
    *("multi-class-segmentation", "binary-segmentation", "token-classification", "default", "contrastive"),
)
TYPES = ("f8", "f4", "f2", ">f4", "i8", "u1", "?", "c8", "U3", "S3", "M8[s]", "V4", "i4,f4")
NUMBERS = (0, 1, -1, 2**31, 1e30, 1e308, -1e308, 1e-320, float("nan"), float("inf"))


def damaged(random: Random, whole: bytes) -> bytes:
    """A saved explanation with one thing or two changed."""
    entries = _entries(whole)
    for _ in range(random.choice((1, 1, 2))):
        random.choice((_of_metadata, _of_metadata, _of_array, _of_array, _of_entries, _of_bytes))(random, entries)
    data = _archive(entries)
    return _of_file(random, data) if random.random() < 0.1 else data


def _entries(whole: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        return {name: file.read(name) for name in file.namelist()}


def _archive(entries: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return data.getvalue()


def _written(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.lib.format.write_array(data, array, allow_pickle=True)
    return data.getvalue()


def _of_metadata(random: Random, entries: dict[str, bytes]) -> None:
    try:
        metadata = json.loads(np.load(io.BytesIO(entries["metadata.npy"])).tobytes())
    except Exception:  # damaged before
        return
    spots = list(_spots(metadata))
    holder, key = random.choice(spots)
    action = random.choice(("odd", "odd", "odd", "drop", "copy"))
    if action == "drop":
        del holder[key]
    elif action == "copy":
        other, place = random.choice(spots)
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = random.choice(ODD)
    entries["metadata.npy"] = _written(np.frombuffer(json.dumps(metadata).encode(), np.uint8))


def _spots(value: Any):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in pairs:
        yield value, key
        yield from _spots(each)


def _of_array(random: Random, entries: dict[str, bytes]) -> None:
    name = random.choice([*entries])
    try:
        array = np.load(io.BytesIO(entries[name]))
    except Exception:  # damaged before
        return
    action = random.choice(("numbers", "numbers", "type", "shape", "swap", "object"))
    if action == "numbers" and array.size and array.dtype.kind in "fiu":
        array = array.copy()
        with np.errstate(all="ignore"):
            array.flat[random.randrange(array.size)] = np.float64(random.choice(NUMBERS)).astype(array.dtype)
    elif action == "type":
        array = np.zeros(array.shape, random.choice(TYPES))
    elif action == "shape":
        array = random.choice((array[None], array[:1], array[:0], array.ravel(), array[..., :1], array.T, array.sum()))
        array = np.asarray(array)
    elif action == "swap":
        entries[name] = entries[random.choice([*entries])]
        return
    else:
        array = np.array([{}, None], object)
    entries[name] = _written(array)


def _of_entries(random: Random, entries: dict[str, bytes]) -> None:
    name = random.choice([*entries])
    content = entries.pop(name)
    if random.random() < 0.7:
        entries[random.choice((f"{name}x", "relevance.99.npy", "../up.npy", "text", "positive.nodes.signed.npy"))] = (
            content
        )


def _of_bytes(random: Random, entries: dict[str, bytes]) -> None:
    name = random.choice([*entries])
    entries[name] = _of_file(random, entries[name])


def _of_file(random: Random, data: bytes) -> bytes:
    found, place = bytearray(data), random.randrange(min(len(data), random.choice((100, len(data)))))
    kind = random.choice(("flip", "cut", "insert", "repeat"))
    if kind == "flip":
        found[place] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del found[place:]
    elif kind == "insert":
        found[place:place] = random.randbytes(random.choice((1, 7)))
    else:
        found[place:place] = found[place : place + 40]
    return bytes(found)


def use(found: Explanation, folder: Path) -> None:
    """Everything that can be done with an explanation; an error of the library is an answer, any other is not."""
    assert "\x1b" not in repr(found)
    assert "<script>" not in found._repr_html_()
    assert {len(found), *map(len, found.inputs.values())} == {len(found)}
    assert {type(found.mode), type(found.task)} == {str}
    found.save(folder / "again.npz")
    for ledger in filter(None, [found.ledger, *(channel.ledger for channel in found.channels.values())]):
        assert "examples" in repr(ledger)
        assert {ledger.error.shape, *(getattr(ledger, column).shape for column in COLUMNS)} == {(len(found),)}
    calls = [lambda: found.positive, lambda: found.negative, lambda: terminal.batch(found)]
    for example in (0, -1):
        calls += [partial(terminal.summary, found, example), partial(terminal.layers, found, example)]
    calls += [partial(found.plot, -1, input=name) for name in found.relevance]
    for call in calls:
        with suppress(BacktraceError):
            call()
