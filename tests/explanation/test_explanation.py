"""The books, and the file that an explanation is kept in."""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
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

from backtrace_jax.errors import InputError, MissingNameError, SettingError
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import CHANNELS, COLUMNS, Channel, Ledger
from tests.handmade import SIZE, digits, explanation, ledger

ROOT = Path(__file__).parents[2]
TYPES = (np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn)
FLOATS = tuple(kind for kind in TYPES if np.dtype(kind).kind in "fV")
BOOKS = [ledger(seed=seed) for seed in range(6)]
NAMES = st.text(max_size=12) | st.sampled_from(
    ["a/b", "../up", "/root", "file", "a.npy", "", "metadata", "C:\\x", "\0"]
)


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal in type, shape and every bit: NaN payloads and the sign of zero included."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def same_groups(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return list(left) == list(right) and all(same(left[name], right[name]) for name in left)


def same_ledgers(left: Ledger | None, right: Ledger | None) -> bool:
    if left is None or right is None:
        return left is right
    whole = same(left.signed, right.signed) and same(left.absolute, right.absolute)
    nodes = list(left.by_node) == list(right.by_node)
    return whole and nodes and all(same_ledgers(left.by_node[name], right.by_node[name]) for name in left.by_node)


def assert_same(left: Explanation, right: Explanation) -> None:
    """Every array bit for bit, every name, and the fingerprint as JSON holds it."""
    for group in ("relevance", "inputs", "outputs", "layers"):
        assert same_groups(getattr(left, group), getattr(right, group)), group
    for name in ("target", "completeness_error"):
        one, other = getattr(left, name), getattr(right, name)
        assert one is other if one is None or other is None else same(one, other), name
    assert same_ledgers(left.ledger, right.ledger)
    assert list(left.channels) == list(right.channels)
    for one, other in zip(left.channels.values(), right.channels.values(), strict=True):
        assert same_groups(one.relevance, other.relevance)
        assert same_groups(one.layers, other.layers)
        assert same_ledgers(one.ledger, other.ledger)
    assert left.output == right.output
    assert json.dumps(left.fingerprint) == json.dumps(right.fingerprint)


@st.composite
def arrays(draw, shape, types=TYPES, *, finite=False):
    """Any bits of any type."""
    dtype = np.dtype(draw(st.sampled_from(types)))
    if dtype == np.bool_:
        return draw(hnp.arrays(np.bool_, shape))
    found = draw(hnp.arrays(f"u{dtype.itemsize}", shape)).view(dtype)
    return np.where(np.isfinite(found), found, dtype.type(0)) if finite else found


