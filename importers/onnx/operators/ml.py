"""Classical models and preparation of features: the domain ai.onnx.ml, trees and support vectors apart.

Class labels that are words stay positions among them (`Text`). A map from labels to scores is the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.passes.build import Value

from ..lowering import Lowering
from ..scope import Text
from ..text import is_text
from .registry import operator
from .scores import as_features, finished, is_above, labels_of, of_two, transformed, winner

DOMAIN = "ai.onnx.ml"
_SINGLE = np.dtype(np.float32)


def _linear(
    X: Value, coefficients: Sequence[float], intercepts: Sequence[float], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [rows, F] and biases of a linear model."""
    K = np.asarray(coefficients, X.dtype)
    if K.size != rows * X.shape[1] or len(intercepts) not in (0, rows):
        raise ModelError(
            f"{K.size} coefficients and {len(intercepts)} intercepts for {rows} scores of {X.shape[1]} features"
        )
    return K.reshape(rows, -1), np.asarray(intercepts or [0.0] * rows, X.dtype)


@operator("LinearRegressor", domain=DOMAIN)
def linear_regressor(
    lowering: Lowering,
    X: Value,
    *,
    coefficients: Sequence[float],
    intercepts: Sequence[float] = (),
    targets: int = 1,
    post_transform: str = "NONE",
) -> Value:
    """Weighted sums of the features."""
    rows = as_features(lowering, X)
    K, b = _linear(rows, coefficients, intercepts, targets)
    scores = lowering.emit("matmul", rows, np.ascontiguousarray(K.T), b[None])
    return lowering.cast(finished(lowering, scores, post_transform), _SINGLE)


@operator("LinearClassifier", domain=DOMAIN)
def linear_classifier(
    lowering: Lowering,
    X: Value,
    *,
    coefficients: Sequence[float],
    intercepts: Sequence[float] = (),
    classlabels_ints: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Value | Text, Value]:
    """Class and scores by weighted sums of the features. One sum decides between two classes by its sign; two that are
    each other's negative are one."""
    rows, count = as_features(lowering, X), max(len(classlabels_ints), len(classlabels_strings))
    alone = count == 2 and len(coefficients) == rows.shape[1]
    K, b = _linear(rows, coefficients, intercepts, 1 if alone else count)
    mirrored = count == len(K) == 2 and np.array_equal(K[0], -K[1]) and b[0] == -b[1]
    if mirrored and post_transform in ("NONE", "LOGISTIC", "PROBIT"):
        K, b = K[1:], b[1:]
    scores = lowering.emit("matmul", rows, np.ascontiguousarray(K.T), b[None])
    if len(K) == 1:
        positions = is_above(lowering, scores, 0.0)
        result = of_two(lowering, scores, post_transform, whole=alone)
    else:
        positions, result = winner(lowering, scores), transformed(lowering, scores, post_transform)
    return labels_of(lowering, positions, classlabels_ints, classlabels_strings), lowering.cast(result, _SINGLE)


@operator("Scaler", domain=DOMAIN)
def scaler(lowering: Lowering, X: Value, *, offset: Sequence[float] = (0.0,), scale: Sequence[float] = (1.0,)) -> Value:
    """Features in other units; each keeps its relevance."""
    wide = X if X.dtype in (np.float32, np.float64) else lowering.cast(X, _SINGLE)
    settings = (np.asarray(each, wide.dtype).reshape(-1) for each in (offset, scale))
    aligned = (each.reshape((1,) * (len(X.shape) - 1) + each.shape) for each in settings)
    return lowering.cast(lowering.emit("standardise", wide, *aligned), _SINGLE)


@operator("Normalizer", domain=DOMAIN)
def normalizer(lowering: Lowering, X: Value, *, norm: str = "MAX") -> Value:
    """Each row divided by its largest entry, or by its norm; a row of zeros stays."""
    wide = X if X.dtype in (np.float32, np.float64) else lowering.cast(X, _SINGLE)
    axis = len(X.shape) - 1
    if norm in ("L1", "L2"):
        return lowering.cast(lowering.emit("lp_norm", wide, axis=axis, p=int(norm[1])), _SINGLE)
    if norm != "MAX":
        raise UnsupportedError(f"norm {norm!r}; there are MAX, L1, L2")
    largest = lowering.emit("reduce_max", wide, axes=(axis,), keepdims=True)
    zero, one = (np.asarray(number, wide.dtype) for number in (0, 1))
    divisor = lowering.emit("where", lowering.emit("equal", largest, zero), one, largest)
    return lowering.cast(lowering.emit("div", wide, divisor), _SINGLE)


