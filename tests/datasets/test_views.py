"""Global views against plain NumPy in float64 over all explanations at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backtrace_jax.datasets import adding
from backtrace_jax.datasets import views as views_module
from backtrace_jax.datasets.views import Views
from backtrace_jax.errors import InputError
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.ledger import Ledger

WORDS = ("[PAD]", "the", "cat", "sat", "mat")
SHAPES = {"row": (5,), "image": (3, 2, 4), "ids": (6,)}
LAYERS = {"conv": (4, 2, 2), "dense": (7,)}
AXES = {"image": 0, "conv": 0}


def explanation(rng: np.random.Generator, count: int, length: int, classes: int) -> Explanation:
    """Random relevance of a model with a row, an image and a text of this length, and two layers."""
    shapes = {**SHAPES, "ids": (length,)}
    inputs = {name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    inputs["ids"] = rng.integers(0, len(WORDS), (count, length))
    return Explanation(
        relevance={name: _rounded(rng, count, shape) for name, shape in shapes.items()},
        inputs=inputs,
        outputs={"y": rng.random((count, classes)).astype(np.float32)},
        output="y",
        target=np.zeros(count, np.int64),
        layers={name: _rounded(rng, count, shape) for name, shape in LAYERS.items()},
        ledger=Ledger(rng.normal(size=(count, 6)), rng.random((count, 6))),
        fingerprint={"task": "classification"},
    )


def _rounded(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Few different numbers, so that some are equal."""
    return (rng.integers(-8, 9, (count, *shape)) / 7).astype(np.float32)


def views(classes: int = 3, **more) -> Views:
    named = {"features": {"row": tuple("abcde")}, "vocabulary": {"ids": WORDS}}
    return Views.of(SHAPES, LAYERS, (classes,), "classification", channel_axes=AXES, **{**named, **more})


def block(seed: int, count: int = 12, lengths: tuple[int, ...] = (6, 4), classes: int = 3, failed: int = 2):
    """Parts of a block: texts of two lengths in turn, some examples failed."""
    rng = np.random.default_rng(seed)
    places = np.setdiff1d(np.arange(count), rng.choice(count, failed, replace=False))
    parts = [places[k :: len(lengths)] for k in range(len(lengths))]
    return [(part, explanation(rng, len(part), n, classes)) for part, n in zip(parts, lengths, strict=True)]


def merged(blocks: list, count: int = 12, **more):
    chosen = views(**more)
    partials = [chosen.partial(parts, number * count) for number, parts in enumerate(blocks)]
    return chosen.merged({name: np.stack([each[name] for each in partials]) for name in chosen.shapes()})


def examples(blocks: list, count: int = 12):
    """(number, explanation, row) of every example that was explained, in order."""
    found = [
        (k * count + place, each, i) for k, parts in enumerate(blocks) for p, each in parts for i, place in enumerate(p)
    ]
    return sorted(found, key=lambda entry: entry[0])


def predicted(entry, threshold=0.5) -> int:
    _, each, row = entry
    values = each.outputs["y"][row]
    return int(values.argmax()) if len(values) > 1 else int(values[0] > threshold)


BLOCKS = [block(seed) for seed in range(3)]


def test_counts_and_ledger():
    summary, every = merged(BLOCKS), examples(BLOCKS)
    assert summary.examples == len(every) == 30
    np.testing.assert_array_equal(summary.by_class, np.bincount([predicted(each) for each in every], minlength=3))
    signed = np.sum([each.ledger.signed[row] for _, each, row in every], axis=0)
    absolute = np.sum([each.ledger.absolute[row] for _, each, row in every], axis=0)
    np.testing.assert_allclose(summary.ledger, [signed, absolute], rtol=1e-13)


UNITS = [
    ("features", "row", lambda each: each.relevance["row"]),
    ("features", "image", lambda each: each.relevance["image"].reshape(len(each), -1)),
    ("channels", "image", lambda each: each.relevance["image"].reshape(len(each), 3, -1)),
    ("channels", "conv", lambda each: each.layers["conv"].reshape(len(each), 4, -1)),
    ("values", "ids", lambda each: each.relevance["ids"][:, None]),
    ("values", "dense", lambda each: each.layers["dense"][:, None]),
]


