"""Classical models in ONNX, trees apart: operators against onnxruntime, and whole models as skl2onnx writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from backtrace_jax import explain
from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .classical import check_ml, ml_model
from .nodes import floats, ints

X, WHOLE, NAN = floats(5, 3), ints(3, -1, 7, 2, 3, 40).reshape(2, 3), np.float32(np.nan)
HOLED = np.where(floats(5, 3, seed=1) > 0.5, NAN, X)
LINEAR = {"coefficients": floats(6).tolist(), "intercepts": [0.3, -0.2]}
DOUBLES = X.astype(np.float64)

PREPARED = {
    "scaler": ("Scaler", [X], {"offset": [0.5, -1.0, 2.0], "scale": [2.0, 0.1, -3.0]}),
    "scaler of one number": ("Scaler", [WHOLE], {"offset": [1.5], "scale": [0.5]}),
    "scaler of doubles": ("Scaler", [DOUBLES], {"offset": [0.5, -1.0, 2.0], "scale": [2.0, 0.1, -3.0]}),
    "largest": ("Normalizer", [np.concatenate([X, -np.abs(X), 0 * X])], {"norm": "MAX"}),
    "l1": ("Normalizer", [np.concatenate([X, 0 * X])], {"norm": "L1"}),
    "l2": ("Normalizer", [np.concatenate([X, 0 * X])], {"norm": "L2"}),
    "l2 of integers": ("Normalizer", [WHOLE], {"norm": "L2"}),
    "imputer": ("Imputer", [HOLED], {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}),
    "imputer of one number": ("Imputer", [np.round(X)], {"imputed_value_floats": [9.0], "replaced_value_float": 1.0}),
    "imputer of integers": ("Imputer", [WHOLE], {"imputed_value_int64s": [9], "replaced_value_int64": 3}),
    "binarizer": ("Binarizer", [np.round(X)], {"threshold": 1.0}),
    "some features": ("ArrayFeatureExtractor", [X, ints(2, 0)], {}),
    "features of a vector": ("ArrayFeatureExtractor", [X[0], ints(1)], {}),
    "features by a row of indices": ("ArrayFeatureExtractor", [WHOLE, ints(1, 1).reshape(1, 2)], {}),
    "side by side": ("FeatureVectorizer", [X, DOUBLES[:, :2].astype(np.float32)], {"inputdimensions": [3, 2]}),
    "categories": ("OneHotEncoder", [WHOLE], {"cats_int64s": [7, 3, 2]}),
    "categories of floats": ("OneHotEncoder", [WHOLE.astype(np.float32) + 0.25], {"cats_int64s": [7, 3, 2]}),
    "labels to floats": (
        "LabelEncoder",
        [WHOLE],
        {"keys_int64s": [3, 7, 2], "values_floats": [0.5, 1.5, -1.0], "default_float": 9.0},
    ),
    "labels to labels": ("LabelEncoder", [WHOLE], {"keys_int64s": [3, 7], "values_int64s": [30, 70]}),
    "floats to labels": (
        "LabelEncoder",
        [np.float32([1.5, np.nan, 2.5])],
        {"keys_floats": [float("nan"), 1.5], "values_int64s": [4, 5], "default_int64": 6, "version": 4},
    ),
}
TENSORS = {
    "keys_tensor": numpy_helper.from_array(np.array([1.5, 2.5])),
    "values_tensor": numpy_helper.from_array(np.array([3, 4], np.int16)),
    "default_tensor": numpy_helper.from_array(np.array([7], np.int16)),
}


@pytest.mark.parametrize("name", PREPARED)
def test_preparation_of_features(name):
    op_type, operands, settings = PREPARED[name]
    check_ml(op_type, *operands, **settings)


def test_what_onnxruntime_has_no_function_for():
    check_ml("Scaler", X[:, :1], offset=[1.0], scale=[2.0], expected=[(X[:, :1] - 1) * 2])
    wide = np.concatenate([X, np.zeros((5, 1), np.float32), X[:, :1]], axis=1)
    check_ml("FeatureVectorizer", X, X, inputdimensions=[4, 1], expected=[wide])
    rows = np.float32([[np.nan, np.nan], [1, 0]])
    check_ml("OneHotEncoder", ints(4, 9), cats_int64s=[9, 8], zeros=0, expected=[rows])
    check_ml("LabelEncoder", np.array([2.5, 0, 1.5]), **TENSORS, version=4, expected=[np.array([4, 7, 3], np.int16)])


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_models(transform):
    settings = {**LINEAR, "post_transform": transform}
    one = {"coefficients": [0.3, -0.2, 0.5], "intercepts": [0.1], "post_transform": transform}
    check_ml("LinearRegressor", X, **settings, targets=2)
    check_ml("LinearRegressor", X, **one)
    check_ml("LinearClassifier", X, **settings, classlabels_ints=[4, 2])
    check_ml("LinearClassifier", X, **one, classlabels_ints=[4, 2])


def test_two_rows_that_are_each_others_negative_are_one_score():
    row = [0.3, -0.2, 0.5]
    settings = {"coefficients": [*(-x for x in row), *row], "intercepts": [-0.1, 0.1], "classlabels_ints": [0, 1]}
    for transform in ("NONE", "LOGISTIC", "SOFTMAX"):
        check_ml("LinearClassifier", X, **settings, post_transform=transform)
    model = ml_model("LinearClassifier", [X], **settings, post_transform="LOGISTIC")
    found = explain(model, X, mode="contrastive")
    assert np.abs(found.relevance["x0"]).max() > 0.1
    assert found.ledger.error.max() < 1e-5


VECTORS = {"support_vectors": floats(15, seed=2).tolist(), "kernel_params": [0.3, 0.2, 3.0]}
KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_support_vectors(kernel):
    settings = {**VECTORS, "kernel_type": kernel}
    values = {"coefficients": floats(5, seed=3).tolist(), "rho": [0.4]}
    check_ml("SVMRegressor", X, **settings, **values, n_supports=5)
    several = {"coefficients": floats(10, seed=4).tolist(), "rho": [0.4, -0.1, 0.2], "vectors_per_class": [2, 1, 2]}
    check_ml("SVMClassifier", X, **settings, **several, classlabels_ints=[3, 1, 2])


def test_support_vectors_of_two_classes():
    settings = {**VECTORS, "kernel_type": "RBF", "classlabels_ints": [0, 1], "vectors_per_class": [3, 2], "rho": [0.4]}
    check_ml("SVMClassifier", X, **settings, coefficients=floats(5, seed=3).tolist())
    probable = {"prob_a": [-1.5], "prob_b": [0.2], "coefficients": floats(5, seed=3).tolist()}
    check_ml("SVMClassifier", X, **settings, **probable, tolerance=5e-3)  # which iterates, though not to the end


def test_support_vectors_without_vectors():
    row = [0.3, 0.1, -0.4]
    check_ml("SVMRegressor", X, coefficients=row, rho=[0.2], expected=[X @ np.float32(row)[:, None] + np.float32(0.2)])
    one_class = {"coefficients": floats(5, seed=3).tolist(), "rho": [0.0], "n_supports": 5, "one_class": 1}
    check_ml("SVMRegressor", X, **VECTORS, **one_class, kernel_type="RBF")
    K = floats(3, 3)
    scores = X @ K.T + np.float32(0.2)
    linear = {"coefficients": K.ravel().tolist(), "rho": [0.2], "classlabels_ints": [5, 3, 4]}
    check_ml("SVMClassifier", X, **linear, expected=[np.array([5, 3, 4])[scores.argmax(axis=1)], scores])


def test_numbers_to_words_and_back():
    words = {"cats_strings": ["three", "seven"], "domain": "ai.onnx.ml"}
    nodes = [
        helper.make_node("CategoryMapper", ["x"], ["words"], cats_int64s=[3, 7], **words),
        helper.make_node("CategoryMapper", ["words"], ["y"], cats_int64s=[30, 70], **words),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.INT64, WHOLE.shape)
    graph = helper.make_graph(nodes, "words", [x], [helper.make_tensor_value_info("y", onnx.TensorProto.INT64, None)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    (found,) = run_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), [WHOLE])
    np.testing.assert_array_equal(found, np.select([WHOLE == 3, WHOLE == 7], [30, 70], -1))


CARRIED = {
    "scaler": ("Scaler", X, {"offset": [0.5, -1.0, 2.0], "scale": [2.0, 0.1, -3.0]}),
    "binarizer": ("Binarizer", X, {}),
    "one norm": ("Normalizer", X, {"norm": "L1"}),
    "categories": ("OneHotEncoder", WHOLE, {"cats_int64s": [7, 3, 2]}),
    "categories among floats": ("OneHotEncoder", WHOLE.astype(np.float32), {"cats_int64s": [7, 3, 2]}),
    "labels to floats": ("LabelEncoder", WHOLE, {"keys_int64s": [3, 7], "values_floats": [0.5, 1.5]}),
}


@pytest.mark.parametrize("name", CARRIED)
def test_a_feature_keeps_its_relevance(name):
    """Changes of units, thresholds and categories belong to one feature each."""
    op_type, values, attributes = CARRIED[name]
    model = ml_model(op_type, [values], **attributes)
    start = np.random.default_rng(0).normal(size=np.shape(run_model(model, [values])[0]))
    found = explain(model, values, start=start).relevance["x0"]
    np.testing.assert_allclose(found, start.sum(axis=-1) if start.ndim == 3 else start, rtol=1e-5)


def test_what_replaces_a_missing_value_is_the_models_own():
    settings = {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}
    start = np.ones_like(X)
    found = explain(ml_model("Imputer", [X], **settings), HOLED, start=start)
    np.testing.assert_array_equal(found.relevance["x0"], ~np.isnan(HOLED))
    assert found.ledger.error.max() < 1e-6


FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("*.onnx"))
DATA = {"iris": load_iris, "cancer": load_breast_cancer, "diabetes": load_diabetes}


def fixture(path: Path) -> tuple[onnx.ModelProto, np.ndarray]:
    """A model of skl2onnx's, and examples."""
    load = next(load for name, load in DATA.items() if name in path.stem)
    return onnx.load(path), load(return_X_y=True)[0].astype(np.float32)[::7]


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_models_of_scikit_learn(path):
    """A list of maps from label to score is the scores; labels that are words are nothing."""
    model, examples = fixture(path)
    wanted = onnxruntime_outputs(model, {model.graph.input[0].name: examples})
    found = run_model(model, [examples])
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        scores = np.array([list(row.values()) for row in other]) if isinstance(other, list) else other
        if scores.dtype.kind in "OU":
            assert one is None
        else:
            np.testing.assert_allclose(one, scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["forest_iris_words", "logistic_cancer", "perceptron_iris_words"])
