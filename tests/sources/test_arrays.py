"""Plain arrays as a source."""

from __future__ import annotations

import numpy as np
import pytest

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources import Source, source_of

X = np.arange(30, dtype=np.float32).reshape(10, 3)
DECLARED = [InputType("x", (None, 3), np.dtype(np.float32))]
TWO = [*DECLARED, InputType("h", (2, None), np.dtype(np.float32))]


def test_an_array_is_read_from_and_to():
    source = source_of(X, DECLARED, axes={"x": 0})
    found = source.read(2, 5)
    assert isinstance(source, Source)
    assert source.count == 10
    assert source.schema.inputs == {"x": ((3,), "float32")}
    assert found.count == 3
    assert found.groups[0].places.tolist() == [0, 1, 2]
    assert found.groups[0].inputs["x"].tobytes() == X[2:5].tobytes()


def test_examples_on_another_axis_come_first_and_what_is_shared_is_given_to_each():
    h, s = np.arange(20, dtype=np.float32).reshape(2, 10), np.float32([1, 2])
    declared = [*TWO, InputType("s", (2,), np.dtype(np.float32))]
    source = source_of((X, h, s), declared, axes={"x": 0, "h": 1, "s": None})
    found = source.read(4, 7).groups[0].inputs
    assert source.schema.inputs == {"x": ((3,), "float32"), "h": ((2,), "float32"), "s": ((2,), "float32")}
    assert found["h"].tolist() == h[:, 4:7].T.tolist()
    assert found["s"].tolist() == [[1, 2]] * 3


def test_columns_are_carried():
    source = source_of({"label": np.arange(10), "x": X}, DECLARED, axes={}, carry=("label",))
    assert source.schema.carried == {"label": ((), "int64")}
    assert source.read(8, 10).carried["label"].tolist() == [8, 9]


@pytest.mark.parametrize("kind", ["U3", "S3", object, np.dtypes.StringDType()])
def test_texts_are_carried_however_they_are_held(kind):
    source = source_of({"x": X, "name": np.array(["a", "bcd"] * 5, kind)}, DECLARED, axes={}, carry="name")
    assert source.read(1, 3).carried["name"].tolist() == ["bcd", "a"]
    assert source.read(1, 3).carried["name"].dtype.kind in "UT"


def test_what_is_carried_has_the_machines_order_of_bytes():
    source = source_of({"x": X, "label": np.arange(10, dtype=">i4")}, DECLARED, axes={}, carry="label")
    found = source.read(8, 10).carried["label"]
    assert found.dtype == np.dtype(source.schema.carried["label"][1])
    assert found.tolist() == [8, 9]


@pytest.mark.parametrize("values", [["a", None] * 5, [b"\xff"] * 10, [3, "a"] * 5])
def test_what_is_no_text_is_not_carried(values):
    given = np.array(values, None if isinstance(values[0], bytes) else object)
    with pytest.raises(InputError, match="carry: 'name' holds"):
        source_of({"x": X, "name": given}, DECLARED, axes={}, carry="name")


def test_a_memory_mapped_array_is_read_in_slices(tmp_path):
    np.save(tmp_path / "x.npy", X)
    source = source_of(np.load(tmp_path / "x.npy", mmap_mode="r"), DECLARED, axes={"x": 0})
    found = source.read(2, 5).groups[0].inputs["x"]
    assert found.tolist() == X[2:5].tolist()


@pytest.mark.parametrize(
    ("given", "carry", "said"),
    [
        ((X, X), (), "'1' of the source is no input"),
        ({"y": X}, (), "is called 'x'"),
        ({"x": X, "y": X}, (), "'y' of the source is no input"),
        ({"x": X}, ("label",), "no column 'label'"),
        ({"x": X, "label": np.arange(9)}, ("label",), "unequal lengths"),
        (X, ("label",), "0 entries beside"),
        (X[:0], (), "empty"),
        (np.float32(3), (), "no axis 0"),
    ],
)
def test_what_does_not_fit_is_named(given, carry, said):
    with pytest.raises(InputError, match=said):
        source_of(given, DECLARED, axes={"x": 0}, carry=carry)
