"""Networks with channels last: the same answers and relevance, under the same names and in the same shapes."""

import numpy as np
import pytest

from backtrace_jax import Explainer
from backtrace_jax.engine import compiled
from backtrace_jax.importers import read
from backtrace_jax.passes import channels_last, simplify, with_float_type
from backtrace_jax.passes.check import check
from tests.passes.graphs import check_unchanged
from tests.zoo import exported

CONVOLUTIONAL = ("lenet", "resnet_small", "densenet", "mobilenet_v3", "efficientnet", "vit")


def lowered(name):
    model = exported(name)
    program = read(model.model).lower({key: (1, *array.shape[1:]) for key, array in model.inputs.items()})
    return simplify(with_float_type(program, np.dtype(np.float64)))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_answers_stay_and_little_is_turned(name):
    before = lowered(name)
    after = channels_last(before)
    check(after.graph)
    check_unchanged(before, after)
    convolutions = [eqn for eqn in after.graph.eqns if eqn.op == "conv"]
    assert convolutions
    assert all(eqn.params.get("channels_last") for eqn in convolutions)
    assert sum(eqn.op == "turn" for eqn in after.graph.eqns) <= 2  # at the input, and before the head


def test_nothing_changes_without_a_convolution():
    before = lowered("mlp")
    assert channels_last(before) is before


@pytest.mark.parametrize("mode", ["default", "contrastive", "attnlrp"])
def test_relevance_is_the_same_by_name(mode, monkeypatch):
    """Of every value of the network, with a condition on one; a value of the inside may be the one explained."""
    model = exported("resnet_small")
    images = next(iter(model.inputs.values()))
    settings = {"mode": mode, "layers": "all", "dtype": "float64", "chunk": 1}

    def found():
        """By explainers of their own; those that `explain` keeps would be the same ones twice."""
        explainer = Explainer(model.model, **settings)
        whole = explainer(images)
        name = next(name for name, array in whole.layers.items() if array.ndim == 4 and array.shape[1] == 16)
        held = explainer(images, conditions={name: [0, 3, 5]})
        inside = Explainer(model.model, **settings, output=name)(images, target=(2, 1, 1))
        return [{**each.layers, **each.relevance} for each in (whole, held, inside)]

    turned = found()
    monkeypatch.setattr(compiled, "arranged", lambda program, *_: program)
    for one, other in zip(turned, found(), strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_allclose(array, other[name], atol=1e-10 * np.abs(other[name]).max(), err_msg=name)
