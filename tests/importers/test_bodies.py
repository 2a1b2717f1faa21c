"""What never changes in a loop is a constant of it, and the bias of a gate shares as in ONNX's own recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from backtrace_jax.importers.onnx import load, lower
from backtrace_jax.passes import simplify
from tests.exporters.pairs import relevance
from tests.passes.graphs import outputs

STEPS, WIDTH, HIDDEN = 3, 2, 3
generator = np.random.default_rng(0)
W, U = generator.normal(size=(WIDTH, HIDDEN)), generator.normal(size=(HIDDEN, HIDDEN))
b, c = generator.normal(size=(2, HIDDEN))
x = generator.normal(size=(STEPS, WIDTH))
START = np.zeros((1, HIDDEN))

AS_THEY_CAME = "W2 = Identity(W) U2 = Identity(U1) b2 = Identity(b1) c2 = Identity(c1)"
BRANCHES = """U2 = Identity(U1) b2 = Identity(b1) c2 = Identity(c1)
    at = Identity(i) big = Greater(at, one) W2 = If(big)<
        then_branch = t () => (double[2,3] w) {
            w = If(big)<then_branch = tt () => (double[2,3] w1) { w1 = Identity(W) },
                        else_branch = te () => (double[2,3] w2) { w2 = Identity(W) }> },
        else_branch = e () => (double[2,3] w3) { w3 = Identity(W) }>"""
SUMS = {
    "behind both": "xw = MatMul(xt, W) hu = MatMul(h, U1) s = Add(xw, hu) bias = Add(b1, c1) total = Add(s, bias)",
    "each its own": "xw = MatMul(xt, W) xb = Add(xw, b1) hu = MatMul(h, U1) hb = Add(hu, c1) total = Add(xb, hb)",
    "the state's": "xw = MatMul(xt, W) hu = MatMul(h, U1) bias = Add(b1, c1) hb = Add(hu, bias) total = Add(hb, xw)",
}


def network(total: str, same: str = AS_THEY_CAME, steps: str = "steps", last: str = "last") -> onnx.ModelProto:
    """A plain recurrent network whose weights and input are all states of a Loop."""
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 18]>
    g (double[3,2] x) => (double[1,3] {last}) {{
        last, W9, U9, b9, c9, x9 = Loop(steps, , start, w, u, b, c, x)<body = step (
            int64 i, bool go, double[1,3] h, double[2,3] W, double[3,3] U1, double[3] b1, double[3] c1, double[3,2] xs
        ) => (bool go, double[1,3] h2, double[2,3] W2, double[3,3] U2, double[3] b2, double[3] c2, double[3,2] xs) {{
            row = Gather<axis = 0>(xs, i) xt = Unsqueeze(row, zero)
            {total} h2 = Tanh(total) {same}
        }}> }}""")
    arrays = {"start": START, "w": W, "u": U, "b": b, "c": c, "zero": np.array([0]), "one": np.array(1)}
    arrays["steps"] = np.array(STEPS if steps == "steps" else int(steps))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def program(model: onnx.ModelProto):
    return lower(load(model), {"x": (STEPS, WIDTH)})


def states(total: str, same: str = AS_THEY_CAME) -> int:
    return program(network(total, same)).graph.eqns[0].params["states"]


def by_hand() -> np.ndarray:
    h = START
    for row in x:
        h = np.tanh(row @ W + h @ U + b + c)
    return h


def layer() -> onnx.ModelProto:
    """The same network as an RNN."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
    g (double[3,2] x) => (double[1,3] y) {
        x3 = Unsqueeze(x, one) all, last = RNN<hidden_size = 3>(x3, W, R, B) y = Squeeze(last, one) }""")
    arrays = {"W": W.T[None], "R": U.T[None], "B": np.concatenate([b, c])[None], "one": np.array([1])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@pytest.mark.parametrize("same", [AS_THEY_CAME, BRANCHES])
def test_states_that_never_change_are_none(same):
    found = program(network(SUMS["behind both"], same))
    scan = next(eqn for eqn in found.graph.eqns if eqn.op == "scan")
    assert scan.params["states"] == 1
    for each in (found, simplify(found)):
        np.testing.assert_allclose(outputs(each, {"x": x})[0], by_hand(), rtol=1e-12)


def test_what_changes_stays_a_state():
    """Two states that change places, and one that only one branch leaves alone."""
    swapped = "W2 = Identity(W) U2 = Identity(U1) b2 = Identity(c1) c2 = Identity(b1)"
    once = BRANCHES.replace("w3 = Identity(W)", "w3 = Neg(W)")
    assert states(SUMS["behind both"], swapped) == 3
    found = program(network(SUMS["behind both"], once))
    assert next(eqn for eqn in found.graph.eqns if eqn.op == "scan").params["states"] == 2
    h, w = START, W
    for i, row in enumerate(x):
        h, w = np.tanh(row @ w + h @ U + b + c), w if i > 1 else -w
    np.testing.assert_allclose(outputs(simplify(found), {"x": x})[0], h, rtol=1e-12)


@pytest.mark.parametrize("steps", ["0", "3"])
@pytest.mark.parametrize(("last", "first"), [("W9", W), ("x9", x)])
def test_the_last_of_a_state_that_never_changes_is_the_first(last, first, steps):
    model = network(SUMS["behind both"], steps=steps, last=last)
    (found,) = outputs(simplify(program(model)), {"x": x})
    np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize("mode", ["default", "contrastive"])
def test_wherever_a_bias_is_written_it_shares_as_in_the_layer(mode):
    expected = relevance(simplify(program(layer())), {"x": x}, mode)["x"]
    assert np.abs(expected).max() > 0.01
    for total in SUMS.values():
        found = relevance(simplify(program(network(total))), {"x": x}, mode)["x"]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