def drawn(draw) -> Explanation:
    """An explanation with any of the parts there may be, of any names and any numbers that a part may hold."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    nodes = tuple(draw(st.lists(NAMES, max_size=3, unique=True)))
    rest = st.lists(st.integers(1, 3), max_size=3).map(lambda sizes: (SIZE, *sizes))

    def group(types=TYPES) -> dict[str, np.ndarray]:
        return {name: draw(arrays(draw(rest), types)) for name in names}

    inputs, outputs, layers = group(), group(FLOATS), [*(group(FLOATS) for _ in range(3))]
    relevance = [{name: draw(arrays(inputs[name].shape, FLOATS, finite=True)) for name in names} for _ in range(3)]
    books = [Ledger(each.signed, each.absolute, dict(zip(nodes, BOOKS[3:], strict=False))) for each in BOOKS[:3]]
    kept = draw(st.sampled_from([books[:2], [None, None]]))
    channels = {name: Channel(*each) for name, *each in zip(CHANNELS, relevance[:2], layers[:2], kept, strict=True)}
    return Explanation(
        relevance[2],
        inputs,
        outputs,
        output=names[0],
        target=draw(st.none() | st.just(np.array([0, -1]))),
        layers=layers[2],
        ledger=draw(st.none() | st.just(books[2])),
        fingerprint={"mode": draw(st.text(max_size=5)), "nested": {"list": [1, draw(st.floats()), None, True]}},
        channels=draw(st.sampled_from([channels, {}])),
        completeness_error=draw(st.none() | arrays((SIZE,), FLOATS)),
    )


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


def test_channels_are_found_by_name_or_said_to_be_missing():
    found = digits("contrastive")
    for name, relevance in (("positive", found.positive), ("negative", found.negative)):
        assert relevance is found.channels[name].relevance
    for name in CHANNELS:
        with pytest.raises(InputError, match=f"'default'.*{name}.*contrastive"):
            getattr(example(), name)


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


@given(data=st.data())
def test_round_trip_is_exact(tmp_path_factory, data):
    before = drawn(data.draw)
    path = tmp_path_factory.mktemp("saved") / "any name.npz"
    before.save(path)
    assert_same(before, Explanation.load(path))
    assert os.listdir(path.parent) == [path.name]


def test_parts_that_do_not_apply_are_absent_to_whoever_looks():
    found = digits("default")
    with pytest.raises(AttributeError, match="mode 'default' has no positive relevance apart"):
        _ = found.positive
    assert not hasattr(found, "positive")
    assert getattr(found, "negative", None) is None
    assert "relevance" in dir(found)
    named = dict(inspect.getmembers(found))
    assert named["relevance"] is found.relevance
    assert "positive" not in named
    assert hasattr(digits("contrastive"), "positive")


@pytest.mark.parametrize("mode", ["default", "contrastive"])
def test_explanations_are_copied_and_pickled(mode):
    found = digits(mode)
    for other in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert_same(found, other)
        with pytest.raises(MissingNameError):
            _ = other.layers["nothing"]


@pytest.mark.parametrize("mode", ["default", "contrastive", "gradient", "integrated-gradients"])
def test_every_kind_of_explanation_is_kept(tmp_path, mode):
    before = digits(mode)
    before.save(tmp_path / "e.npz")
    after = Explanation.load(tmp_path / "e.npz")
    assert_same(before, after)
    assert repr(after) == repr(before)
    assert after.fingerprint == before.fingerprint  # JSON values from the start
    kinds = (before.ledger is not None, bool(before.channels), before.completeness_error is not None)
    expected = {"gradient": (False, False, False), "integrated-gradients": (False, False, True)}
    assert kinds == expected.get(mode, (True, mode == "contrastive", False))


def test_files_of_version_one_are_read(tmp_path):
    before = example(ledger=ledger(nodes=("a", "b")))
    before.save(tmp_path / "new.npz")
    groups = {group: list(getattr(before, group)) for group in ("relevance", "inputs", "outputs", "layers")}
    rewritten(tmp_path / "new.npz", tmp_path / "old.npz", metadata={"version": 1, "names": groups, "nodes": ["a", "b"]})
    assert_same(before, Explanation.load(tmp_path / "old.npz"))


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
    with pytest.raises(SettingError, match=r"layers\['odd'\] holds object"):
        example(layers={"odd": np.array([{}, []], object)}).save(tmp_path / "e.npz")


def rewritten(source: Path, target: Path, *, drop: str = "", metadata=None, names=None, **arrays) -> None:
    """Copy a saved file with entries dropped, replaced, or fields of its metadata or of the names in it changed."""
    with np.load(source) as file:
        entries = {key: file[key] for key in file if key != drop}
    if metadata is not None or names is not None:
        found = json.loads(entries["metadata"].tobytes())
        changed = found | {"names": found["names"] | (names or {})} | (metadata or {})
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
        ({"drop": "positive.relevance.0"}, "positive.relevance.0"),
        ({"drop": "negative.ledger.absolute"}, "negative.ledger.absolute"),
        ({"metadata": {"version": 4}}, "version 4"),
        ({"metadata": {"version": 0}}, "version 0"),
        ({"metadata": {"names": []}}, ""),
        ({"metadata": {"names": {"relevance": ["x"]}}}, "inputs"),
        ({"names": {"nodes": ["a", "b", "c"]}}, ""),
        ({"names": {"positive.nodes": ["a"]}}, "positive.nodes.absolute"),
        ({"metadata": {"dtypes": {"relevance.0": "no such type"}}}, "no such type"),
        ({"ledger.signed": np.zeros((2, 4))}, "Ledger.signed"),
    ],
)
def test_altered_files_are_refused(tmp_path, changes, reason):
    channels = {name: Channel(example().relevance, {}, ledger()) for name in CHANNELS}
    example(ledger=ledger(nodes=("a", "b")), channels=channels).save(tmp_path / "good.npz")
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
