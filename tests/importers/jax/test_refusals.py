"""What is no model, or cannot be traced, is said by name, with the line and the way out."""

import subprocess
import sys

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

from backtrace_jax import check, explain
from backtrace_jax.errors import BacktraceError, UnsupportedError

from . import kinds


class Silent(nnx.Module):
    """A module that is not called."""


class Quiet(equinox.Module):
    weight: jax.Array


def shapes(tree):
    return jax.tree.map(lambda each: jax.ShapeDtypeStruct(np.shape(each), each.dtype), tree)


TRAINING = kinds.Nnx()
TRANSFORMED = haiku.transform(kinds.by_haiku)

NO_MODELS = {
    "pass (module, variables)": kinds.Linen(),
    "found 3 entries": (kinds.Linen(), {}, {}),
    "pass an instance": kinds.Linen,
    "pass the method": Silent(),
    "without __call__": Quiet(jnp.ones(2)),
    "transformed, params": TRANSFORMED,
    "transformed.apply, params": TRANSFORMED.apply,
    "with its state": (haiku.transform_with_state(kinds.by_haiku_with_state), kinds.PARAMS),
    "a shape without numbers": nnx.eval_shape(kinds.Nnx),
    "norm.mean' is a shape": (kinds.Linen(), shapes(kinds.VARIABLES)),
    "torch tensor": (kinds.Linen(), {"params": {"first": {"kernel": torch.ones(4, 5)}}}),
    "batch_stats": (kinds.Linen(), {"params": kinds.VARIABLES["params"]}),
    "weights only": kinds.VARIABLES,
}

NOT_TRACED = {
    r"test_refusals.py:\d+\) cannot be traced: Python decides": lambda x: x if x.sum() > 0 else -x,
    r"test_refusals.py:\d+\) cannot be traced: an index of booleans": lambda x: x[x > 0],
    r"test_refusals.py:\d+\) cannot be traced: it gives the values": lambda x: np.sin(x),
    r"test_refusals.py:\d+\) cannot be traced: a shape, an axis": lambda x: x * float(x[0, 0]),
    r"test_refusals.py:\d+\) cannot be traced: Python takes a value": lambda x: x * len(range(x[0, 0].astype(int))),
    r"test_refusals.py:\d+\) computes with torch": lambda x: torch.relu(x),
    r"returns torch tensors": lambda x: torch.ones(2, 3),
    r"returns no array": lambda x: None,
    r"changes a module that it holds; pass the module itself": lambda x: TRAINING(x),
    r"cannot be called with x \[1, 4\]: TypeError: cannot reshape": lambda x: x.reshape(2, 2, 2),
    r"missing 1 required positional argument: 'y'": lambda x, y: x + y,
}


@pytest.mark.parametrize("said", NO_MODELS)
def test_what_is_no_model_is_said(said):
    with pytest.raises(BacktraceError) as error:
        explain(NO_MODELS[said], kinds.X, mode="gradient", target=0)
    assert said in str(error.value)
    assert len(str(error.value)) < 320


@pytest.mark.parametrize("said", NOT_TRACED)
def test_what_cannot_be_traced_is_said_with_its_line(said):
    with pytest.raises(BacktraceError, match=said) as error:
        explain(NOT_TRACED[said], kinds.X, mode="gradient", target=0)
    assert len(str(error.value)) < 320


def test_a_models_weights_inside_a_transformation_are_refused():
    module = kinds.Linen()

    def loss(variables):
        return explain((module, variables), kinds.X, mode="gradient", target=0).relevance["x"]

    with pytest.raises(BacktraceError, match="inside a JAX transformation"):
        jax.jit(loss)(kinds.VARIABLES)


@jax.custom_jvp
def bent(x):
    return x * x


bent.defjvp(lambda primals, tangents: (bent(primals[0]), 7 * tangents[0]))


@pytest.mark.parametrize("function", [bent, lambda x: x * jax.lax.stop_gradient(x)])
def test_a_gradient_that_is_not_the_derivative_is_refused(function):
    with pytest.raises(UnsupportedError, match=r"autograd gives another \((custom_jvp of bent|stop_gradient)\)"):
        explain(function, kinds.X, mode="gradient", target=0)
    found = explain(function, kinds.X, mode="lrp-epsilon", target=0)
    np.testing.assert_allclose(found.outputs["output"], kinds.X * kinds.X)


def test_a_gradient_that_is_the_derivative_is_none_of_that():
    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda _, above: (2 * above,))
    found = explain(lambda x: jax.nn.softmax(jax.nn.relu(doubled(x))), kinds.X, mode="gradient", target=1)
    expected = jax.grad(lambda x: jax.nn.softmax(jax.nn.relu(2 * x))[:, 1].sum())(kinds.X)
    np.testing.assert_allclose(found.relevance["x"], expected, atol=1e-6)


def test_importing_the_package_imports_no_framework():
    code = "import sys, backtrace_jax; print({'flax', 'equinox', 'haiku', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_linen_module_bound_in_another_way_still_has_its_error():
    class Outer(linen.Module):
        inner: linen.Module

        def __call__(self, x):
            return self.inner(x)

    module = Outer(linen.Dense(2))
    variables = module.init(jax.random.key(0), kinds.X)
    found = explain((module, variables), kinds.X, mode="gradient", target=0, layers="inner")
    assert [*found.layers] == ["inner"]


def test_check_lists_all_that_is_missing():
    def function(x):
        square = x[:, :, None] * x[:, None]
        with jax.named_scope("odd"):
            return jnp.tanh(jnp.linalg.cholesky(square)[:, 0]) + jax.scipy.special.betainc(x, x, 0.5)

    report = check(function, kinds.X)
    assert not report.ok
    for missing in ("cholesky", "regularized_incomplete_beta"):
        assert any(f"{missing} in odd (from" in each and "test_refusals.py" in each for each in report.problems)
    assert len(report.problems) == 2
    assert check(kinds.function, kinds.X).ok
