"""Archives: saved explanations (.npz) and Keras models (.keras, .h5), member by member, or as the bytes they are."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from .picking import ABSURD, Generator, pick
from .wire import flipped, spliced, stuffed, truncated

Members = list[tuple[str, bytes]]

_NAMES = ("", "metadata.npy", "config.json", "../../x", "/x", "x" * 5000, "relevance.0.npy", "\x1b[2J", "assets/x")
_CODE = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}}}
_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2, 2**31, 2**63, 10**400, 1e308, float("nan"), "", "x", "x" * 10_000, "\x1b[2J", "../x"),
    *([], {}, [[]], [1, 2, 3], {"x": 1}, [None], "float64", "object", "Dense", "tanh", _CODE, [_CODE], "e" * 300),
)


def mutate_archive(data: bytes, rng: Generator) -> tuple[bytes, list[str]]:
    """A hostile archive from an honest one, and the names of what was done to it."""
    names = []
    for _ in range(int(rng.integers(1, 4))):
        change = pick(rng, _ALL)
        with contextlib.suppress(Exception):  # an earlier mutation left nothing to pick
            data = change(data, rng)
        names.append(change.__name__)
    return data, names


def _members(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def _written(members: Members, deflated: bool = False) -> bytes:
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", kind) as archive:
        warnings.simplefilter("ignore")  # two of one name are meant
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


def members_moved(data: bytes, rng: Generator) -> bytes:
    """A member dropped, doubled, renamed, or with the content of another."""
    members, choice = _members(data), rng.integers(4)
    place, other = (int(rng.integers(len(members))) for _ in range(2))
    name, content = members[place]
    if choice == 0:
        del members[place]
    elif choice == 1:
        members.append((name, members[other][1]))
    elif choice == 2:
        members[place] = pick(rng, _NAMES), content
    else:
        members[place] = name, members[other][1]
    return _written(members, deflated=rng.random() < 0.5)


def bomb(data: bytes, rng: Generator) -> bytes:
    """A member that unpacks to very much more than it holds."""
    members = _members(data)
    place, size = int(rng.integers(len(members))), int(pick(rng, (2**16, 2**22, 2**27)))
    members[place] = members[place][0], members[place][1] + b"\0" * size
    return _written(members, deflated=True)


def header(data: bytes, rng: Generator) -> bytes:
    """An array that claims another shape, type or order than it has."""
    members = _members(data)
    places = [i for i, (_, content) in enumerate(members) if content.startswith(b"\x93NUMPY")]
    place = pick(rng, places)
    array = np.load(io.BytesIO(members[place][1]))
    shape = list(array.shape)
    choice = rng.integers(3)
    if choice == 0 and shape:
        shape[int(rng.integers(len(shape)))] = int(pick(rng, ABSURD))
    elif choice == 1:
        shape += [int(pick(rng, ABSURD))] * int(pick(rng, (1, 2, 40)))
    kinds = (array.dtype.str, array.dtype.str, "<f8", "<i4", ">f4", "|O", "|b1", "<U1000000", "|V0", "<c8", "<M8[s]")
    claimed = {"descr": pick(rng, kinds), "fortran_order": bool(rng.random() < 0.3), "shape": tuple(shape)}
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, claimed)
    members[place] = members[place][0], file.getvalue() + array.tobytes()
    return _written(members)


def configuration(data: bytes, rng: Generator) -> bytes:
    """A value in a configuration replaced, dropped or renamed; in an .h5 it is an attribute."""
    if not data.startswith(b"PK"):
        return _in_h5(data, rng)
    members = _members(data)
    place = pick(rng, [i for i, (name, _) in enumerate(members) if name.endswith(".json") or "metadata" in name])
    name, content = members[place]
    start = content.index(b"{", 64 if content.startswith(b"\x93NUMPY") else 0)
    value = _damaged(json.loads(content[start:]), rng)
    text = json.dumps(value).encode()
    if start:
        file = io.BytesIO()
        np.save(file, np.frombuffer(text, np.uint8))
        text = file.getvalue()
    members[place] = name, text
    return _written(members)


def _in_h5(data: bytes, rng: Generator) -> bytes:
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as archive:
        archive.attrs["model_config"] = json.dumps(_damaged(json.loads(str(archive.attrs["model_config"])), rng))
    return file.getvalue()


def _damaged(value: Any, rng: Generator) -> Any:
    for _ in range(int(pick(rng, (1, 1, 1, 3)))):
        holder, key = pick(rng, list(_places(value)))
        choice = rng.random()
        if choice < 0.7:
            holder[key] = pick(rng, _VALUES)
        elif choice < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            holder[pick(rng, ("", "name", "config", "class_name", "x" * 1000))] = holder.pop(key)
        else:
            holder[:] = holder * int(pick(rng, (2, 1000)))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in nested lists and dicts, as what holds it and where."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])


def weights(data: bytes, rng: Generator) -> bytes:
    """A dataset of an .h5, by itself or in an archive, of another shape or type, or gone."""
    if data.startswith(b"PK"):
        members = _members(data)
        place = pick(rng, [i for i, (name, _) in enumerate(members) if name.endswith(".h5")])
        members[place] = members[place][0], weights(members[place][1], rng)
        return _written(members)
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as archive:
        found: dict[str, tuple[int, ...]] = {}
        archive.visititems(lambda name, item: found.update({name: item.shape}) if hasattr(item, "shape") else None)
        name = pick(rng, sorted(found))
        shape = pick(rng, ((), (1,), (2, 2), (2**20, 2**20), (0,), found[name]))
        kind = pick(rng, ("f4", "f8", "i8", "S5", "f2"))
        del archive[name]
        if rng.random() < 0.9:
            chunks = (1024,) * len(shape) if len(shape) == 2 and shape[0] > 2**16 else None
            archive.create_dataset(name, shape, kind, chunks=chunks, fillvalue=None if kind == "S5" else 3)
    return file.getvalue()


def contents(data: bytes, rng: Generator) -> bytes:
    """Bytes of one member, whose checksum is right again."""
    members = _members(data)
    place = int(rng.integers(len(members)))
    change = pick(rng, (flipped, truncated, spliced, stuffed))
    members[place] = members[place][0], change(members[place][1], rng)
    return _written(members)


_ALL = (
    *(members_moved, bomb, header, header, configuration, configuration, configuration, weights),
    *(contents, contents, flipped, truncated, spliced, stuffed),
)
