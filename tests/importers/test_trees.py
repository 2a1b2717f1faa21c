"""Tree ensembles: the same scores as scikit-learn and onnxruntime, and relevance along the decision paths."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeRegressor

from backtrace_jax import explain
from backtrace_jax.errors import ModelError, UnsupportedError
from backtrace_jax.onnx_backend import run_model

from .classical import check_ml, ml_model, tables, walked

generator = np.random.default_rng(0)
IRIS, CANCER, DIABETES = (
    (x.astype(np.float32), y)
    for x, y in (load(return_X_y=True) for load in (load_iris, load_breast_cancer, load_diabetes))
)
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def forest(counts: bool = False):
    """A forest of three classes: attributes, trees, and what their leaves say."""
    model = RandomForestClassifier(5, max_depth=4, random_state=0).fit(*IRIS)
    trees = [each.tree_ for each in model.estimators_]
    leaves = [tree.value[:, 0] / len(trees) for tree in trees]
    attributes = {**tables(trees, leaves, "class", counts=counts), "classlabels_int64s": [0, 1, 2]}
    return model, attributes, trees, leaves


def regressor(targets: int = 1):
    """A tree of one or two targets."""
    y = np.stack([DIABETES[1], DIABETES[0][:, 2] * 100], axis=1)[:, :targets]
    tree = DecisionTreeRegressor(max_depth=5, random_state=0).fit(DIABETES[0], y)
    leaves = tree.tree_.value[:, :, 0]
    return tree, {**tables([tree.tree_], [leaves], "target"), "n_targets": targets}, leaves


def boosting():
    """Boosted trees whose sum is the log-odds of the second class."""
    model = GradientBoostingClassifier(n_estimators=6, max_depth=3, random_state=0).fit(*CANCER)
    trees = [each.tree_ for each in model.estimators_[:, 0]]
    leaves = [0.1 * tree.value[:, 0] for tree in trees]
    prior = np.log(CANCER[1].mean() / (1 - CANCER[1].mean()))
    attributes = {**tables(trees, leaves, "class"), "classlabels_int64s": [0, 1], "post_transform": "LOGISTIC"}
    return model, {**attributes, "base_values": [prior]}, trees, leaves


def test_a_forest_as_scikit_learn_computes_it():
    model, attributes, *_ = forest()
    labels, scores = check_ml("TreeEnsembleClassifier", IRIS[0], **attributes)
    np.testing.assert_allclose(scores, model.predict_proba(IRIS[0]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(labels, model.predict(IRIS[0]))


@pytest.mark.parametrize("targets", [1, 2])
def test_a_tree_of_several_targets(targets):
    model, attributes, _ = regressor(targets)
    (scores,) = check_ml("TreeEnsembleRegressor", DIABETES[0], **attributes)
    np.testing.assert_allclose(scores, model.predict(DIABETES[0]).reshape(-1, targets), rtol=1e-5)


def test_boosting_decides_between_two_classes_by_one_score():
    model, attributes, *_ = boosting()
    labels, scores = check_ml("TreeEnsembleClassifier", CANCER[0], **attributes)
    np.testing.assert_allclose(scores, model.predict_proba(CANCER[0]), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(labels, model.predict(CANCER[0]))


def stump(mode: str = "BRANCH_LEQ", missing: int = 0, **settings) -> dict:
    """Two trees that compare each feature with 1."""
    return {
        "nodes_treeids": [0, 0, 0, 4, 4, 4],
        "nodes_nodeids": [0, 1, 2, 0, 1, 2],
        "nodes_featureids": [0, 0, 0, 1, 0, 0],
        "nodes_values": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        "nodes_modes": [mode, "LEAF", "LEAF", mode, "LEAF", "LEAF"],
        "nodes_truenodeids": [2, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [1, 0, 0, 2, 0, 0],
        "nodes_missing_value_tracks_true": [missing, 0, 0, 1 - missing, 0, 0],
        **settings,
    }


VOTES = {"treeids": [0, 0, 4, 4], "nodeids": [1, 2, 1, 2], "ids": [0, 0, 0, 0], "weights": [-0.4, 0.7, 0.9, -0.2]}
TARGETS = {f"target_{name}": column for name, column in VOTES.items()}
CLASSES = {f"class_{name}": column for name, column in VOTES.items()}
GRID = np.array([[a, b] for a in (0.0, 1.0, 2.0, np.nan) for b in (0.5, 1.0, np.nan)], np.float32)


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_comparisons_and_missing_values(mode, missing):
    check_ml("TreeEnsembleRegressor", GRID, **stump(mode, missing), **TARGETS, n_targets=1, version=1)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_aggregates(aggregate):
    settings = {"aggregate_function": aggregate, "base_values": [0.25], "n_targets": 1}
    check_ml("TreeEnsembleRegressor", GRID, **stump(), **TARGETS, **settings)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_transforms(transform):
    """onnxruntime approximates the inverse of the error function."""
    X, single = GRID[[0, 4, 6]], {**TARGETS, "target_weights": [0.1, 0.3, 0.4, 0.2]}
    probit, tolerance = transform == "PROBIT", 5e-3 if transform == "PROBIT" else 1e-5
    two = {**single, "target_ids": [0, 0, 1, 1], "n_targets": 2, "base_values": [0.1, 0.05]}
    check_ml(
        "TreeEnsembleRegressor", X, **stump(), **single, n_targets=1, post_transform=transform, tolerance=tolerance
    )
    check_ml("TreeEnsembleRegressor", X, **stump(), **two, post_transform=transform, tolerance=tolerance)
    for weights in ([0.1, 0.3, 0.4, 0.2], VOTES["weights"]) if not probit else ():
        second = {**CLASSES, "class_ids": [1] * 4, "class_weights": weights, "classlabels_int64s": [0, 1]}
        check_ml("TreeEnsembleClassifier", X, **stump(), **second, post_transform=transform)
        for base in ({}, {"base_values": [0.15]}):
            votes = {**CLASSES, "class_weights": weights, "classlabels_int64s": [7, 9], **base}
            check_ml("TreeEnsembleClassifier", X, **stump(), **votes, post_transform=transform)


def test_doubles_and_integers():
    doubles = {
        "nodes_values_as_tensor": np.array([1 + 1e-12, 0, 0, 1, 0, 0]),
        "target_weights_as_tensor": np.arange(4.0),
    }
    attributes = {**stump(), **TARGETS, "n_targets": 1}
    for name in ("nodes_values", "target_weights"):
        del attributes[name]
    tensors = {name: numpy_helper.from_array(array) for name, array in doubles.items()}
    check_ml("TreeEnsembleRegressor", np.array([[1 + 1e-13, 1.5], [1 + 1e-11, 0.5]]), **attributes, **tensors)
    X, labels = np.array([[1, 2], [2, 1]]), {"classlabels_int64s": [5, 3]}
    check_ml("TreeEnsembleClassifier", X, **stump(), **CLASSES, **labels)


def splits(dtype=np.float32, **settings) -> dict:
    """Two trees of the newest form: x0 in {1, 3} or in {2}, and x1 <= 0.5; a leaf is shared by two branches."""
    arrays = {
        "nodes_splits": np.array([0, 0, 0.5], dtype),
        "nodes_modes": np.array([6, 6, 0], np.uint8),
        "leaf_weights": np.array([0.5, -1.0, 2.0], dtype),
        "membership_values": np.array([1, 3, np.nan, 2, np.nan], dtype),
    }
    numbers = {
        "nodes_featureids": [0, 0, 1],
        "nodes_truenodeids": [0, 1, 2],
        "nodes_trueleafs": [1, 1, 1],
        "nodes_falsenodeids": [1, 2, 0],
        "nodes_falseleafs": [0, 1, 1],
        "nodes_missing_value_tracks_true": [0, 1, 0],
        "leaf_targetids": [0, 1, 0],
        "tree_roots": [0, 2],
    }
    return {
        **{name: numpy_helper.from_array(array) for name, array in arrays.items()},
        **numbers,
        "n_targets": 2,
        **settings,
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("average", [False, True])
def test_trees_of_splits_and_leaves(dtype, average):
    X = np.array([[1, 0], [2, 1], [3, 0.5], [5, 2], [np.nan, np.nan]], dtype)
    first = np.array([[0.5, 0], [0, -1], [0.5, 0], [2, 0], [0, -1]])
    second = np.array([[2, 0], [0.5, 0], [2, 0], [0.5, 0], [0.5, 0]])
    expected = ((first + second) / (2 if average else 1)).astype(dtype)
    settings = splits(dtype, aggregate_function=0 if average else 1)
    check_ml(
        "TreeEnsemble", X, **settings, expected=[expected], version=5, tolerance=1e-3 if dtype == np.float16 else 1e-6
    )


@pytest.mark.parametrize("transform", [1, 2])
def test_transforms_of_the_newest_form_are_numbered_as_onnx_does(transform):
    """1 is softmax and 2 logistic; onnxruntime (1.31) swaps them."""
    X, scores = np.array([[1, 0], [5, 2]], np.float32), np.array([[2.5, 0], [2.5, 0]])
    softmax, logistic = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 1 / (1 + np.exp(-scores))
    expected = np.float32(softmax if transform == 1 else logistic)
    check_ml("TreeEnsemble", X, **splits(post_transform=transform), expected=[expected], version=5)


@pytest.mark.parametrize(("mode", "counts"), [("default", False), ("lrp-epsilon", True)])
def test_relevance_follows_the_decision_paths(mode, counts):
    """With training counts as hit rates these are the contributions that were published."""
    _, attributes, trees, leaves = forest(counts)
    X = IRIS[0][::15]
    found = explain(ml_model("TreeEnsembleClassifier", [X], **attributes), X, mode=mode, dtype="float64")
    for x, relevance, score in zip(X, found.relevance["x0"], found.outputs["y1"], strict=True):
        parts = [walked(tree, values, x, counts=counts) for tree, values in zip(trees, leaves, strict=True)]
        target = score.argmax()
        contributions, base = (sum(each)[..., target] for each in zip(*parts, strict=True))
        assert contributions.sum() + base == pytest.approx(score[target], abs=1e-6)
        total = np.abs(contributions).sum() + abs(base) if mode == "default" else score[target] + 1e-6
        expected = (np.abs(contributions) if mode == "default" else contributions) / total
        np.testing.assert_allclose(relevance, expected, rtol=0, atol=1e-5)
    assert found.ledger.error.max() < 1e-12


def test_counts_are_those_of_scikit_learn():
    """A node's expected value is then what scikit-learn keeps for it."""
    _, _, trees, leaves = forest()
    for tree, values in zip(trees, leaves, strict=True):
        _, base = walked(tree, values, IRIS[0][0], counts=True)
        np.testing.assert_allclose(base, values[0], rtol=1e-12)


