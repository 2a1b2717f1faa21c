"""Arrays on the disk: read in slices, and nothing of a hostile file is run or believed."""

from __future__ import annotations

import json
import pickle
import zipfile

import numpy as np
import pytest
import zarr

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources import stored
from tests.sources.reading import FLOAT, ROW, everything, inputs, opened

COUNT = 20
X = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)
LABELS = np.arange(COUNT)


def saved(folder, **arrays):
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


def packed(folder):
    np.savez_compressed(folder / "rows.npz", x=X, label=LABELS)
    return folder / "rows.npz"


def group(folder):
    made = zarr.open_group(folder / "rows.zarr", mode="w")
    made.create_array("x", shape=X.shape, dtype="f4", chunks=(3, 3), shards=(6, 3))[:] = X
    made.create_array("label", data=LABELS, chunks=(4,))
    return made


KINDS = {
    "npz": lambda folder: saved(folder, x=X, label=LABELS),
    "packed npz": packed,
    "zarr": lambda folder: group(folder),
    "zarr folder": lambda folder: group(folder) and str(folder / "rows.zarr"),
    "dict of files": lambda folder: [np.save(folder / "x.npy", X)] and {"x": folder / "x.npy", "label": LABELS},
    "dict of zarr": lambda folder: {"x": group(folder)["x"], "label": LABELS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_arrays_are_those_that_were_stored(tmp_path, kind):
    found = everything(opened(KINDS[kind](tmp_path), carry="label"))
    assert found.groups[0].inputs["x"].tobytes() == X.tobytes()
    assert found.carried["label"].tolist() == LABELS.tolist()


def test_arrays_without_names_come_in_the_order_of_the_inputs(tmp_path):
    np.savez(tmp_path / "two.npz", X, np.asfortranarray(X * 2))
    declared = [*ROW, InputType("z", (None, 3), FLOAT)]
    found = opened(tmp_path / "two.npz", declared).read(3, 9).groups[0].inputs
    assert found["x"].tobytes() == X[3:9].tobytes()
    assert found["z"].tobytes() == (X * 2)[3:9].tobytes()
    np.save(tmp_path / "x.npy", X)
    assert inputs(tmp_path / "x.npy") == inputs(group(tmp_path)["x"]) == X.tobytes()


def test_what_is_stored_as_it_is_is_mapped_not_read(tmp_path):
    for path in (saved(tmp_path, x=X), tmp_path / "x.npy"):
        np.save(tmp_path / "x.npy", X)
        found = stored.arrays_in(path)
        array = found["x"] if isinstance(found, dict) else found
        assert isinstance(array, np.memmap)
        assert array.tobytes() == X.tobytes()


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def objects(folder):
    np.save(folder / "x.npy", np.array([Bomb()], object), allow_pickle=True)
    return folder / "x.npy"


def claims(folder):
    with open(folder / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3)})
    return folder / "x.npy"


def archive(folder, *, compression=zipfile.ZIP_STORED, names=("x.npy",), content=None):
    with zipfile.ZipFile(folder / "x.npz", "w", compression) as file:
        for name in names:
            file.writestr(name, content or objects(folder).read_bytes())
    return folder / "x.npz"


def changed_zarr(folder, change):
    """A Zarr 2 array whose chunk is a pickle, and whose metadata are changed."""
    made = zarr.create_array(
        folder / "x.zarr", shape=(4, 3), chunks=(4, 3), dtype="f4", zarr_format=2, compressors=None
    )
    made[:] = 1
    path = folder / "x.zarr" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (folder / "x.zarr" / "0.0").write_bytes(pickle.dumps(Bomb()))
    return folder / "x.zarr"


HOSTILE = {
    "objects": (objects, "nothing is unpickled"),
    "a claim": (claims, "claims more numbers"),
    "objects in an archive": (archive, "nothing is unpickled"),
    "packed objects": (lambda d: archive(d, compression=zipfile.ZIP_DEFLATED), "no arrays of numbers"),
    "a bomb": (
        lambda d: archive(d, compression=zipfile.ZIP_DEFLATED, content=b"\0" * (stored.ALWAYS + 1)),
        "would unpack",
    ),
    "two of one name": (lambda d: archive(d, names=("x.npy", "x")), "nothing is unpickled"),
    "a damaged list": (
        lambda d: (
            [packed(d), (d / "rows.npz").write_bytes((d / "rows.npz").read_bytes().replace(b"PK\1\2", b"PK\1\1"))]
            and d / "rows.npz"
        ),
        "cannot be read as .npz",
    ),
    "no archive": (lambda d: [(d / "x.npz").write_bytes(b"PK\3\4" + b"x" * 99)] and d / "x.npz", "cannot be read"),
    "text": (lambda d: [(d / "x.npy").write_text("1,2,3")] and d / "x.npy", "no array of numbers"),
    "zarr that unpickles": (lambda d: changed_zarr(d, {"filters": [{"id": "pickle"}]}), "not known to be safe|Zarr"),
    "behind another filter": (
        lambda d: changed_zarr(d, {"filters": [{"id": "shuffle", "elementsize": 4}, {"id": "pickle"}]}),
        "not known to be safe|Zarr",
    ),
    "zarr as a compressor": (lambda d: changed_zarr(d, {"compressor": {"id": "pickle"}}), "not known to be safe|Zarr"),
    "zarr of huge chunks": (lambda d: changed_zarr(d, {"shape": [2**40, 3], "chunks": [2**40, 3]}), "far more than it"),
    "zarr of objects": (lambda d: changed_zarr(d, {"dtype": "|O", "filters": [{"id": "pickle"}]}), "Zarr|no numbers"),
    "damaged zarr": (lambda d: changed_zarr(d, {"shape": "x"}), "cannot be read as Zarr"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, monkeypatch, case):
    if case == "a bomb":
        monkeypatch.setattr("backtrace_jax.runtime.unpacking.ALWAYS", 2**16)
        monkeypatch.setattr(stored, "ALWAYS", 2**17)
    make, said = HOSTILE[case]
    with pytest.raises(InputError, match=said):
        everything(opened(make(tmp_path)))


def test_a_damaged_chunk_is_named(tmp_path):
    made = zarr.create_array(tmp_path / "x.zarr", shape=X.shape, dtype="f4", chunks=(5, 3))
    made[:] = X
    (tmp_path / "x.zarr" / "c" / "1" / "0").write_bytes(b"damaged")
    source = opened(tmp_path / "x.zarr")
    assert source.read(0, 5).groups[0].inputs["x"].tobytes() == X[:5].tobytes()
    with pytest.raises(InputError, match="array 'x' cannot be read"):
        source.read(5, 10)