@pytest.mark.parametrize(("kind", "name", "of"), UNITS, ids=[f"{kind}-{name}" for kind, name, _ in UNITS])
def test_means_by_unit_and_predicted_class(kind, name, of):
    table, every = getattr(merged(BLOCKS), kind)[name], examples(BLOCKS)
    rows = [np.asarray(of(each)[row], np.float64) for _, each, row in every]
    rows = [row[:, None] if row.ndim == 1 else row for row in rows]
    signed, sizes = np.array([row.sum(1) for row in rows]), np.array([np.abs(row).sum(1) for row in rows])
    np.testing.assert_allclose(table.mean, signed.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(table.magnitude, sizes.mean(0), rtol=1e-12)
    classes = np.array([predicted(each) for each in every])
    for each in range(3):
        np.testing.assert_allclose(table.mean_by_class[each], signed[classes == each].mean(0), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(table.magnitude_by_class[each], sizes[classes == each].mean(0), rtol=1e-12)


def token_shares(each: Explanation, row: int):
    return zip(each.inputs["ids"][row], each.relevance["ids"][row], strict=True)


def test_means_by_token():
    table, every = merged(BLOCKS).tokens["ids"], examples(BLOCKS)
    found = [(i, r, predicted((n, e, k))) for n, e, k in every for i, r in token_shares(e, k)]
    ids, shares, classes = (np.array(column) for column in zip(*found, strict=True))
    shares = shares.astype(np.float64)
    for token in range(len(WORDS)):
        here = ids == token
        assert table.count[token] == here.sum()
        np.testing.assert_allclose(table.mean[token], shares[here].mean(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(table.magnitude[token], np.abs(shares[here]).mean(), rtol=1e-12)
        one = shares[here & (classes == 1)]
        np.testing.assert_allclose(table.mean_by_class[1, token], one.mean() if len(one) else np.nan, atol=1e-15)
    assert table.name(2) == "cat"


def test_top_examples_by_feature_and_the_earlier_of_equal_ones():
    table, every = merged(BLOCKS).features["row"], examples(BLOCKS)
    for unit in range(5):
        ranked = sorted(every, key=lambda entry: (-abs(entry[1].relevance["row"][entry[2], unit]), entry[0]))[:8]
        assert table.top_examples[:, unit].tolist() == [number for number, _, _ in ranked]
        assert table.top_relevance[:, unit].tolist() == [e.relevance["row"][row, unit] for _, e, row in ranked]


@settings(max_examples=20)
@given(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4), st.booleans())
def test_bytes_do_not_depend_on_the_parts(seed, cuts, backwards):
    """However a block was cut up while it was explained, for a bad example or by length."""
    ((places, whole),) = block(seed, lengths=(6,))
    bounds = [0, *sorted(cuts), len(places)]
    parts = [(places[a:b], picked(whole, slice(a, b))) for a, b in pairwise(bounds) if a < b or not cuts]
    one, other = views().partial([(places, whole)]), views().partial(parts[::-1] if backwards else parts)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_what_is_left_out_is_as_if_it_were_not_there():
    parts, gone = block(4), [3, 7]
    found = views().partial(parts, 24, gone)
    kept = [(places[some], picked(each, some)) for places, each in parts for some in [~np.isin(places, gone)]]
    expected = views().partial(kept, 24)
    assert found["examples"].sum() == expected["examples"].sum() == sum(len(places) for places, _ in kept) < 10
    assert all(found[name].tobytes() == expected[name].tobytes() for name in found)


def picked(whole: Explanation, some: slice | np.ndarray) -> Explanation:
    cut = {
        part: {k: v[some] for k, v in getattr(whole, part).items()}
        for part in ("relevance", "inputs", "outputs", "layers")
    }
    ledger = Ledger(whole.ledger.signed[some], whole.ledger.absolute[some])
    return Explanation(**cut, output="y", target=whole.target[some], ledger=ledger, fingerprint=whole.fingerprint)


def test_blocks_of_many_pieces(monkeypatch):
    """What is added up piece by piece, for the sake of the cache, is the same but for rounding."""
    whole = merged(BLOCKS)
    monkeypatch.setattr(adding, "_AT_ONCE", 15)
    for one, other in zip(whole.tables, merged(BLOCKS).tables, strict=True):
        for name in ("mean", "magnitude", "mean_by_class", "magnitude_by_class"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-15)
        if one.top_examples is not None:
            np.testing.assert_array_equal(one.top_examples, other.top_examples)
            np.testing.assert_array_equal(one.top_relevance, other.top_relevance)


def test_a_block_without_examples_adds_nothing():
    chosen = views()
    assert {name: (a.shape, a.dtype) for name, a in chosen.partial([]).items()} == chosen.shapes()
    with_it, without = merged([BLOCKS[0], [], BLOCKS[1]]), merged([BLOCKS[0], BLOCKS[1]])
    assert with_it.examples == without.examples
    for one, other in zip(with_it.tables, without.tables, strict=True):
        assert one.mean.tobytes() == other.mean.tobytes()


def test_nothing_explained_has_no_mean():
    summary = merged([[]])
    assert summary.examples == 0
    assert np.isnan(summary.features["row"].mean).all()
    assert (summary.features["row"].top_examples == -1).all()
    assert "examples     0" in str(summary)


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_a_single_unit_predicts_class_1_above_the_threshold(threshold):
    blocks = [block(0, classes=1), block(1, classes=1)]
    summary = merged(blocks, classes=1, threshold=threshold)
    every = [predicted(each, threshold) for each in examples(blocks)]
    assert summary.by_class.tolist() == np.bincount(every).tolist()


def test_large_tables_are_not_kept_by_class(monkeypatch):
    monkeypatch.setattr(views_module, "MOST_ENTRIES", 15)
    monkeypatch.setattr(views_module, "MOST_FEATURES", 20)
    summary = merged(BLOCKS)
    assert summary.features["row"].mean_by_class is not None
    assert summary.channels["image"].mean_by_class is not None
    assert "image" not in summary.features
    assert summary.tokens["ids"].mean_by_class is not None
    monkeypatch.setattr(views_module, "MOST_ENTRIES", 14)
    whole = merged(BLOCKS).features["row"]
    assert whole.mean_by_class is None
    np.testing.assert_allclose(whole.mean, summary.features["row"].mean, rtol=1e-13, atol=1e-15)


def test_a_regression_has_no_classes():
    chosen = Views.of(SHAPES, {}, (3,), "regression", books=False)
    assert chosen.classes is None
    summary = chosen.merged({name: array[None] for name, array in chosen.partial(block(0)).items()})
    assert summary.by_class is None
    assert summary.ledger is None
    assert summary.features["row"].mean_by_class is None


def test_a_text_without_a_vocabulary_counts_positions():
    """Those that shorter texts do not have are 0."""
    table, every = merged(BLOCKS, vocabulary={}).features["ids"], examples(BLOCKS)
    rows = [np.pad(e.relevance["ids"][k], (0, 6 - e.relevance["ids"].shape[1])) for _, e, k in every]
    np.testing.assert_allclose(table.mean, np.mean(np.array(rows, np.float64), axis=0), rtol=1e-12, atol=1e-15)


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(InputError, match=r"'ids' holds token 4, but .* from 0 to 3"):
        views(vocabulary={"ids": WORDS[:-1]}).partial(BLOCKS[0])


def test_sums_of_other_views_are_refused():
    partials = {name: array[None] for name, array in views(classes=3).partial(BLOCKS[0]).items()}
    with pytest.raises(InputError, match="other views"):
        views(classes=4).merged(partials)


def test_tables_open_in_xarray_under_the_names_of_their_units():
    summary = merged(BLOCKS)
    opened = summary.open()
    assert opened.attrs["examples"] == 30
    mean = opened["feature.row.mean"]
    assert mean.dims == ("feature.row",)
    assert mean.sel({"feature.row": "c"}).item() == summary.features["row"].mean[2]
    by_class = opened["token.ids.magnitude_by_class"].sel({"token.ids": "cat", "class": 1})
    np.testing.assert_array_equal(by_class, summary.tokens["ids"].magnitude_by_class[1, 2])
    assert opened["feature.image.top_examples"].dims == ("rank", "feature.image")
    assert opened["ledger"].sel(sums="absolute", column="bias").item() == summary.ledger[1, 2]
    assert "value.layers.dense.mean" in opened
    assert "value.layers.dense.top_examples" not in opened


def test_a_layer_called_like_an_input_has_a_name_of_its_own():
    chosen = Views.of({"row": (5,)}, {"row": (7,)}, (3,), "classification")
    summary = chosen.merged({name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in chosen.shapes().items()})
    assert [*summary.values] == ["row", "layers.row"]
    assert {"value.row.mean", "value.layers.row.mean"} <= set(summary.open())


def test_the_report_names_what_counts_most():
    text = str(merged(BLOCKS))
    table = merged(BLOCKS).features["row"]
    first = table.largest(1)[0]
    (line,) = [line for line in text.splitlines() if line.startswith(f"  {'abcde'[first]} ")]
    assert f"most in {table.top_examples[0, first]}," in line
    assert "features of 'image' (largest of 24)" in text
    assert "cat" in text
    assert "channel 3" in text