def test_models_of_scikit_learn_are_explained(name):
    """The output explained is the first that holds floats, for classifiers give their label first."""
    model, examples = fixture(Path(__file__).with_name("fixtures") / f"{name}.onnx")
    found = explain(model, examples[:8])
    assert "prob" in found.output
    assert found.ledger.error.max() < 1e-5
    assert np.abs(next(iter(found.relevance.values()))).max() > 0.01


WORDS = np.array(["low", "middle", "high"], object)


def spoken(*nodes: onnx.NodeProto, **outputs: int) -> onnx.ModelProto:
    """A classifier whose labels are words, then these nodes; outputs by name, with their element types."""
    classifier = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=floats(9).tolist(),
        intercepts=[0.1, 0.2, 0.3],
        classlabels_strings=WORDS.tolist(),
    )
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    words = [numpy_helper.from_array(WORDS, "words"), numpy_helper.from_array(ints(-1, 1), "column")]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph([classifier, *nodes], "spoken", [x], results, words)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_words_are_moved_and_turned_into_numbers():
    mapping = {"keys_strings": ["high", "low"], "values_floats": [2.0, 1.0], "default_float": -1.0}
    nodes = [
        helper.make_node("Reshape", ["label", "column"], ["moved"]),
        helper.make_node("Cast", ["moved"], ["still"], to=onnx.TensorProto.STRING),
        helper.make_node("LabelEncoder", ["still"], ["number"], domain="ai.onnx.ml", **mapping),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["words", "best"], ["named"], domain="ai.onnx.ml"),
        helper.make_node("OneHotEncoder", ["named"], ["hot"], domain="ai.onnx.ml", cats_strings=["middle", "low"]),
    ]
    kinds = {"number": onnx.TensorProto.FLOAT, "hot": onnx.TensorProto.FLOAT, "still": onnx.TensorProto.STRING}
    model = spoken(*nodes, **kinds, scores=onnx.TensorProto.FLOAT)
    wanted, found = onnxruntime_outputs(model, {"x": X}), run_model(model, [X])
    assert found[2] is None
    for i in (0, 1, 3):
        np.testing.assert_allclose(found[i], wanted[i], rtol=1e-5)
    assert len(set(found[0].ravel())) > 1


