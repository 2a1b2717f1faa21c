"""Exported explainers: the same bytes and the same errors, without importers or frameworks, from untrusted files."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export
from onnx import TensorProto

from backtrace_jax import Explainer, Rule, Selector, composite, mode
from backtrace_jax.engine import compile as compiling
from backtrace_jax.engine import pieces
from backtrace_jax.engine.exported import Function, export_function
from backtrace_jax.errors import BacktraceError, InputError, SettingError
from backtrace_jax.explainer import loading
from backtrace_jax.explainer.loading import _digest
from backtrace_jax.explainer.values import Reading, Writing
from backtrace_jax.ir import Eqn, Graph, Var
from tests import tiny
from tests.tiny import network, node

ROOT = Path(__file__).parents[2]
X = tiny.images()
RECURRENT = network(
    [node("LSTM", ["s", "w", "r"], ["all", "y"], hidden_size=4)],
    {"s": (TensorProto.FLOAT, [5, "batch", 3])},
    w=tiny.random(1, 16, 3),
    r=tiny.random(1, 16, 4, seed=1),
)
LOOKUP = network(
    [
        node("Gather", ["t", "ids"], ["e"]),
        node("ReduceMean", ["e", "axes"], ["m"], keepdims=0),
        node("Gemm", ["m", "w"], ["y"]),
    ],
    {"ids": (TensorProto.INT64, ["batch", 6])},
    t=tiny.random(9, 4),
    axes=np.array([1]),
    w=tiny.random(4, 3),
)
MIXING = network(
    [
        node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        node("Sub", ["x", "m"], ["c"]),
        node("Gemm", ["c", "w"], ["y"]),
    ],
    {"x": (TensorProto.FLOAT, ["batch", 3])},
    axes=np.array([0]),
    w=tiny.random(3, 2),
)


def exported(explainer, path, inputs, **asked):
    explainer.export(path, inputs, **asked)
    return Explainer.load(path)


def assert_same(one, other):
    assert one.fingerprint == other.fingerprint
    assert (one.output, one.warnings, list(one.layers)) == (other.output, other.warnings, list(other.layers))
    for part in ("relevance", "outputs", "layers", "inputs"):
        found, expected = getattr(one, part), getattr(other, part)
        assert {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected.items()}, part
    assert np.array_equal(one.target, other.target)
    if one.ledger is not None:
        assert one.ledger.signed.tobytes() == other.ledger.signed.tobytes()
        assert list(one.ledger.by_node) == list(other.ledger.by_node)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "explainer.npz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a file."""
    path = tmp_path_factory.mktemp("exported") / "whole.npz"
    Explainer(tiny.convolutional(), chunk=8).export(path, X)
    return path.read_bytes()


CASES = {
    "default": (tiny.convolutional, X, {"layers": "all"}, {"target": 1}),
    "contrastive": (tiny.convolutional, X, {"mode": "contrastive"}, {}),
    "options": (tiny.convolutional, X, {"mode": mode("lrp-gamma", gamma=0.1), "chunk": 8}, {"target": [0, 1, 2]}),
    "path": (tiny.convolutional, X, {"mode": "integrated-gradients", "prepare": False}, {"baseline": X[0]}),
    "audit": (tiny.convolutional, X, {"dtype": "float64", "ledger": None}, {"against": 2, "target": 1}),
    "start": (tiny.convolutional, X, {}, {"start": lambda outputs: np.ones_like(outputs)}),
    "condition": (tiny.convolutional, X, {}, {"conditions": {"hidden": [0, 2]}}),
    "recurrent": (lambda: RECURRENT, tiny.random(5, 2, 3), {"batch_axis": 1, "mode": "lrp-epsilon"}, {}),
    "tokens": (lambda: LOOKUP, np.arange(12).reshape(2, 6) % 9, {"mode": "attnlrp"}, {"target": 0}),
}


@pytest.fixture
def untraced(monkeypatch):
    """From when it is called on, nothing is traced."""

    def traced(*_, **__):
        raise AssertionError("this was not exported")

    return lambda: monkeypatch.setattr(compiling, "make_explain", traced)


@pytest.mark.parametrize("name", CASES)
def test_what_is_loaded_gives_the_same_bytes_and_is_not_traced(name, path, untraced):
    model, inputs, settings, asked = CASES[name]
    explainer = Explainer(model(), **settings)
    loaded, expected = exported(explainer, path, inputs, **asked), explainer(inputs, **asked)
    untraced()
    assert_same(loaded(inputs, **asked), expected)


