"""Tables of every kind: features in their order, what is carried, the same bytes as of the array."""

from __future__ import annotations

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources import arrow, lines
from tests.sources.reading import FLOAT, LONG, ROW, everything, inputs, opened

COUNT = 40
X = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)
LABELS = np.arange(COUNT) % 7
NAMES = [f'client "{n}", é' for n in range(COUNT)]
FRAME = pd.DataFrame(X, columns=["age", "income", "rate"]).assign(label=LABELS, name=NAMES)
TABLE = pa.Table.from_pandas(FRAME, preserve_index=False)
datasets.disable_progress_bars()


def parquet(folder):
    pyarrow.parquet.write_table(TABLE, folder / "rows.parquet", row_group_size=9)
    return folder / "rows.parquet"


def parquet_files(folder):
    for number in range(3):
        pyarrow.parquet.write_table(TABLE.slice(number * 15, 15), folder / f"part-{number}.parquet")
    (folder / "_SUCCESS").write_text("")
    return folder


def feather(folder):
    pyarrow.feather.write_feather(TABLE, folder / "rows.feather", chunksize=11)
    return str(folder / "rows.feather")


def arrow_stream(folder):
    with pa.ipc.new_stream(str(folder / "rows.arrow"), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=9)
    return folder / "rows.arrow"


def cells(folder):
    FRAME.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def cell_files(folder):
    for number in range(2):
        FRAME.iloc[number * 25 :][:25].to_csv(folder / f"{number}.tsv", index=False, sep="\t", lineterminator="\r\n")
    return [folder / "0.tsv", folder / "1.tsv"]


def records(folder):
    FRAME.to_json(folder / "rows.jsonl", orient="records", lines=True, double_precision=15)
    return folder / "rows.jsonl"


def saved_dataset(folder):
    datasets.Dataset.from_pandas(FRAME).save_to_disk(str(folder / "saved"))
    return folder / "saved"


KINDS = {
    "pandas": lambda folder: FRAME,
    "pandas of arrow": lambda folder: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda folder: pl.from_pandas(FRAME),
    "table": lambda folder: TABLE,
    "batches": lambda folder: pa.RecordBatchReader.from_batches(TABLE.schema, TABLE.to_batches(11)),
    "parquet": parquet,
    "folder": parquet_files,
    "feather": feather,
    "arrow stream": arrow_stream,
    "csv": cells,
    "tsv": cell_files,
    "jsonl": records,
    "datasets": lambda folder: datasets.Dataset.from_pandas(FRAME),
    "datasets of torch": lambda folder: datasets.Dataset.from_pandas(FRAME).with_format("torch"),
    "shuffled and back": lambda folder: (
        datasets.Dataset.from_pandas(FRAME).select(range(COUNT)[::-1]).select(range(COUNT)[::-1])
    ),
    "iterable": lambda folder: datasets.Dataset.from_pandas(FRAME).to_iterable_dataset(),
    "saved": saved_dataset,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_what_its_array_is(tmp_path, kind):
    source = opened(KINDS[kind](tmp_path), carry=("label", "name"))
    found = everything(source)
    assert found.groups[0].inputs["x"].astype(np.float32).tobytes() == X.tobytes()
    assert source.schema.features == {"x": ("age", "income", "rate")}
    assert source.schema.carried["label"] == ((), "int64")
    assert found.carried["label"].tolist() == LABELS.tolist()
    assert found.carried["name"].tolist() == NAMES
    assert not found.failed


@pytest.mark.parametrize("kind", ["parquet", "folder", "feather", "csv", "tsv", "jsonl"])
def test_files_are_read_anywhere(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(arrow, "BATCH", 4)
    monkeypatch.setattr(lines, "_BLOCK", 16)
    source = opened(KINDS[kind](tmp_path), carry="label", ignore="name")
    for first, last in ((30, 40), (0, 1), (1, 8), (8, 30), (14, 16), (0, 40)):
        found = source.read(first, last)
        assert found.groups[0].inputs["x"].astype(np.float32).tobytes() == X[first:last].tobytes()
        assert found.carried["label"].tolist() == LABELS[first:last].tolist()


def test_a_file_is_read_on_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH", 1500)
    wide = np.arange(9000, dtype=np.float32).reshape(3000, 3)
    pd.DataFrame(wide, columns=["a", "b", "c"]).to_parquet(tmp_path / "rows.parquet")
    source = opened(tmp_path / "rows.parquet")
    found = [source.read(i, i + 1).groups[0].inputs["x"] for i in range(3000)]  # deeper than Python calls go
    assert np.concatenate(found).tolist() == wide.tolist()


def test_columns_are_inputs_by_their_names():
    declared = [InputType("rate", (None, 1), FLOAT), InputType("age", (None,), FLOAT), InputType("n", (None,), LONG)]
    source = opened(FRAME.rename(columns={"label": "n"}), declared, ignore="rest")
    found = source.read(0, 4).groups[0].inputs
    assert found["rate"].tolist() == X[:4, 2:].tolist()
    assert found["age"].tolist() == X[:4, 0].tolist()
    assert found["n"].tolist() == LABELS[:4].tolist()
    renamed = opened(FRAME, declared, ignore="rest", columns={"n": "label"})
    assert renamed.read(0, 4).groups[0].inputs["n"].tolist() == LABELS[:4].tolist()


def test_features_are_chosen_and_ordered_by_the_caller():
    source = opened(FRAME, columns=["rate", "age", "label"], ignore="rest")
    assert source.schema.features == {"x": ("rate", "age", "label")}
    expected = np.stack([X[:, 2], X[:, 0], LABELS], axis=1).astype(np.float32)
    assert inputs(FRAME, columns=["rate", "age", "label"], ignore="rest") == expected.tobytes()


@pytest.mark.parametrize("as_table", [pa.Table.from_pandas, pl.from_pandas, datasets.Dataset.from_pandas, lambda f: f])
def test_a_missing_number_is_nan_and_a_missing_label_fails_its_example(as_table):
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "b": pd.array([1, 2, None], "Int64"), "label": ["u", None, "w"]})
    found = opened(as_table(frame), [InputType("x", (None, 2), FLOAT)], carry="label").read(0, 3)
    assert found.failed == {1: "column 'label' is missing"}
    assert found.carried["label"].tolist() == ["u", "", "w"]
    np.testing.assert_array_equal(found.groups[0].inputs["x"], [[1, 1], [3, np.nan]])
    assert found.groups[0].places.tolist() == [0, 2]


