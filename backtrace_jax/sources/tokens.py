"""Texts to token ids, by a tokenizer of the libraries `tokenizers` or `transformers`, which stays as it is."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from backtrace_jax.errors import InputError, SettingError
from backtrace_jax.errors.arguments import check_plain_file, shown_path
from backtrace_jax.errors.libraries import library
from backtrace_jax.errors.texts import shown

Text = str | tuple[str, str]
"""A text, or a pair of them."""

_ENDLESS = 10**6  # `model_max_length` of tokenizers that do not know one


@dataclass(frozen=True)
class Encoded:
    """A text in tokens.

    Attributes:
        ids: Their ids, at least those that mark beginning and end.
        types: Which text of a pair each belongs to.
        cut: Tokens that were left out because the text was too long.
    """

    ids: Sequence[int]
    types: Sequence[int]
    cut: int


@dataclass(frozen=True)
class Known:
    """What a tokenizer says of itself.

    Attributes:
        longest: Tokens that it cuts to, or its model takes; None where it does not say.
        pad: Id of its padding; None where it has none.
        pad_type: Type of padding.
        left: Whether it pads in front.
        words: The word of every id.
        sha256: Hash of all that decides which ids it gives.
    """

    longest: int | None
    pad: int | None
    pad_type: int
    left: bool
    words: tuple[str, ...]
    sha256: str


class Tokenizer:
    """A tokenizer that neither pads nor cuts unless told to; a copy, since theirs keep such choices as state."""

    def __init__(self, given: Any) -> None:
        """Take a tokenizer, or the path of its tokenizer.json.

        Raises:
            SettingError: When it is none.
            InputError: When the file cannot be read as one.
            MissingDependencyError: When a file is given, and `tokenizers` is not installed.
        """
        given = _from_file(given) if isinstance(given, str | PathLike) else given
        fast = getattr(given, "backend_tokenizer", given)
        if _of_library(fast, "tokenizers"):
            self._tokenizer = fast.from_str(fast.to_str())
            self._slow = None
        elif callable(given) and hasattr(given, "get_vocab"):
            self._slow = copy.deepcopy(given)
        else:
            raise SettingError(
                f"tokenizer= is a tokenizers.Tokenizer, its tokenizer.json or a tokenizer of transformers; found "
                f"{shown(given)}"
            )
        self.known = self._known(given)
        if self._slow is None:
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()

    def encode(self, texts: Sequence[Text], longest: int) -> list[Encoded]:
        """Texts in at most so many tokens."""
        return self._encode_slowly(texts, longest) if self._slow is not None else self._encode(texts, longest)

    def _encode(self, texts: Sequence[Text], longest: int) -> list[Encoded]:
        whole = self._tokenizer.encode_batch([*texts])
        long = [place for place, each in enumerate(whole) if len(each.ids) > longest]
        found = [Encoded(each.ids, each.type_ids, 0) for each in whole]
        if long:
            cutting = self._tokenizer.from_str(self._tokenizer.to_str())
            cutting.enable_truncation(longest, **self._direction)
            for place, each in zip(long, cutting.encode_batch([texts[place] for place in long]), strict=True):
                found[place] = Encoded(each.ids, each.type_ids, len(whole[place].ids) - len(each.ids))
        return found

    def _encode_slowly(self, texts: Sequence[Text], longest: int) -> list[Encoded]:
        tokenizer: Any = self._slow

        def tokens(text: Text, **more: Any) -> Mapping[str, Any]:
            return tokenizer(*((text,) if isinstance(text, str) else text), padding=False, verbose=False, **more)

        found = []
        for text in texts:
            whole = cut = tokens(text, truncation=False)
            if len(whole["input_ids"]) > longest:
                cut = tokens(text, truncation=True, max_length=longest)
            ids = [*cut["input_ids"]]
            types = [*cut.get("token_type_ids", [0] * len(ids))]
            found.append(Encoded(ids, types, len(whole["input_ids"]) - len(ids)))
        return found

    def _known(self, given: Any) -> Known:
        backend = None if self._slow is not None else self._tokenizer
        padding, truncation = getattr(backend, "padding", None) or {}, getattr(backend, "truncation", None) or {}
        self._direction = {"direction": getattr(given, "truncation_side", truncation.get("direction", "right"))}
        longest = [truncation.get("max_length"), getattr(given, "model_max_length", None)]
        longest = [int(n) for n in longest if n is not None and n < _ENDLESS]
        pad = getattr(given, "pad_token_id", padding.get("pad_id"))
        vocabulary = given.get_vocab()
        if pad is None:
            pad = next((vocabulary[word] for word in _PADS if word in vocabulary), None)
        left = getattr(given, "padding_side", padding.get("direction", "right")) == "left"
        pad_type = getattr(given, "pad_token_type_id", padding.get("pad_type_id", 0))
        return Known(min(longest, default=None), pad, pad_type, left, _words(vocabulary), self._hash(vocabulary))

    def _hash(self, vocabulary: Mapping[str, int]) -> str:
        if self._slow is None:
            plain = self._tokenizer.from_str(self._tokenizer.to_str())
            plain.no_padding()
            plain.no_truncation()
            text = plain.to_str()
        else:
            text = json.dumps([type(self._slow).__name__, sorted(vocabulary.items())])
        return hashlib.sha256(text.encode()).hexdigest()


_PADS = ("[PAD]", "<pad>", "<PAD>", "<|pad|>")


def _words(vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    words = [""] * (max(vocabulary.values(), default=-1) + 1)
    for word, number in vocabulary.items():
        words[number] = word
    return tuple(words)


def _of_library(value: Any, library: str) -> bool:
    """Whether a class of a library, or one of its own kind, made this; nothing is imported to find out."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, module.Tokenizer)


def _from_file(path: str | PathLike[str]) -> Any:
    found = Path(path)
    found = found / "tokenizer.json" if found.is_dir() else found
    check_plain_file(found, InputError)
    tokenizers = library("tokenizers", f"reading {shown_path(found)} needs tokenizers", "pip install tokenizers")
    try:
        return tokenizers.Tokenizer.from_file(str(found))
    except Exception as error:  # of the library: about anything
        raise InputError(f"{shown_path(found)} is no tokenizer.json: {error!s:.150}") from error