def test_what_else_is_asked_of_it_is_traced(path, untraced):
    explainer = Explainer(tiny.convolutional())
    loaded, many = exported(explainer, path, X), explainer.each(X, [1, 4])
    for one, other in zip(loaded.each(X, [1, 4]), many, strict=True):
        assert_same(one, other)
    assert_same(loaded(X, target=1, against=2), explainer(X, target=1, against=2))
    untraced()
    with pytest.raises(AssertionError, match="not exported"):
        Explainer.load(path)(X, target=1, against=2)


def test_functions_in_pieces(path, monkeypatch, untraced):
    for name, size in (("WHOLE", 50), ("SHORTEST", 30), ("LONGEST", 120)):
        monkeypatch.setattr(pieces, name, size)
    explainer = Explainer(tiny.convolutional(), chunk=8)
    loaded, expected = exported(explainer, path, X), explainer(X)
    untraced()
    assert_same(loaded(X), expected)


SCRIPT = """
import hashlib, sys
FORBIDDEN = ("onnx", "torch", "keras", "tensorflow", "flax", "onnxscript")
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN or name.startswith("backtrace_jax.importers.onnx"):
            raise ImportError(name)
sys.meta_path.insert(0, Forbid())
import numpy as np
from backtrace_jax import Explainer
found = Explainer.load(sys.argv[1])(np.load(sys.argv[2]), target=1)
assert not set(FORBIDDEN) & set(sys.modules)
print(hashlib.sha256(found.relevance["x"].tobytes()).hexdigest())
"""


@pytest.mark.optimised
def test_neither_importers_nor_frameworks_are_needed(path, tmp_path):
    import hashlib

    explainer = Explainer(tiny.convolutional())
    explainer.export(path, X)
    np.save(tmp_path / "x.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, tmp_path / "x.npy"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = explainer(X, target=1).relevance["x"]
    assert done.stdout.strip() == hashlib.sha256(expected.tobytes()).hexdigest()


MISTAKES = [
    ((X[:, :1],), {}),
    ((X.astype(object),), {}),
    (({"y": X},), {}),
    ((X[0],), {}),
    ((np.full_like(X, np.nan),), {}),
    ((X,), {"target": 99}),
    ((X,), {"position": 3}),
    ((X,), {"conditions": {"nothing": [1]}}),
    ((X,), {"baseline": X[0]}),
]


def test_wrong_inputs_are_told_as_by_the_one_that_was_exported(path):
    explainer = Explainer(tiny.convolutional())
    loaded = exported(explainer, path, X)
    for inputs, asked in MISTAKES:
        with pytest.raises(BacktraceError) as expected:
            explainer(*inputs, **asked)
        with pytest.raises(type(expected.value)) as found:
            loaded(*inputs, **asked)
        assert str(found.value) == str(expected.value)


def test_other_shapes_are_told(path):
    model = network(
        [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["y"])], {"x": (1, ["n", 2, "h", "w"])}
    )
    loaded = exported(Explainer(model), path, X)
    assert loaded(X[:1]).relevance["x"].shape == (1, 2, 5, 5)
    with pytest.raises(InputError, match=r"exported for examples of x \[2, 5, 5\], found x \[2, 6, 5\]"):
        loaded(np.ones((1, 2, 6, 5), np.float32))


def test_examples_that_interact_are_told(path):
    one = tiny.random(1, 3)
    loaded = exported(Explainer(MIXING, mode="gradient"), path, one)
    loaded(one)
    with pytest.raises(InputError, match="exported for examples in one at a time, found 2: they may interact"):
        loaded(tiny.random(2, 3))


def test_what_a_file_cannot_hold_is_refused(path):
    def own(site, R):
        return {i: R / len(site.operands) for i, _ in enumerate(site.operands)}, {}

    mine = composite("mine", [(Selector(kind="sum"), Rule("own", own))], base="lrp-epsilon")
    with pytest.raises(SettingError, match="mode 'mine' has rules of your own"):
        Explainer(tiny.convolutional(), mode=mine).export(path, X)
    with pytest.raises(SettingError, match=r"^Explainer\.export has no argument 'chunk'"):
        Explainer(tiny.convolutional()).export(path, X, chunk=8)
    assert not path.exists()


def test_what_was_loaded_can_be_exported_again(path, tmp_path):
    explainer = Explainer(tiny.convolutional())
    again = exported(exported(explainer, path, X), tmp_path / "again.npz", X)
    assert_same(again(X), explainer(X))