@pytest.mark.parametrize("as_table", [pa.table, pl.DataFrame, datasets.Dataset.from_dict, pd.DataFrame])
def test_columns_of_lists_are_arrays(as_table):
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    found = opened(as_table({"x": x.tolist()}), [InputType("x", (None, 2, 3), np.dtype(np.float64))])
    assert found.read(1, 3).groups[0].inputs["x"].tolist() == x[1:3].tolist()


def test_one_bad_row_of_cells_fails_alone(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b,c\n1,2,3\n\n4,x,6\n7,8\n"9",10,\n\xff,1,2\n12,13,14\n1_0,2,3\n')
    source = opened(path)
    found = source.read(0, 7)
    assert source.count == 7
    assert {place: reason.split("rows.csv', ")[-1][:26] for place, reason in found.failed.items()} == {
        1: "row 3, column 2: 'x' is no",
        2: "row 4: 2 cells where the f",
        4: found.failed[4].split("rows.csv', ")[-1][:26],
        6: "row 8, column 1: '1_0' is ",
    }
    assert "UTF-8" in found.failed[4]
    np.testing.assert_array_equal(found.groups[0].inputs["x"], [[1, 2, 3], [9, 10, np.nan], [12, 13, 14]])


def test_without_names_cells_are_features_by_their_places(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("1,2,3,0\n4,5,6,1\n")
    found = opened(path, carry={"label": 3}).read(0, 2)
    assert found.groups[0].inputs["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.carried["label"].tolist() == [0, 1]


def test_quoted_cells_may_hold_ends_of_lines_and_long_numbers_keep_their_digits(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('a,b,c,id,text\n1,2,3,9007199254740993,"one\ntwo, ""three"""\n4,5,6,9007199254740995,four\n')
    found = opened(path, carry=("id", "text")).read(0, 2)
    assert found.carried["text"].tolist() == ['one\ntwo, "three"', "four"]
    assert found.carried["id"].tolist() == ["9007199254740993", "9007199254740995"]


def test_one_bad_line_of_json_fails_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"x": [1, 2, 3]}\n{"x": [1.5, 2]}\nnot json\n[1]\n{"x": [1, "b", 3]}\n\xff\n{"y": 1}\n{"x": [4,5,6]}'
    )
    found = opened(path, ignore="y").read(0, 8)
    assert [*found.failed] == [1, 2, 3, 4, 5, 6]
    for place, said in {1: "shape", 2: "no JSON", 3: "no record", 4: "no numbers", 5: "UTF-8", 6: "missing"}.items():
        assert said in found.failed[place]
    assert found.groups[0].inputs["x"].tolist() == [[1, 2, 3], [4, 5, 6]]


def write(folder, **frames):
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


WRONG = {
    "a column too many": (lambda d: FRAME, {"ignore": "name"}, "4 columns of numbers for the 3 features"),
    "a text left over": (lambda d: FRAME, {"ignore": "label"}, "'name' of the frame is no input"),
    "no such column": (lambda d: FRAME, {"carry": "lable"}, "no column 'lable'; it has age, income"),
    "ignored, and not there": (lambda d: FRAME, {"ignore": ["id"]}, "no column 'id'"),
    "a feature of texts": (
        lambda d: FRAME,
        {"columns": ["age", "rate", "name"], "ignore": "rest"},
        "'name'.*no numbers",
    ),
    "no such feature": (lambda d: FRAME, {"columns": ["age", "rate", "x"]}, "no column 'x'"),
    "empty": (lambda d: FRAME[:0], {"ignore": "rest"}, "frame is empty"),
    "twice": (lambda d: pd.DataFrame(X, columns=["a", "a", "b"]), {}, "two columns.*'a'"),
    "lazy": (lambda d: pl.from_pandas(FRAME).lazy(), {}, "collect"),
    "a split": (lambda d: datasets.DatasetDict(train=datasets.Dataset.from_pandas(FRAME)), {}, r"source\['train'\]"),
    "a column missing halfway": (
        lambda d: write(d, a=FRAME, b=FRAME.drop(columns="rate")),
        {"ignore": "rest"},
        "b.parquet' has no column 'rate'",
    ),
    "a type that changes halfway": (
        lambda d: write(d, a=FRAME, b=FRAME.assign(age="old")),
        {"ignore": "rest"},
        "'age' holds .*string in .*b.parquet', float in a.parquet",
    ),
    "another header": (
        lambda d: [FRAME.to_csv(d / "a.csv"), FRAME.rename(columns={"age": "x"}).to_csv(d / "b.csv")] and d,
        {"ignore": "rest"},
        "b.csv' are not those of the first file: 'x' where it has 'age'",
    ),
    "two kinds": (lambda d: [cells(d), parquet(d)] and d, {}, "CSV and Parquet"),
    "no files": (lambda d: d, {}, "holds no files"),
    "no such file": (lambda d: d / "gone.csv", {}, "no such file"),
    "another suffix": (lambda d: [(d / "x.pkl").write_bytes(b"")] and d / "x.pkl", {}, "one kind"),
    "damaged": (
        lambda d: [(d / "x.parquet").write_bytes(b"PAR1" * 9)] and d / "x.parquet",
        {},
        "cannot be read as Parquet",
    ),
    "not arrow": (lambda d: [(d / "x.arrow").write_bytes(b"x" * 99)] and d / "x.arrow", {}, "cannot be read as Arrow"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named_at_once(tmp_path, case):
    make, how, said = WRONG[case]
    with pytest.raises(InputError, match=said):
        opened(make(tmp_path), **how)


def test_what_unpacks_to_far_more_than_a_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("backtrace_jax.runtime.unpacking.ALWAYS", 2**16)
    zeros = pa.table({name: np.zeros(10**5) for name in "abc"})
    pyarrow.parquet.write_table(zeros, tmp_path / "x.parquet", use_dictionary=False, compression="zstd")
    with pytest.raises(InputError, match="it would unpack from"):
        opened(tmp_path / "x.parquet")


def test_a_schema_that_changes_in_a_stream_is_named():
    batches = [{"x": X[:5]}, {"x": X[5:9, :2]}]
    with pytest.raises(
        InputError, match=r"batch 1: 'x' holds examples of float32 \[2\], the first batch of float32 \[3\]"
    ):
        everything(opened(iter(batches)))
    with pytest.raises(InputError, match="batch 1 has no 'x', which the first one has"):
        everything(opened(iter([{"x": X[:5]}, {"y": X[5:9]}])))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"tokenizer": object()}, "tokenizer= is for texts|is a tokenizers.Tokenizer"),
        ({"size": 8}, "size= is for pictures"),
        ({"lengths": (8,)}, "lengths= is for token sequences"),
        ({"limit": 0}, "limit"),
        ({"lengths": (8, 4)}, "lengths are increasing"),
        ({"layout": "NHWC"}, "channels last"),
        ({"columns": {"z": "age"}}, "no input is called 'z'"),
    ],
)
def test_settings_that_say_nothing_are_refused(how, said):
    with pytest.raises(SettingError, match=said):
        opened(FRAME[["age", "income", "rate"]], ROW, **how)


def test_a_limit_takes_the_front():
    assert opened(FRAME, ignore="rest", columns=["age", "income", "rate"], limit=3).count == 3
    assert everything(opened(iter([X[:5], X[5:]]), limit=7)).count == 7