@operator("Imputer", domain=DOMAIN)
def imputer(
    lowering: Lowering,
    X: Value,
    *,
    imputed_value_floats: Sequence[float] = (),
    imputed_value_int64s: Sequence[int] = (),
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Value:
    """A replacement where an entry is missing; what it brings in is the model's own, so its relevance is constant."""
    whole = np.issubdtype(X.dtype, np.integer)
    given = imputed_value_int64s if whole else imputed_value_floats
    if len(given) not in (1, X.shape[-1]):
        raise ModelError(f"{len(given)} imputed values for {X.shape[-1]} features of {X.dtype}")
    replaced = np.asarray(replaced_value_int64 if whole else replaced_value_float).astype(X.dtype)
    missing = lowering.emit("is_nan", X) if replaced != replaced else lowering.emit("equal", X, replaced)
    return lowering.emit("where", missing, np.asarray(given).astype(X.dtype), X)


@operator("Binarizer", domain=DOMAIN)
def binarizer(lowering: Lowering, X: Value, *, threshold: float = 0.0) -> Value:
    """1 above a threshold, 0 elsewhere."""
    return lowering.emit("binarize", X, threshold=threshold)


@operator("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(lowering: Lowering, X: Value, Y: Value) -> Value | Text:
    """Entries along the last axis by index; of words, which ones."""
    flat = lowering.reshape(Y, (int(np.prod(Y.shape)),))
    rows = X if len(X.shape) > 1 else lowering.reshape(X, (1, *X.shape))
    if isinstance(rows, np.ndarray) and is_text(rows):
        return _words_at(lowering, rows, flat)
    return lowering.emit("gather", rows, flat, axis=len(rows.shape) - 1)


def _words_at(lowering: Lowering, rows: np.ndarray, places: Value) -> np.ndarray | Text:
    if isinstance(places, np.ndarray):
        return rows[..., places]
    if rows.size != rows.shape[-1]:
        raise UnsupportedError("which of several rows of words; give it one row")
    positions = lowering.reshape(places, (1,) * (rows.ndim - 1) + places.shape)
    return Text(positions, tuple(map(str, rows.reshape(-1))))


@operator("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(lowering: Lowering, *X: Value, inputdimensions: Sequence[int] = ()) -> Value:
    """Columns of all operands side by side; each is cut, or filled up with zeros, to its declared width."""
    columns = [value if len(value.shape) == 2 else lowering.reshape(value, (1, value.shape[0])) for value in X]
    widths = inputdimensions or [column.shape[1] for column in columns]
    parts = [_of_width(lowering, column, width) for column, width in zip(columns, widths, strict=True)]
    return parts[0] if len(parts) == 1 else lowering.emit("concat", *parts, axis=1)


def _of_width(lowering: Lowering, column: Value, width: int) -> Value:
    wide = lowering.cast(column, _SINGLE)
    missing = width - column.shape[1]
    return wide if not missing else lowering.emit("pad", wide, np.zeros((), _SINGLE), low=(0, 0), high=(0, missing))


@operator("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(
    lowering: Lowering,
    X: Any,
    *,
    cats_int64s: Sequence[int] = (),
    cats_strings: Sequence[str] = (),
    zeros: int = 1,
) -> Value:
    """For each category a row with a single 1. A category that is not listed gives zeros, or NaN where it must be."""
    count = len(cats_strings or cats_int64s)
    other = np.full((1, count), 0.0 if zeros else np.nan, _SINGLE)
    rows = np.concatenate([np.eye(count, dtype=_SINGLE), other])
    if cats_strings:
        return _by_word(lowering, X, cats_strings, rows)
    if np.issubdtype(X.dtype, np.floating):  # the fraction is cut off
        X = lowering.cast(X, np.dtype(np.int64))
    return _by_key(lowering, X, np.asarray(cats_int64s, np.int64), rows)


def _by_key(lowering: Lowering, X: Value, keys: np.ndarray, rows: np.ndarray) -> Value:
    """Rows of a table by key; the last row is for keys that are not there. Of equal keys the last one counts."""
    keys = keys.astype(X.dtype)
    distinct, last = np.unique(keys[::-1], return_index=True)
    order = len(keys) - 1 - last
    return lowering.emit("gather_by_key", np.concatenate([rows[order], rows[-1:]]), X, distinct, axis=0)


def _by_word(lowering: Lowering, X: Any, keys: Sequence[str], rows: np.ndarray) -> Value:
    """Rows of a table by word; the last row is for words that are not there."""
    places = {str(key): place for place, key in enumerate(keys)}
    if isinstance(X, Text):
        table = rows[[places.get(word, -1) for word in X.words]]
        return lowering.emit("gather", table, X.positions, axis=0)
    if not is_text(X):
        raise ModelError(f"words are expected, found {X.dtype}")
    chosen = [places.get(str(word), -1) for word in X.reshape(-1)]
    return rows[np.asarray(chosen, np.int64)].reshape(*X.shape, *rows.shape[1:])


def _given(attributes: Mapping[str, Any], kind: str) -> np.ndarray:
    """The keys or the values of a mapping, whatever their type."""
    types = {"tensor": None, "strings": np.str_, "int64s": np.int64, "floats": np.float32}
    found = [(attributes[f"{kind}_{name}"], dtype) for name, dtype in types.items() if f"{kind}_{name}" in attributes]
    if len(found) != 1:
        raise ModelError(f"one list of {kind} is expected, found {len(found)}")
    return np.asarray(found[0][0]).reshape(-1) if found[0][1] is None else np.asarray(*found[0])


def _default(attributes: Mapping[str, Any], values: np.ndarray) -> Any:
    if "default_tensor" in attributes:
        return attributes["default_tensor"].reshape(-1)[0]
    if is_text(values):
        return attributes.get("default_string", "_Unused")
    whole = np.issubdtype(values.dtype, np.integer)
    return attributes.get("default_int64", -1) if whole else attributes.get("default_float", -0.0)


@operator("LabelEncoder", since=2, domain=DOMAIN)
def label_encoder(lowering: Lowering, X: Any, **mapping: Any) -> Value | Text:
    """Each entry mapped by a table of keys and values, with a default for what is no key."""
    keys, values = _given(mapping, "keys"), _given(mapping, "values")
    if len(keys) != len(values):
        raise ModelError(f"{len(keys)} keys for {len(values)} values")
    return _mapped(lowering, X, keys, values, _default(mapping, values))


@operator("LabelEncoder", domain=DOMAIN)
@operator("CategoryMapper", domain=DOMAIN)
def category_mapper(
    lowering: Lowering,
    X: Any,
    *,
    classes_strings: Sequence[str] = (),
    cats_strings: Sequence[str] = (),
    cats_int64s: Sequence[int] = (),
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> Value | Text:
    """Words to numbers, or numbers to words; the first label encoder numbers its words from 0."""
    words = np.asarray(classes_strings or cats_strings, np.str_)
    numbers = np.arange(len(words)) if classes_strings else np.asarray(cats_int64s, np.int64)
    if is_text(X):
        return _mapped(lowering, X, words, numbers, default_int64)
    return _mapped(lowering, X, numbers, words, default_string)


def _mapped(lowering: Lowering, X: Any, keys: np.ndarray, values: np.ndarray, default: Any) -> Value | Text:
    if is_text(values):
        words = (*map(str, values), str(default))
        return _spoken(_mapped(lowering, X, keys, np.arange(len(values)), len(values)), words)
    rows = np.append(values, np.asarray(default, values.dtype))
    if is_text(keys):
        return _by_word(lowering, X, keys.tolist(), rows)
    return _by_key(lowering, X, keys, rows)


def _spoken(positions: Any, words: Sequence[str]) -> Value | Text:
    """The words at these positions; known ones as an array."""
    if isinstance(positions, np.ndarray):
        return np.asarray(words, object)[positions]
    return Text(positions, tuple(words))


@operator("ZipMap", domain=DOMAIN)
def zip_map(lowering: Lowering, X: Value, **labels: Any) -> Value:
    """The scores themselves, in the order of the labels: a map from labels to scores is no tensor."""
    return X
