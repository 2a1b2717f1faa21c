"""Classical models in ONNX: single nodes of the domain ai.onnx.ml, and scikit-learn's trees written as such nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from backtrace_jax.onnx_backend import run_model
from tests.zoo.runtime import onnxruntime_outputs

from .nodes import node_model

CLASSIFIERS = ("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier")


def ml_model(op_type: str, operands: Sequence[np.ndarray], version: int = 3, **attributes: Any) -> onnx.ModelProto:
    """One node of the domain ai.onnx.ml, whose operands are inputs x0, x1, ..."""
    results = 2 if op_type in CLASSIFIERS else 1
    model = node_model(op_type, operands, results=results, domain="ai.onnx.ml", **attributes)
    model.opset_import[-1].version = version
    return model


def check_ml(
    op_type: str,
    *operands: np.ndarray,
    tolerance: float = 1e-5,
    expected: Any = None,
    version: int = 3,
    **settings: Any,
) -> list[np.ndarray]:
    """Compare a node's results with the expected ones, or with onnxruntime's."""
    model = ml_model(op_type, operands, version, **settings)
    inputs = {f"x{i}": operand for i, operand in enumerate(operands)}
    wanted = onnxruntime_outputs(model, inputs) if expected is None else expected
    found = list(run_model(model, inputs))
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, tolerance, tolerance)
    return found


def below_in_single(thresholds: np.ndarray) -> np.ndarray:
    """The largest float32 not above each threshold: float32 features compare with it as with the threshold."""
    single = thresholds.astype(np.float32)
    return np.where(single > thresholds, np.nextafter(single, np.float32(-np.inf)), single)


def tables(trees: Sequence[Any], leaves: Sequence[np.ndarray], votes: str, *, counts: bool = False) -> dict[str, Any]:
    """Attributes of the nodes of scikit-learn's trees, and of what their leaves say.

    Args:
        trees: The `tree_` of every estimator.
        leaves: For each tree, what its nodes add to the targets, [nodes, targets].
        votes: "target" or "class".
        counts: Whether to store how many examples reached each node.
    """
    nodes: dict[str, list] = {}
    for number, (tree, values) in enumerate(zip(trees, leaves, strict=True)):
        split = tree.children_left >= 0
        columns: Mapping[str, Any] = {
            "nodes_treeids": [number] * tree.node_count,
            "nodes_nodeids": range(tree.node_count),
            "nodes_featureids": np.maximum(tree.feature, 0),
            "nodes_values": np.where(split, below_in_single(tree.threshold), 0),
            "nodes_modes": ["BRANCH_LEQ" if each else "LEAF" for each in split],
            "nodes_truenodeids": np.maximum(tree.children_left, 0),
            "nodes_falsenodeids": np.maximum(tree.children_right, 0),
            **({"nodes_hitrates": tree.weighted_n_node_samples} if counts else {}),
        }
        at, target = np.nonzero((~split)[:, None] & np.ones_like(values, bool))
        voted = {"treeids": np.full(len(at), number), "nodeids": at, "ids": target, "weights": values[at, target]}
        for name, column in {**columns, **{f"{votes}_{key}": each for key, each in voted.items()}}.items():
            nodes.setdefault(name, []).extend(column.tolist() if isinstance(column, np.ndarray) else column)
    return nodes


def walked(tree: Any, values: np.ndarray, x: np.ndarray, *, counts: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Contributions [features, targets] along the decision path of one example, and the root's expected value.

    Written from Saabas 2014, one node after the other; without counts each child counts one half.
    """

    def expected(node: int) -> np.ndarray:
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            return values[node]
        sizes = tree.weighted_n_node_samples
        share = sizes[left] / sizes[node] if counts else 0.5
        return share * expected(left) + (1 - share) * expected(right)

    contributions, node = np.zeros((len(x), values.shape[1])), 0
    while tree.children_left[node] >= 0:
        feature = tree.feature[node]
        children = tree.children_left if x[feature] <= tree.threshold[node] else tree.children_right
        contributions[feature] += expected(children[node]) - expected(node)
        node = children[node]
    return contributions, expected(0)
