"""The books, and the file that an explanation is kept in."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.explanation import COLUMNS, Explanation, Ledger
from tests.handmade import explanation, ledger

ROOT = Path(__file__).parent.parent
TYPES = (np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)
NAMES = st.text(max_size=12) | st.sampled_from(
    ["a/b", "../up", "/root", "file", "a.npy", "", "metadata", "C:\\x", "\0"]
)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal in type, shape and every bit: NaN payloads and the sign of zero included."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def same_groups(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return list(left) == list(right) and all(same(left[name], right[name]) for name in left)


def same_ledgers(left: Ledger, right: Ledger) -> bool:
    whole = same(left.signed, right.signed) and same(left.absolute, right.absolute)
    nodes = list(left.by_node) == list(right.by_node)
    return whole and nodes and all(same_ledgers(left.by_node[name], right.by_node[name]) for name in left.by_node)


@st.composite
def arrays(draw):
    """Any bits of any type and small shape."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    if dtype == np.bool_:
        return draw(hnp.arrays(np.bool_, shape))
    return draw(hnp.arrays(f"u{dtype.itemsize}", shape)).view(dtype)


def example(**changes) -> Explanation:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    return explanation(values, -values, **changes)


# The ledger


def test_ledger_columns_are_found_by_name():
    signed = np.arange(12.0).reshape(2, 6)
    books = Ledger(signed, signed)
    assert COLUMNS == ("start", "inputs", "bias", "constant", "stabiliser", "dead")
    for index, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(getattr(books, name), [index, 6 + index])


