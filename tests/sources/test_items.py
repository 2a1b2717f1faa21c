"""Examples one by one and batches of them: torch, grain, generators, lists; the same bytes as of the array."""

from __future__ import annotations

from collections import namedtuple
from itertools import count

import grain
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from backtrace_jax.errors import InputError
from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources import items
from tests.sources.reading import LONG, PICTURE, ROW, everything, inputs, opened

COUNT = 20
X = np.random.default_rng(0).standard_normal((COUNT, 3)).astype(np.float32)
T, Y = torch.from_numpy(X), torch.arange(COUNT)
PAIRS = TensorDataset(T, Y)
RECORDS = [{"x": X[n], "label": n} for n in range(COUNT)]
Record = namedtuple("Record", "x label")


class Streamed(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


class Broken(Dataset):
    """Three bad examples among good ones."""

    def __len__(self):
        return COUNT

    def __getitem__(self, number):
        if number == 3:
            raise OSError("truncated file")
        return {5: X[number, :2], 7: X[number].astype(complex), 9: None}.get(number, X[number])


def batches(size):
    return ((T[first : first + size], Y[first : first + size]) for first in range(0, COUNT, size))


def grain_loader():
    sampler = grain.samplers.SequentialSampler(COUNT, shard_options=grain.sharding.NoSharding())
    return grain.DataLoader(data_source=RECORDS, sampler=sampler, worker_count=0)


KINDS = {
    "torch dataset": lambda: PAIRS,
    "torch iterable dataset": Streamed,
    "loader": lambda: DataLoader(PAIRS, batch_size=7),
    "loader of records": lambda: DataLoader(RECORDS, batch_size=7),
    "loader of examples": lambda: DataLoader(PAIRS, batch_size=None),
    "grain": lambda: grain.MapDataset.source(RECORDS),
    "grain batches": lambda: grain.MapDataset.source(RECORDS).batch(6),
    "grain iterable": lambda: grain.MapDataset.source(RECORDS).to_iter_dataset(),
    "grain iterable batches": lambda: grain.MapDataset.source(RECORDS).to_iter_dataset().batch(6),
    "grain loader": grain_loader,
    "generator": lambda: batches(6),
    "list of batches": lambda: [*batches(6)],
    "list of records": lambda: RECORDS,
    "named tuples": lambda: [Record(*each) for each in zip(X, range(COUNT), strict=True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_those_of_the_array(kind):
    found = everything(opened(KINDS[kind](), carry=("label",)))
    assert found.groups[0].inputs["x"].tobytes() == X.tobytes()
    assert found.carried["label"].tolist() == [*range(COUNT)]
    assert inputs(KINDS[kind](), ignore="rest") == X.tobytes()


def test_arrays_alone():
    assert inputs([*X]) == inputs(iter(T)) == inputs(X.tolist()) == inputs(T) == X.tobytes()


def test_a_number_beside_an_array_is_no_feature():
    """A model that takes any number of features could be given the label alone."""
    open_ = [InputType("x", (None, None), np.dtype(np.float32))]
    with pytest.raises(InputError, match=r"no column of the list is called 'x'.*columns="):
        opened([{"pixels": row, "label": 1.0} for row in X], open_)
    assert inputs([{"pixels": row, "label": 1.0} for row in X], open_, carry="label") == X.tobytes()
    assert inputs([{"a": float(a), "b": float(b)} for a, b, _ in X], open_) == X[:, :2].tobytes()


def test_what_follows_the_inputs_is_named_by_the_caller():
    three = TensorDataset(T, Y, Y + 1)
    assert everything(opened(three, carry={"next": 2}, ignore=[1])).carried["next"].tolist() == (Y + 1).tolist()
    assert [*everything(opened(three, carry=("label", "next"))).carried] == ["label", "next"]
    with pytest.raises(InputError, match=r"'1' of the TensorDataset is no input .* ignore=\['1'\]"):
        opened(PAIRS)
    with pytest.raises(InputError, match="has 1 entries beside"):
        opened(PAIRS, carry=("a", "b"))


def test_inputs_may_be_a_tuple_or_a_mapping_of_their_own():
    declared = [*ROW, InputType("n", (None,), LONG)]
    for given in ([((X, Y), Y + 1)], [({"n": Y, "x": X}, Y + 1)]):
        found = everything(opened(given, declared, carry=("label",)))
        assert found.groups[0].inputs["n"].tolist() == found.groups[0].inputs["n"].tolist() == Y.tolist()
        assert found.carried["label"].tolist() == (Y + 1).tolist()


def test_a_bad_example_fails_alone():
    found = everything(opened(Broken()), size=4)
    assert found.failed == {
        3: "OSError: truncated file",
        5: "column '0' has shape [2], the first examples have [3]",
        7: found.failed[7],
        9: "InputError: the dataset gives None, as where an example is filtered out",
    }
    assert "no numbers" in found.failed[7]
    good = [n for n in range(COUNT) if n not in (3, 5, 7, 9)]
    assert np.concatenate([group.places for group in found.groups]).tolist() == good
    assert np.concatenate([group.inputs["x"] for group in found.groups]).tobytes() == X[good].tobytes()


def test_the_first_example_may_be_the_bad_one():
    found = everything(opened([X[0, :2], *X[1:]]))
    assert found.failed == {0: "column '0' has shape [2], the first examples have [3]"}
    assert found.groups[0].inputs["x"].tobytes() == X[1:].tobytes()


def test_what_has_no_length_is_the_same_for_a_batch():
    found = everything(opened(({"x": X[n : n + 5], "shard": n} for n in (0, 5)), carry="shard"))
    assert found.carried["shard"].tolist() == [0] * 5 + [5] * 5


def test_half_precision_is_what_it_is():
    half = T.to(torch.bfloat16)
    assert inputs([half]) == half.float().numpy().tobytes()


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, number):
        raise IndexError


def failing():
    yield X[:4]
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: iter(()), "ended before its first example"),
        (list, "empty"),
        (Empty, "Empty is empty"),
        (lambda: DataLoader(Empty()), "ended before its first"),
        (lambda: grain.MapDataset.source(RECORDS).repeat(), "never ends; limit="),
        (lambda: [(X[:4], Y[:3])], "unequal lengths"),
        (lambda: [X[:, None]], r"shape \[1, 1, 3\]|has shape"),
        (lambda: [Y[:, None].expand(-1, 3)], "holds int64, the model takes float32"),
        (lambda: object(), "no source of examples"),
    ],
)
def test_what_is_no_source_is_named_at_once(given, said):
    with pytest.raises(InputError, match=said):
        opened(given(), ignore="rest")


def test_a_stream_that_fails_says_where():
    with pytest.raises(InputError, match="generator failed behind 1 of its items: RuntimeError: the disk is gone"):
        everything(opened(failing()))


def test_a_stream_is_read_once():
    source = opened(batches(6), ignore="rest")
    everything(source)
    with pytest.raises(InputError, match="read already"):
        everything(source)


def test_an_endless_stream_is_read_as_far_as_it_is_asked():
    source = opened(X[n % COUNT] for n in count())
    first = next(source.stream())
    assert first.groups[0].inputs["x"].tobytes() == np.resize(X, (items.GATHERED, 3)).tobytes()
    assert everything(opened((X[n % COUNT] for n in count()), limit=100)).count == 100


def test_whole_numbers_for_a_model_of_floats_are_refused_at_once():
    with pytest.raises(InputError, match="holds uint8, the model takes float32"):
        opened([np.zeros((3, 6, 5), np.uint8)] * 4, PICTURE)