def test_words_are_not_computed_with():
    same = helper.make_node("Equal", ["label", "words"], ["same"])
    with pytest.raises(UnsupportedError, match="class labels that are words"):
        run_model(spoken(same, same=onnx.TensorProto.BOOL), [X])
    with pytest.raises(UnsupportedError, match="all outputs of the model are text"):
        run_model(spoken(label=onnx.TensorProto.STRING), [X])


REFUSED = {
    "coefficients that do not fit": ("LinearRegressor", {"coefficients": [1.0]}, ModelError, "coefficients"),
    "a norm": ("Normalizer", {"norm": "L3"}, ModelError, "L3"),
    "a transform": ("LinearRegressor", {**LINEAR, "targets": 2, "post_transform": "CUBE"}, ModelError, "CUBE"),
    "imputed values": ("Imputer", {"imputed_value_floats": [1.0, 2.0]}, ModelError, "imputed values"),
    "no labels": ("LabelEncoder", {"keys_floats": [1.0]}, ModelError, "values"),
    "probabilities of three classes": (
        "SVMClassifier",
        {
            **VECTORS,
            "coefficients": [1.0] * 10,
            "rho": [0.0] * 3,
            "vectors_per_class": [2, 1, 2],
            "classlabels_ints": [0, 1, 2],
            "prob_a": [1.0] * 3,
            "prob_b": [1.0] * 3,
        },
        UnsupportedError,
        "raw scores",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    op_type, attributes, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        run_model(ml_model(op_type, [X], **attributes), [X])
