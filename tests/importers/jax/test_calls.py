"""Arguments are trees: arrays in them have names, all else is constant, and relevance comes back in the same tree."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from backtrace_jax import Explainer, Explanation, explain
from backtrace_jax.errors import BacktraceError, InputError

X, Y = np.arange(6, dtype=np.float32).reshape(2, 3) + 1, np.ones((2, 2), np.float32)
GRADIENT = {"mode": "gradient", "target": 0}
Pair = collections.namedtuple("Pair", ["image", "mask"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    image: object
    size: object = dataclasses.field(metadata={"static": True}, default=1)


@dataclasses.dataclass
class Unknown:
    image: object


def two(x, y=None, *, factor=1.0, name="plain"):
    return (x.sum(-1) if y is None else x.sum(-1) + 3 * y.sum(-1))[:, None] * factor * (2 if name == "double" else 1)


TREES = {
    "array": (two, X, {"x": 1.0}),
    "tuple": (two, (X, Y), {"x": 1.0, "y": 3.0}),
    "keywords": (two, {"y": Y, "x": X, "factor": 2.0, "name": "double"}, {"x": 4.0, "y": 12.0}),
    "none": (two, (X, None), {"x": 1.0}),
    "numbers": (two, X.tolist(), {"x": 1.0}),
    "jax": (two, jnp.asarray(X), {"x": 1.0}),
    "dict": (lambda batch: 2 * batch["image"] + batch["more"][0], {"image": X, "more": [X, "text"]},
             {"batch.image": 2.0, "batch.more.0": 1.0}),
    "named tuple": (lambda pair: jnp.where(pair.mask, pair.image, 0), (Pair(X, X > 1),), {"pair.image": 1.0}),
    "dataclass": (lambda batch: batch.image * batch.size, Batch(X, 3), {"batch.image": 3.0}),
    "any names": (lambda **arrays: arrays["a"] - arrays["b"], {"a": X, "b": X}, {"a": 1.0, "b": -1.0}),
    "any places": (lambda *arrays: arrays[0] + arrays[1], (X, X), {"input.0": 1.0, "input.1": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TREES)
def test_relevance_comes_back_by_name_and_in_the_tree(kind):
    function, inputs, slopes = TREES[kind]
    found = explain(function, inputs, **GRADIENT)
    assert [*found.relevance] == [*slopes]
    for name, slope in slopes.items():
        own = found.relevance[name]
        if own.shape == X.shape and function is not two:  # the slope of the first of three answers
            own = own[:, 0] * (X[:, 0] > 1) if kind == "named tuple" else own[:, 0]
            slope = slope * (X[:, 0] > 1) if kind == "named tuple" else slope
        np.testing.assert_allclose(own, np.broadcast_to(slope, own.shape))
    tree = found.in_tree()
    names = jax.tree.leaves(tree)
    assert len(names) == len(slopes)
    assert all(any(each is array for array in found.relevance.values()) for each in names)
    if kind == "dict":
        assert tree["image"] is found.relevance["batch.image"]
        assert tree["more"] == [found.relevance["batch.more.0"], None]
    if kind == "dataclass":
        assert isinstance(tree, Batch)
        assert tree.size == 3


def test_a_saved_explanation_has_no_tree(tmp_path):
    explain(two, (X, Y), **GRADIENT).save(tmp_path / "saved.npz")
    with pytest.raises(BacktraceError, match="tree"):
        Explanation.load(tmp_path / "saved.npz").in_tree()


def test_outputs_have_the_names_of_their_tree():
    @dataclasses.dataclass
    class Output:
        logits: object
        states: object

    assert [*explain(lambda x: Output(x, [x + 1, x + 2]), X, **GRADIENT).outputs] == ["logits", "states.0", "states.1"]
    assert [*explain(lambda x: (x, {"b": x}), X, **GRADIENT).outputs] == ["output.0", "output.1.b"]
    assert [*explain(lambda x: x.sum(-1), X, mode="gradient").outputs] == ["output"]


def test_the_batch_may_be_another_axis_or_none():
    found = explain(lambda x, scale: x.sum(0)[:, None] * scale, (X, np.float32(2)), batch_axis={"x": 1, "scale": None},
                    **GRADIENT)  # fmt: skip
    np.testing.assert_allclose(found.outputs["output"][:, 0], X.sum(0) * 2)
    np.testing.assert_allclose(found.relevance["x"], np.full(found.relevance["x"].shape, 2.0))
    alone = explain(lambda x: x @ jnp.ones((3, 2)), X[0], batch_axis=None, **GRADIENT)
    np.testing.assert_allclose(alone.outputs["output"], X[:1] @ np.ones((3, 2)))


def test_types_of_inputs_are_those_of_jax():
    found = explain(lambda x, keep, power: x * keep * power, (X, X > 2, np.asarray([[1], [2]])), wrt=["x"], **GRADIENT)
    np.testing.assert_allclose(found.outputs["output"], X * (X > 2) * [[1], [2]])
    half = explain(lambda x: x.astype(jnp.float32) * 2, X.astype(ml_dtypes.bfloat16), **GRADIENT)
    np.testing.assert_allclose(half.outputs["output"], X * 2)
    assert explain(two, X.astype(np.float64), **GRADIENT).outputs["output"].dtype == np.float32


def test_types_of_weights_are_those_of_jax():
    weights = np.linspace(-1, 1, 6).reshape(3, 2)
    for model in (lambda x: x @ weights, functools.partial(lambda w, x: x @ w, weights)):
        found = explain(model, X, **GRADIENT)
        assert found.outputs["output"].dtype == np.float32
        np.testing.assert_allclose(found.relevance["x"], np.tile(weights[:, 0], (2, 1)), rtol=1e-6)


def test_keys_are_constants():
    key = jax.random.key(0)
    found = explain(lambda x, key: 2 * x, {"x": X, "key": key}, **GRADIENT)
    np.testing.assert_allclose(found.outputs["output"], 2 * X)
    with pytest.raises(BacktraceError, match="random"):
        explain(lambda x, key: x * jax.random.normal(key), {"x": X, "key": key}, **GRADIENT)


def test_an_explainer_takes_arrays_by_name_and_keeps_its_constants():
    explainer = Explainer(two, example={"x": X, "y": Y, "factor": 3.0}, mode="gradient")
    by_name = explainer({"x": X + 1, "y": Y}, target=0)
    np.testing.assert_allclose(by_name.outputs["output"][:, 0], 3 * ((X + 1).sum(1) + 3 * Y.sum(1)))
    with pytest.raises(InputError, match="give explain the model itself"):
        explainer((X, None), target=0)


@pytest.mark.parametrize(
    ("function", "inputs", "said"),
    [
        (two, None, "traced for its inputs"),
        (two, 3.0, "no array among them"),
        (two, {}, "no array among them"),
        (two, np.float32(3), "no batch along axis 0"),
        (two, X[:0], "no batch along axis 0"),
        (lambda batch: batch.image, Unknown(X), "register_dataclass"),
        (two, np.asarray([["a"]]), "not numbers"),
        (two, jax.ShapeDtypeStruct((2, 3), np.float32), "no numbers"),
        (two, (X, X, X, X), "cannot be called with"),
        (two, [[1.0], [1.0, 2.0]], "unequal length"),
    ],
)
def test_what_is_no_input_is_said(function, inputs, said):
    with pytest.raises(BacktraceError, match=said) as error:
        explain(function, inputs, **GRADIENT)
    assert len(str(error.value)) < 320
