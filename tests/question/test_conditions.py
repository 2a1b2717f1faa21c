"""Conditions let relevance pass only where a mask says so; what they cut off is booked as dead."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from backtrace_jax import Explainer, SettingError, explain
from backtrace_jax.ir import Var
from backtrace_jax.question.constants import read_conditions
from tests.tiny import COUNT, WIDTHS, TensorProto, convolutional, images, network, node, random
from tests.zoo import exported

HIDDEN = (WIDTHS["hidden"], 3, 3)
LAYERS = ("y", "active", "hidden")
LINEAR_IN_THE_START = ("default", "lrp-epsilon", "gradient-x-input")


@cache
def explainer(mode="default", groups=1):
    return Explainer(convolutional(groups=groups), mode=mode, layers=LAYERS)


@cache
def free(mode="default"):
    """Explained without conditions."""
    return explainer(mode)(images())


def restricted(mode="default", **conditions):
    return explainer(mode)(images(), conditions=conditions)


def check_books(ledger):
    assert ledger.error.max() <= 1e-6
    assert max(node.error.max() for node in ledger.by_node.values()) <= 1e-6


# what passes, and what does not


def test_outside_a_mask_no_relevance_is_left():
    mask = np.random.default_rng(0).integers(0, 2, HIDDEN).astype(bool)
    found = restricted(hidden=mask)
    np.testing.assert_array_equal(found.layers["hidden"], np.where(mask, free().layers["hidden"], 0))
    np.testing.assert_array_equal(found.layers["active"], free().layers["active"])
    assert found.layers["hidden"].any()


@pytest.mark.parametrize(
    "kept", [[1, 2], np.array([2, 1]), (1, 2), np.array([False, True, True, False])[:, None, None]]
)
def test_channels_are_kept_by_number_or_by_mask(kept):
    found = restricted(hidden=kept).layers["hidden"]
    np.testing.assert_array_equal(found[:, [1, 2]], free().layers["hidden"][:, [1, 2]])
    assert not found[:, [0, 3]].any()


def test_what_lies_behind_closed_channels_gets_nothing():
    """In a grouped convolution each half of the channels sees one half of the picture."""
    call = explainer(groups=2)
    for kept, seen in (([0, 1], 0), ([2, 3], 1)):
        relevance = call(images(), conditions={"hidden": kept}).relevance["x"]
        assert not relevance[:, 1 - seen].any()
        np.testing.assert_array_equal(relevance[:, seen], call(images()).relevance["x"][:, seen])
        assert relevance[:, seen].any()


def test_a_module_stands_for_its_value():
    by_module = explainer()(images(), conditions={"features.conv": [3]})
    assert by_module.relevance["x"].tobytes() == restricted(hidden=[3]).relevance["x"].tobytes()


def test_two_names_of_one_value_hold_both():
    both = explainer()(images(), conditions={"features.conv": [0, 3], "hidden": [1, 3]})
    assert both.relevance["x"].tobytes() == restricted(hidden=[3]).relevance["x"].tobytes()


def test_conditions_on_several_values_hold_together():
    mask = np.arange(9).reshape(3, 3) % 2
    found = restricted(hidden=[0, 1], active=mask[None])
    expected = free().layers["hidden"] * mask
    np.testing.assert_array_equal(found.layers["hidden"][:, :2], expected[:, :2])
    assert not found.layers["hidden"][:, 2:].any()


def test_part_of_the_relevance_may_pass():
    np.testing.assert_array_equal(restricted(hidden=0.25).layers["hidden"], 0.25 * free().layers["hidden"])


def test_the_value_explained_may_be_restricted_itself():
    target = free().target
    none, all_of_it = (restricted(y=np.arange(5) != target[0]), restricted(y=np.ones(5)))
    assert not none.relevance["x"][0].any()
    assert none.ledger.dead[0] == none.ledger.start[0] == 1
    assert all_of_it.relevance["x"].tobytes() == free().relevance["x"].tobytes()


def test_tokens_are_kept_by_position():
    table, weight = random(7, 4, seed=3), random(4, 5, seed=4)
    nodes = [
        node("Gather", ["table", "ids"], ["rows"]),
        node("ReduceMean", ["rows", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "weight"], ["y"]),
    ]
    axes = np.array([1])
    model = network(nodes, {"ids": (TensorProto.INT64, ["batch", 6])}, table=table, weight=weight, axes=axes)
    ids = np.random.default_rng(0).integers(0, 7, (COUNT, 6))
    call, kept = Explainer(model), np.array([True, False, True, True, False, False])
    found = call(ids, conditions={"rows": kept[:, None]})
    assert not found.relevance["ids"][:, ~kept].any()
    np.testing.assert_allclose(found.relevance["ids"][:, kept], call(ids).relevance["ids"][:, kept], rtol=1e-6)
    check_books(found.ledger)


def test_a_module_of_an_exported_model():
    model = exported("lenet")
    found = explain(model.model, model.inputs, conditions={"3": [0, 5]}, layers="3")
    assert found.layers["3"][:, [0, 5]].any()
    assert not np.delete(found.layers["3"], [0, 5], axis=1).any()
    check_books(found.ledger)
    assert list(found.fingerprint["conditions"]) == ["3"]


# the channels of a layer, whichever axis they are on

SERIES, PICTURE = (2, 6, 3), (2, 5, 5, 3)
LAYOUTS = {
    "a picture with channels last": (
        PICTURE,
        [
            node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]),
            node("Conv", ["turned", "K"], ["made"]),
            node("Transpose", ["made"], ["back"], perm=[0, 2, 3, 1]),
            node("Relu", ["back"], ["layer"]),
        ],
        {"K": random(4, 3, 2, 2, seed=3)},
        -1,
    ),
    "steps of features": (SERIES, [node("MatMul", ["x", "K"], ["layer"])], {"K": random(3, 4, seed=3)}, -1),
    "features of steps": (SERIES, [node("Conv", ["x", "K"], ["layer"])], {"K": random(4, 6, 2, seed=3)}, 1),
    "a line as a picture of one row": (
        SERIES,
        [
            node("Unsqueeze", ["x", "two"], ["row"]),
            node("Conv", ["row", "K"], ["made"]),
            node("Squeeze", ["made", "two"], ["layer"]),
        ],
        {"K": random(4, 6, 1, 2, seed=3), "two": np.array([2])},
        1,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_channels_are_those_of_the_layer(name):
    shape, nodes, weights, axis = LAYOUTS[name]
    nodes = [*nodes, node("ReduceSum", ["layer", "all"], ["y"], keepdims=0)]
    weights = {**weights, "all": np.arange(1, len(shape))}
    call = Explainer(network(nodes, {"x": (TensorProto.FLOAT, ["batch", *shape[1:]])}, **weights), layers="layer")
    x = random(*shape, seed=8)
    whole, kept = (call(x, conditions=each).layers["layer"] for each in ({"layer": 1.0}, {"layer": [1, 3]}))
    np.testing.assert_array_equal(np.take(kept, [1, 3], axis), np.take(whole, [1, 3], axis))
    assert not np.take(kept, [0, 2], axis).any()
    assert np.take(whole, [0, 2], axis).any()


def test_a_list_where_no_axis_holds_channels_is_refused():
    nodes = [node("MatMul", ["x", "x"], ["product"]), node("ReduceSum", ["product", "all"], ["y"], keepdims=0)]
    model = network(nodes, {"x": (TensorProto.FLOAT, ["batch", 4, 4])}, all=np.array([1, 2]))
    x = random(2, 4, 4)
    with pytest.raises(SettingError, match=r"conditions\['product'\]: which axis of \[4, 4\] .* pass a mask"):
        explain(model, x, conditions={"product": [0, 1]})
    assert explain(model, x, conditions={"product": np.eye(4)}).relevance["x"].any()


# the books


@pytest.mark.parametrize("mode", ["default", "lrp-epsilon"])
def test_what_is_cut_off_is_dead(mode):
    found, before = restricted(mode, hidden=[0, 3]), free(mode)
    cut = before.layers["hidden"][:, [1, 2]].astype(np.float64)
    dead, dead_before = (x.ledger.by_node["hidden"] for x in (found, before))
    np.testing.assert_allclose(dead.dead - dead_before.dead, cut.sum(axis=(1, 2, 3)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(dead.absolute[:, 5], np.abs(cut).sum(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(dead.start, before.layers["hidden"].sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.ledger.dead - before.ledger.dead, dead.dead - dead_before.dead, rtol=1e-6)
    check_books(found.ledger)


@pytest.mark.parametrize("mode", LINEAR_IN_THE_START)
def test_two_halves_make_the_whole(mode):
    mask = np.random.default_rng(1).integers(0, 2, HIDDEN)
    halves = [restricted(mode, hidden=part.astype(float)).relevance["x"] for part in (mask, 1 - mask)]
    whole = free(mode).relevance["x"]
    np.testing.assert_allclose(halves[0] + halves[1], whole, atol=2e-6 * np.abs(whole).max())
    assert min(np.abs(half).max() for half in halves) > 1e-2 * np.abs(whole).max()


@pytest.mark.parametrize("mode", [*LINEAR_IN_THE_START, "contrastive", "attnlrp"])
def test_conditions_that_hold_everywhere_change_no_byte(mode):
    found, before = restricted(mode, hidden=np.ones(HIDDEN), active=[0, 1, 2, 3]), free(mode)
    assert found.relevance["x"].tobytes() == before.relevance["x"].tobytes()
    for name in LAYERS:
        assert found.layers[name].tobytes() == before.layers[name].tobytes()
    if before.ledger is not None:
        assert found.ledger.signed.tobytes() == before.ledger.signed.tobytes()


def test_in_pairs_both_channels_are_restricted():
    found, before = restricted("contrastive", hidden=[0, 1]), free("contrastive")
    for name, channel in found.channels.items():
        whole = before.channels[name].layers["hidden"]
        np.testing.assert_array_equal(channel.layers["hidden"][:, :2], whole[:, :2])
        assert not channel.layers["hidden"][:, 2:].any()
        dead = channel.ledger.by_node["hidden"].dead - before.channels[name].ledger.by_node["hidden"].dead
        np.testing.assert_allclose(dead, whole[:, 2:].sum(axis=(1, 2, 3)), rtol=1e-5, atol=1e-9)
        check_books(channel.ledger)


def test_other_conditions_of_the_same_kind_compile_nothing():
    call = Explainer(convolutional())
    for kept in ([0], [1, 2], np.ones(HIDDEN)):
        call(images(), conditions={"hidden": kept})
    assert call._stages.compiled.cache_info().misses == 1


# mistakes


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ([4], ["'hidden'", "channels go from 0 to 3", "[4]"]),
        ([-1, 2], ["'hidden'", "channels go from 0 to 3", "[-1, 2]"]),
        (1, ["'hidden'", "one whole number, 1", "[1] to keep a channel"]),
        ([1, 0, 0, 1], ["'hidden'", "a channel twice", "as a mask", "floats or booleans"]),
        (np.ones((3, 4)), ["'hidden'", "[3, 4]", "does not broadcast against [4, 3, 3]"]),
        (np.ones((1, *HIDDEN)), ["'hidden'", "[1, 4, 3, 3]", "[4, 3, 3]"]),
        ([], ["'hidden'", "[0]", "[4, 3, 3]"]),
        (np.full(HIDDEN, np.nan), ["'hidden'", "from 0 to 1"]),
        (np.full(HIDDEN, 2.0), ["'hidden'", "from 0 to 1"]),
        (np.full(HIDDEN, -1), ["'hidden'", "from 0 to 1"]),
        ("conv", ["'hidden'", "from 0 to 1", "'conv'"]),
        (None, ["'hidden'", "from 0 to 1", "None"]),
        ([[1], [1, 0]], ["conditions['hidden'] has rows of unequal length"]),
    ],
)
def test_wrong_conditions(condition, words):
    with pytest.raises(SettingError) as caught:
        read_conditions(
            {"hidden": condition}, {"hidden": Var("hidden", (1, *HIDDEN), np.dtype(np.float32))}, {"hidden": 1}
        )
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


@pytest.mark.parametrize("name", ["hiden", "flatten", "x", "head.weight"])
def test_unknown_names_are_refused_with_examples(name):
    with pytest.raises(SettingError, match=rf"no relevance passes .*{name!r}.*active, flat, hidden"):
        restricted(**{name: [0]})


def test_values_that_relevance_does_not_pass_are_refused():
    with pytest.raises(SettingError, match=r"no relevance passes .*'box'"):
        explain(convolutional(("y", "box")), images(), conditions={"box": [0]})


def test_a_wrong_condition_is_named_on_the_way():
    with pytest.raises(SettingError, match=r"conditions\['hidden'\]: channels go from 0 to 3"):
        restricted(hidden=[17])