def test_ledger_error_is_relative_to_the_largest_magnitude():
    signed = np.array([[1.0, 0.5, 0.25, 0.125, 0.0625, 0.0625], [1.0, 0.5, 0.25, 0.125, 0.0, 0.0]])
    absolute = np.array([[1.0] * 6, [1.0, 4.0, 1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(Ledger(signed, absolute).error, [0.0, 0.125 / 4])


def test_ledger_error_of_nothing_is_zero_but_a_gap_without_size_is_not():
    signed = np.zeros((2, 6))
    signed[1, 0] = 1.0
    np.testing.assert_array_equal(Ledger(signed, np.zeros((2, 6))).error, [0.0, np.inf])


@pytest.mark.parametrize(
    ("signed", "absolute"),
    [
        (np.zeros((2, 5)), np.zeros((2, 5))),
        (np.zeros(6), np.zeros(6)),
        (np.zeros((2, 6), np.float32), np.zeros((2, 6))),
        (np.zeros((2, 6)), np.zeros((3, 6))),
    ],
)
def test_ledger_refuses_wrong_arrays(signed, absolute):
    with pytest.raises(InputError, match="Ledger"):
        Ledger(signed, absolute)


def test_repr_is_one_informative_line():
    text = repr(example())
    assert "\n" not in text
    for part in ("'default'", "'logits'", "x: [2, 3]", "2 examples", "closing error"):
        assert part in text


# What importing costs


def test_the_module_needs_numpy_only():
    code = (
        "import sys, types; package = types.ModuleType('backtrace_jax'); package.__path__ = ['backtrace_jax']; "
        "sys.modules['backtrace_jax'] = package; import backtrace_jax.explanation; "
        "print(sorted({'jax', 'onnx', 'matplotlib', 'PIL', 'tqdm'} & set(sys.modules)), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


# The file


@given(
    names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
    data=st.data(),
    targeted=st.booleans(),
    nodes=st.lists(NAMES, max_size=3, unique=True),
    mode=st.text(max_size=5) | st.floats() | st.none(),
)
def test_round_trip_is_exact(tmp_path_factory, names, data, targeted, nodes, mode):
    groups = [{name: data.draw(arrays()) for name in names} for _ in range(4)]
    before = Explanation(
        *groups[:3],
        output=names[0],
        target=np.array([3, -1]) if targeted else None,
        layers=groups[3],
        ledger=ledger(nodes=tuple(nodes)),
        fingerprint={"mode": mode, "nested": {"list": [1, 2.5, None, True]}},
    )
    path = tmp_path_factory.mktemp("saved") / "any name.explanation"
    before.save(path)
    after = Explanation.load(path)
    for group in ("relevance", "inputs", "outputs", "layers"):
        assert same_groups(getattr(before, group), getattr(after, group))
    assert same_ledgers(before.ledger, after.ledger)
    assert after.target is None if before.target is None else same(before.target, after.target)
    assert (after.output, repr(after.fingerprint)) == (before.output, repr(before.fingerprint))
    assert os.listdir(path.parent) == [path.name]


def test_strided_and_big_endian_arrays_come_back_equal(tmp_path):
    values = np.arange(24, dtype=">f4").reshape(2, 3, 4).transpose(0, 2, 1)[:, ::2]
    bfloat = values.astype(ml_dtypes.bfloat16).transpose(0, 2, 1)
    example(layers={"strided": values, "bfloat": bfloat}).save(tmp_path / "e.npz")
    layers = Explanation.load(tmp_path / "e.npz").layers
    np.testing.assert_array_equal(layers["strided"], values)
    assert same(layers["bfloat"], np.ascontiguousarray(bfloat))


def test_the_same_explanation_gives_the_same_bytes(tmp_path):
    example().save(tmp_path / "one")
    example().save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_plain_numpy_can_read_the_file(tmp_path):
    example().save(tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        assert json.loads(file["metadata"].tobytes())["names"]["relevance"] == ["x"]
        np.testing.assert_array_equal(file["relevance.0"], example().relevance["x"])


def test_a_failure_half_way_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "e.npz"
    example().save(path)
    before = path.read_bytes()

    def fail(entry, array, **options):
        entry.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(SettingError, match=r"e\.npz.*No space left"):
        example().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["e.npz"]


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupt)
    with pytest.raises(KeyboardInterrupt):
        example().save(tmp_path / "e.npz")
    assert os.listdir(tmp_path) == []


def test_saved_files_have_the_permissions_of_any_other_file(tmp_path):
    (tmp_path / "plain").touch()
    example().save(tmp_path / "e.npz")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "e.npz")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("name", ["no such folder/e.npz", ""])
def test_places_that_cannot_be_written_are_named(tmp_path, name):
    with pytest.raises(SettingError, match="cannot write") as caught:
        example().save(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(SettingError, match="fingerprint"):
        example(fingerprint={"mode": object()}).save(tmp_path / "e.npz")
    assert os.listdir(tmp_path) == []


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(SettingError, match=r"layers\.0.*pickled"):
        example(layers={"odd": np.array([{}, []], object)}).save(tmp_path / "e.npz")


def rewritten(source: Path, target: Path, *, drop: str = "", metadata: dict | None = None, **arrays) -> None:
    """Copy a saved file with entries dropped, replaced, or fields of its metadata changed."""
    with np.load(source) as file:
        entries = {key: file[key] for key in file if key != drop}
    if metadata is not None:
        changed = json.loads(entries["metadata"].tobytes()) | metadata
        entries["metadata"] = np.frombuffer(json.dumps(changed).encode(), np.uint8)
    np.savez(target, **(entries | arrays))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"drop": "metadata"}, "metadata"),
        ({"drop": "relevance.0"}, "relevance.0"),
        ({"drop": "ledger.signed"}, "ledger.signed"),
        ({"drop": "nodes.signed"}, "nodes.signed"),
        ({"metadata": {"format": "something else"}}, "another program"),
        ({"metadata": {"version": 2}}, "version 2"),
        ({"metadata": {"names": []}}, ""),
        ({"metadata": {"nodes": ["a", "b", "c"]}}, ""),
        ({"metadata": {"dtypes": {"relevance.0": "no such type"}}}, "no such type"),
        ({"ledger.signed": np.zeros((2, 4))}, "Ledger.signed"),
    ],
)
def test_altered_files_are_refused(tmp_path, changes, reason):
    example(ledger=ledger(nodes=("a", "b"))).save(tmp_path / "good.npz")
    rewritten(tmp_path / "good.npz", tmp_path / "bad.npz", **changes)
    with pytest.raises(InputError, match=r"Explanation\.save") as caught:
        Explanation.load(tmp_path / "bad.npz")
    assert str(tmp_path / "bad.npz") in str(caught.value)
    assert reason in str(caught.value)


def write_foreign(path: Path, kind: str) -> None:
    """Something that is not a saved explanation."""
    example().save(path)
    whole = path.read_bytes()
    if kind in ("array", "other archive"):
        with path.open("wb") as file:
            np.save(file, np.zeros(3)) if kind == "array" else np.savez(file, x=np.zeros(3))
    elif kind == "zip of text":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("metadata", "{}")
    else:
        # The first entry's data begin after its local header; flipping a bit there breaks its checksum.
        flipped = bytearray(whole)
        flipped[200] ^= 1
        contents = {"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2], "bit flip": bytes(flipped)}
        path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "bit flip", "array", "other archive", "zip of text"])
def test_foreign_and_broken_files_are_refused(tmp_path, kind):
    path = tmp_path / "e.npz"
    write_foreign(path, kind)
    with pytest.raises(InputError, match=r"e\.npz.*Explanation\.save"):
        Explanation.load(path)


@pytest.mark.parametrize("name", ["missing.npz", ""])
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(InputError, match="cannot read") as caught:
        Explanation.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
