"""Sources for a module of which only the names of its parameters are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backtrace_jax.errors import InputError
from backtrace_jax.sources import Reading, open_undeclared
from tests.sources.test_texts import TEXTS, tokenizer

X, LABELS = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4)
NAMES = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")


def first(given, names=("x", "scale"), needed=1, carry=(), **reading):
    """Inputs and carried columns of the first examples."""
    source, examples = open_undeclared(given, names, needed, carry, Reading(**reading))
    inputs = {name: array.tolist() for name, array in examples.groups[0].inputs.items()}
    return inputs, {name: array.tolist() for name, array in examples.carried.items()}, source


def test_places_are_the_first_parameters():
    pairs = [*zip(X, LABELS, strict=True)]
    inputs, carried, source = first(iter(pairs), carry=("label",))
    assert inputs == {"x": X.tolist()}
    assert carried == {"label": LABELS.tolist()}
    assert sum(each.count for each in source.stream()) == 4
    assert first(pairs, needed=2)[0] == {"x": X.tolist(), "scale": LABELS.tolist()}


def test_columns_are_parameters_by_their_names():
    records = [{"scale": 0.5, "x": row, "label": 1} for row in X]
    assert first(records, ignore="rest")[0] == {"x": X.tolist(), "scale": [0.5] * 4}
    assert first(records, carry=["scale", "label"])[0] == {"x": X.tolist()}
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(label=LABELS)
    assert first(frame, carry="label")[0] == {"x": X.tolist()}
    with pytest.raises(InputError, match="no input of the model"):
        first(records)


def test_texts_are_tokens_by_the_names_of_parameters():
    inputs, _, source = first(TEXTS, NAMES, 0, tokenizer=tokenizer(), lengths=(8, 32))
    assert [*inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert source.schema.inputs["input_ids"] == ((32,), "int64")


def test_arrays_stay_arrays():
    assert open_undeclared((X, LABELS), ("x",), 1, (), Reading())[1] is None