EXPLAINED = {
    "one score for two classes": lambda: ("TreeEnsembleClassifier", CANCER[0][::60], boosting()[1]),
    "three classes": lambda: ("TreeEnsembleClassifier", IRIS[0][::15], forest()[1]),
    "regression": lambda: ("TreeEnsembleRegressor", DIABETES[0][::50], regressor()[1]),
    "extreme": lambda: (
        "TreeEnsembleRegressor",
        np.nan_to_num(GRID),
        {**stump(), **TARGETS, "n_targets": 1, "aggregate_function": "MAX"},
    ),
    "sets": lambda: ("TreeEnsemble", np.float32([[1, 0], [2, 1], [5, 2]]), splits()),
}
CHOSEN = [
    *[("one score for two classes", mode) for mode in ("default", "contrastive", "lrp-epsilon", "lrp-zplus")],
    ("three classes", "contrastive"),
    ("regression", "lrp-epsilon"),
    ("extreme", "default"),
    ("sets", "default"),
]


@pytest.mark.parametrize(("name", "mode"), CHOSEN)
def test_the_books_close(name, mode):
    op_type, X, attributes = EXPLAINED[name]()
    found = explain(ml_model(op_type, [X], version=5 if name == "sets" else 3, **attributes), X, mode=mode)
    assert found.ledger.error.max() < 1e-5
    assert np.abs(found.relevance["x0"]).max() > 0.01