def test_damaged_files_are_refused(whole, path):
    generator = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 20))):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        data = data[: generator.choice((len(data), generator.randrange(len(data))))]
        path.write_bytes(data)
        try:
            loaded = Explainer.load(path)
        except InputError as error:
            assert "explainer.npz'" in str(error)  # noqa: PT017
            assert len(str(error)) < 1000  # noqa: PT017
        else:  # a bit that nobody reads, such as a date in the archive
            assert loaded(X).output == "y"


def forged(whole, change):
    """A file whose metadata somebody has changed, and who knows how digests are made."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        arrays = {name.removesuffix(".npy"): np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
    told = json.loads(arrays.pop("metadata").tobytes())
    arrays.pop("digest")
    change(told, arrays)
    text = json.dumps(told, sort_keys=True).encode()
    arrays |= {"metadata": np.frombuffer(text, np.uint8), "digest": _digest(text, dict(arrays))}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def change_somewhere(generator):
    odd = (
        None,
        True,
        -1,
        2**70,
        "x",
        "",
        [],
        {},
        {"x": 1},
        [[]],
        {"Graph": []},
        {"array": [0, "float32"]},
        {"float": "z"},
    )

    def change(told, arrays):
        place = told
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = generator.choice(list(keys))
            if not (isinstance(place[key], dict | list) and place[key]) or generator.random() < 0.1:
                place[key] = generator.choice(odd)
                return
            place = place[key]

    return change


def test_forged_files_are_refused_or_loaded(whole, path):
    refused = 0
    for seed in range(80):
        path.write_bytes(forged(whole, change_somewhere(random.Random(seed))))
        try:
            Explainer.load(path)
        except BacktraceError:
            refused += 1
    assert refused > 20


def test_what_claims_to_be_large_is_refused(whole, path, monkeypatch):
    path.write_bytes(whole)
    monkeypatch.setattr(loading, "LARGEST_VALUE", 100)
    with pytest.raises(InputError, match="value 'x' takes more than 100 bytes"):
        Explainer.load(path)


def test_other_files_are_told_apart(tmp_path, whole, path):
    explanation = tmp_path / "explanation.npz"
    Explainer(tiny.convolutional(), chunk=8)(X).save(explanation)
    newer = tmp_path / "newer.npz"
    newer.write_bytes(forged(whole, lambda told, arrays: told.update(version=99)))
    for file, message in ((explanation, "of another kind"), (newer, "format version 99"), (path, "No such file")):
        with pytest.raises(InputError, match=message):
            Explainer.load(file)


def test_a_function_that_calls_out_is_never_run(whole, path):
    """An address in a file is an address in the memory of whoever loads it."""
    type_, device = jax.ShapeDtypeStruct((3,), np.float32), jax.devices()[0]
    allowed = [export.DisabledSafetyCheck.custom_call("evil")]
    written = export.export(jax.jit(jax.ffi.ffi_call("evil", type_)), disabled_checks=allowed)(type_).serialize()
    with pytest.raises(InputError, match="calls 'evil', which is outside of it; refused"):
        Function(bytes(written), None).compile(type_, device=device, precision="highest")
    for calling in (jax.ffi.ffi_call("evil", type_), lambda x: jax.pure_callback(lambda x: x, type_, x)):
        with pytest.raises(SettingError, match="cannot be exported"):
            export_function(calling, type_, device=device)

    def swap(told, arrays):
        for number, array in arrays.items():
            if array.dtype == np.uint8 and len(array) > 1000:
                arrays[number] = np.frombuffer(bytes(written), np.uint8)

    path.write_bytes(forged(whole, swap))
    with pytest.raises(InputError, match="outside of it; refused"):
        Explainer.load(path)(X)


VALUES = [
    *(None, True, 1, "a", 1.5, float("inf"), -0.0, (1, (2.0, "x")), [1], {"a": (1,), 2: None}, frozenset({"b", "a"})),
    *(np.dtype("int8"), np.float32(1.5), np.int64(3), Var("x", (1, 2), np.dtype("f4"))),
    Eqn("relu", (Var("x", (1,), np.dtype("f4")),), (), {"body": Graph((), (), (), (), ()), "axes": (1, 2)}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_they_were(value):
    writing = Writing()
    text = json.dumps(writing.value(value))
    found = Reading(dict(enumerate(writing.arrays))).value(json.loads(text))
    assert (type(found), found, str(found)) == (type(value), value, str(value))


def test_other_values_are_refused():
    for value in (object(), {1j}, lambda: None, jax.tree):
        with pytest.raises(SettingError, match="cannot be exported"):
            Writing().value([value])
    for told in ({"object": []}, {"os.system": ["x"]}, {"Var": [], "Eqn": []}, 1.5, [1]):
        with pytest.raises(InputError, match="no value"):
            Reading({}).value(told)
