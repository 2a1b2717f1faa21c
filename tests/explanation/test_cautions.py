"""Warnings with numbers: what closed books do not show, said once per explanation, kept with it, and what to try."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from backtrace_jax import Explainer, Explanation, RelevanceWarning, explain, mode
from backtrace_jax.cli.main import main
from backtrace_jax.explanation import cautions
from backtrace_jax.explanation.ledger import Ledger
from tests.tiny import TensorProto, convolutional, images, network, node

ONE = np.ones((3, 2), np.float32)


def line(*weights, bias=0.0, before=()):
    """One number: a weighted sum of two features, and a bias."""
    K, b = np.array(weights, np.float32)[:, None], np.array([bias], np.float32)
    return network(
        [*before, node("Gemm", ["z" if before else "x", "K", "b"], ["y"])],
        {"x": (TensorProto.FLOAT, ["batch", 2])},
        K=K,
        b=b,
    )


def warned(words, *arguments, **settings):
    """The explanation, which warns of one thing with these words."""
    with pytest.warns(RelevanceWarning) as caught:
        found = explain(*arguments, **settings)
    caught = [each for each in caught if each.category is RelevanceWarning]
    assert len(caught) == 1, [str(each.message) for each in caught]
    assert "backtrace_jax" not in Path(caught[0].filename).parts  # at the place of the call
    text = str(caught[0].message)
    assert not [word for word in words if word not in text], text
    assert len(text) <= 300
    assert found.warnings == (text,)
    assert f"warning: {text}" in repr(found)
    return found


def test_relevance_that_cancels():
    """1001 x - 1000 x = 1: shares of 1001 and -1000."""
    x, model = np.array([[1, 0], [1, 1], [2, 1]], np.float32), line(1001.0, -1000.0)
    words = ["2e+03 times the start (example 1)", "'default' or 'lrp-gamma'"]
    found = warned(words, model, x, mode="lrp-epsilon")
    np.testing.assert_allclose(found.ledger.absolute[1, 1], 2001, rtol=1e-3)
    assert not explain(model, x).warnings, "in mode default nothing cancels"


def test_what_helps_depends_on_the_network():
    """Without convolutions lrp-epsilon-plus is lrp-epsilon."""
    kernel = np.array([[[1001.0], [-1000.0]]], np.float32)
    model = network([node("Conv", ["x", "K"], ["y"])], {"x": (TensorProto.FLOAT, ["batch", 2, 1])}, K=kernel)
    warned(["'default' or 'lrp-epsilon-plus'"], model, np.ones((1, 2, 1), np.float32), mode="lrp-epsilon")


def test_relevance_that_stays_on_the_way():
    settings = {"mode": mode("lrp-epsilon", bias="keep")}
    words = ["only 0.2 % of the relevance reached the inputs", "bias 100%", 'bias="ignore"', "example 0"]
    found = warned(words, line(0.01, 0.01, bias=9.98), ONE, **settings)
    np.testing.assert_allclose(found.ledger.bias, 0.998, rtol=1e-5)
    spread = explain(line(0.01, 0.01, bias=9.98), ONE, mode=mode("lrp-epsilon", bias="ignore"))
    assert not spread.warnings
    np.testing.assert_allclose(spread.relevance["x"], 0.5, rtol=1e-3)


def test_relevance_that_belongs_to_constants():
    added = node("Add", ["x", "c"], ["z"])
    given = {"x": (TensorProto.FLOAT, ["batch", 2])}
    model = network([added, node("Relu", ["z"], ["y"])], given, c=np.full(2, 500.0, np.float32))
    warned(["reached the inputs", "constant 100%"], model, ONE, target=0)


def test_what_conditions_cut_off_is_as_asked():
    found = explain(convolutional(), images(), conditions={"hidden": 0.0})
    np.testing.assert_allclose(found.ledger.inputs, 0)
    assert not found.warnings


def test_a_stabiliser_that_takes():
    words = ["stabiliser took 50% of the start", "smaller epsilon"]
    found = warned(words, line(0.5, 0.5), ONE, mode=mode("lrp-epsilon", epsilon=1.0))
    np.testing.assert_allclose(found.ledger.stabiliser, 0.5, rtol=1e-5)


def test_attributions_that_miss_the_change():
    """A step between two flat ends: one interval sees nothing of it."""
    nodes = [node("Sub", ["x", "half"], ["s"]), node("Mul", ["s", "steep"], ["t"]), node("Sigmoid", ["t"], ["y"])]
    model = network(nodes, {"x": (TensorProto.FLOAT, ["batch", 1])}, half=np.array([0.5], np.float32),
                    steep=np.array([80.0], np.float32))  # fmt: skip
    x = np.ones((1, 1), np.float32)
    coarse = mode("integrated-gradients", steps=1)
    found = warned(["by 100.0% of it", "example 0", "steps=4"], model, x, mode=coarse, task="regression")
    np.testing.assert_allclose(found.completeness_error, 1, rtol=1e-3)
    assert not explain(model, x, mode="integrated-gradients", task="regression").warnings


def test_channels_are_looked_at_apart():
    settings = {"mode": "contrastive", "task": "regression"}
    assert not explain(line(1.0, 2.0), ONE, **settings).warnings


@pytest.mark.parametrize("name", ["default", "contrastive", "gradient", "integrated-gradients", "deeplift"])
def test_sound_explanations_are_quiet(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RelevanceWarning)
        found = explain(convolutional(), images(), mode=name)
    assert found.warnings == ()
    assert "warning" not in repr(found)


def test_each_explanation_warns_once(recwarn):
    call = Explainer(line(1001.0, -1000.0), mode="lrp-epsilon")
    warnings.simplefilter("always", RelevanceWarning)
    for count in (1, 2):
        call(ONE)
        assert len([each for each in recwarn if each.category is RelevanceWarning]) == count


def test_warnings_are_kept_in_files_and_shown(tmp_path, capsys):
    np.save(tmp_path / "x.npy", ONE)
    (tmp_path / "m.onnx").write_bytes(line(1001.0, -1000.0).SerializeToString())
    arguments = ["explain", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "--mode", "lrp-epsilon"]
    assert main([*arguments, "--out", str(tmp_path / "e.npz")]) == 0
    found = Explanation.load(tmp_path / "e.npz")
    assert len(found.warnings) == 1
    assert f"warning: {found.warnings[0]}" in capsys.readouterr().err
    assert found.warnings[0].split("(")[0] in found._repr_html_()


# numbers, on books made by hand


def books(*rows):
    """A ledger of magnitudes: start, inputs, bias, constant, stabiliser, dead."""
    array = np.array(rows, np.float64)
    return Ledger(array, array)


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ((1, 10, 0, 0, 0, 0), 0),
        ((1, 10.1, 0, 0, 0, 0), 1),
        ((2, 20.2, 0, 0, 0, 0), 1),
        ((1, 0.01, 0.99, 0, 0, 0), 0),
        ((1, 0.0099, 0.99, 0, 0, 0), 1),
        ((1, 0.9, 0, 0, 0.1, 0), 0),
        ((1, 0.89, 0, 0, 0.11, 0), 1),
        ((0, 0, 0, 0, 0, 0), 0),
        ((1, 0.001, 0, 0, 0.999, 0), 2),
    ],
)
def test_where_the_limits_are(row, count):
    assert len(cautions.findings([books(row)], None, {})) == count


def test_the_worst_example_is_named():
    (found,) = cautions.findings([books((1, 50, 0, 0, 0, 0), (1, 5, 0, 0, 0, 0), (2, 400, 0, 0, 0, 0))], None, {})
    assert "200 times the start (example 2, worst of 2 among 3)" in found


@pytest.mark.parametrize(("errors", "count"), [([0.05, 0.0], 0), ([0.0, 0.051], 1), ([np.inf], 1)])
def test_where_completeness_is_missed(errors, count):
    assert len(cautions.findings([], np.array(errors), {"steps": 64})) == count