def test_both_classes_of_one_score_have_the_same_evidence():
    _, attributes, *_ = boosting()
    X = CANCER[0][::60]
    model = ml_model("TreeEnsembleClassifier", [X], **attributes)
    first, second = (explain(model, X, target=target, mode="lrp-epsilon").relevance["x0"] for target in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_gradients_are_zero_and_deeplift_says_what_it_misses():
    _, attributes, *_ = forest()
    X = IRIS[0][::30]
    model = ml_model("TreeEnsembleClassifier", [X], **attributes)
    assert not explain(model, X, mode="gradient-x-input").relevance["x0"].any()
    found = explain(model, X, mode="deeplift", baseline=IRIS[0].mean(axis=0), dtype="float64")
    assert np.abs(found.relevance["x0"]).max() > 0.1
    assert found.completeness_error.max() < 1e-6


def test_missing_values_are_taken_where_the_trees_know_them():
    model = ml_model("TreeEnsembleRegressor", [GRID], **stump(missing=1), **TARGETS, n_targets=1)
    found = explain(model, GRID)
    assert np.isfinite(found.relevance["x0"]).all()
    assert (found.relevance["x0"] > 0).all()
    assert found.ledger.error.max() < 1e-5


BROKEN = {
    "a cycle": ({"nodes_truenodeids": [0, 0, 0, 1, 0, 0]}, "does not lead to"),
    "a branch to nowhere": ({"nodes_truenodeids": [3, 0, 0, 1, 0, 0]}, "no root|does not exist"),
    "two branches to one node": ({"nodes_truenodeids": [1, 0, 0, 1, 0, 0]}, "root|two branches"),
    "a feature too far": ({"nodes_featureids": [2, 0, 0, 1, 0, 0]}, "feature 2"),
    "a vote of no leaf": ({"target_nodeids": [1, 3, 1, 2]}, "does not exist"),
    "a vote for no target": ({"target_ids": [0, 1, 0, 0]}, "does not exist"),
    "too few modes": ({"nodes_modes": ["LEAF"]}, "modes"),
    "an unknown mode": ({"nodes_modes": ["BRANCH_IN", "LEAF", "LEAF"] * 2}, "BRANCH_IN"),
    "too few thresholds": ({"nodes_values": [1.0]}, "nodes_values"),
    "a node twice": ({"nodes_nodeids": [0, 1, 1, 0, 1, 2]}, "two nodes"),
    "too many base values": ({"base_values": [1.0, 2.0]}, "base values"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_trees(name):
    change, message = BROKEN[name]
    attributes = {**stump(), **TARGETS, "n_targets": 1, **change}
    with pytest.raises(ModelError, match=message):
        run_model(ml_model("TreeEnsembleRegressor", [GRID], **attributes), [GRID])


def test_what_has_no_implementation():
    votes = {**TARGETS, "target_ids": [0, 1, 0, 0], "n_targets": 2, "aggregate_function": "MIN"}
    with pytest.raises(UnsupportedError, match="says nothing about some target"):
        run_model(ml_model("TreeEnsembleRegressor", [GRID], **stump(), **votes), [GRID])
    for target, base in ((0, [0.1, 0.2]), (1, [0.1]), (1, [0.1, 0.2])):  # onnxruntime and ONNX's reference differ
        votes = {**CLASSES, "class_ids": [target] * 4, "classlabels_int64s": [5, 3], "base_values": base}
        with pytest.raises(UnsupportedError, match=f"all votes for class {target} of two"):
            run_model(ml_model("TreeEnsembleClassifier", [GRID], **stump(), **votes), [GRID])
    with pytest.raises(UnsupportedError, match="one class"):
        run_model(ml_model("TreeEnsembleClassifier", [GRID], **stump(), **CLASSES, classlabels_int64s=[1]), [GRID])
