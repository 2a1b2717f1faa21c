"""A second call traces and compiles nothing; whatever changes what a model computes is never answered as it was."""

import functools
import gc
import weakref

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from backtrace_jax import Explainer, explain

from . import kinds

GRADIENT = {"mode": "gradient", "target": 0}
_HEARD: list[str] = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: _HEARD.append(event))

SCALE = 2.0
TABLE = np.ones(3, np.float32)


class Traced(list):
    """A list that can be referred to weakly."""


def scaled(x):
    return x * SCALE


def tabled(x):
    return x * TABLE


def outputs(model, x=kinds.X, **chosen):
    return explain(model, x, **GRADIENT, **chosen).outputs["output"]


@pytest.mark.parametrize("kind", ["nnx", "linen pair", "linen partial", "equinox", "haiku pair", "jitted", "method"])
def test_a_second_call_traces_and_compiles_nothing(kind):
    model = kinds.models()[kind]
    traced = Traced()
    counter = weakref.ref(traced)  # of which nothing is looked into
    function = (lambda x: counter().append(1) or model(x)) if kind in ("jitted", "method") else model
    explain(function, kinds.X, **GRADIENT)
    before = len(traced)
    again = type(model)(model) if kind == "linen pair" else function  # a tuple is made anew at every call
    _HEARD.clear()
    explain(again, kinds.X + 1, **GRADIENT)
    assert len(traced) == before
    assert not [event for event in _HEARD if "compile" in event]


def test_weights_are_read_anew():
    module = kinds.Nnx()
    np.testing.assert_allclose(outputs(module), kinds.answer(kinds.X), rtol=1e-5)
    module.layers[1].kernel[...] = 2 * kinds.SECOND
    np.testing.assert_allclose(outputs(module), 2 * kinds.answer(kinds.X), rtol=1e-5)


def test_variables_are_read_anew():
    module = kinds.Linen()
    for factor in (1, 3):
        variables = jax.tree.map(lambda each: each, kinds.VARIABLES)
        variables["params"]["second"] = {"kernel": factor * kinds.SECOND}
        np.testing.assert_allclose(outputs((module, variables)), factor * kinds.answer(kinds.X), rtol=1e-5)
        np.testing.assert_allclose(
            outputs(functools.partial(module.apply, variables)), factor * kinds.answer(kinds.X), rtol=1e-5
        )


def test_what_a_function_holds_and_reads_is_read_anew(monkeypatch):
    weights = np.ones(4, np.float32)

    def function(x):
        return x * weights

    for factor in (1, 5):
        weights[:] = factor
        np.testing.assert_array_equal(outputs(function), factor * kinds.X)
    for factor in (2.0, 7.0):
        monkeypatch.setitem(globals(), "SCALE", factor)
        np.testing.assert_array_equal(outputs(scaled), np.float32(factor) * kinds.X)
    for factor in (2, 7):
        TABLE[:] = factor
        np.testing.assert_array_equal(outputs(tabled, kinds.X[:, :3]), factor * kinds.X[:, :3])


def test_what_cannot_be_looked_into_is_traced_every_time():
    numbers = (float(i) for i in (1, 2, 3, 4))

    def function(x):
        return x + next(numbers)

    first = Explainer(function, example=kinds.X)._imported
    assert Explainer(function, example=kinds.X)._imported.sha256 != first.sha256


def test_constants_and_the_settings_of_jax_are_part_of_a_call():
    def function(x, train=False):
        return x + 1.0 if train else x + 0.0

    np.testing.assert_array_equal(outputs(function, {"x": kinds.X}), kinds.X)
    np.testing.assert_array_equal(outputs(function, {"x": kinds.X, "train": True}), kinds.X + 1)
    assert outputs(function, {"x": kinds.X}).dtype == np.float32
    double = kinds.X.astype(np.float64) / 3
    with jax.enable_x64(True):
        assert np.array_equal(outputs(function, {"x": double}, dtype="float64"), double)
        assert jax.config.jax_enable_x64
    assert np.array_equal(outputs(function, {"x": double}, dtype="float64"), double.astype(np.float32))
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("make", [kinds.Nnx, kinds.Equinox, lambda: lambda x: x @ jnp.asarray(kinds.FIRST)])
def test_models_are_let_go(make):
    model = make()
    explain(model, kinds.X, **GRADIENT)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def bytes_of(module):
    keys = jax.dtypes.prng_key
    arrays = jax.tree.leaves(nnx.state(module))
    return [np.asarray(jax.random.key_data(a) if jnp.issubdtype(a.dtype, keys) else a).tobytes() for a in arrays]


def test_the_users_module_stays_as_it_is():
    module = kinds.Nnx()
    module.train()
    parts = dict(nnx.iter_modules(module))
    before = {path: {**vars(part)} for path, part in parts.items()}
    kinds_of_parts = {path: type(part) for path, part in parts.items()}
    arrays = bytes_of(module)
    found = explain(module, kinds.X, **GRADIENT)
    assert any("is in train mode ('dropout')" in warning for warning in found.warnings)
    assert {path: type(part) for path, part in nnx.iter_modules(module)} == kinds_of_parts
    for path, part in nnx.iter_modules(module):
        assert vars(part).keys() == before[path].keys()
        assert all(vars(part)[name] is value for name, value in before[path].items())
    assert module.dropout.deterministic is False
    assert arrays == bytes_of(module)


@pytest.mark.parametrize("base", [nnx.Module, equinox.Module])
def test_hooks_of_the_users_classes_hear_nothing(base):
    heard = []

    class Heard(base):
        linear: object

        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            heard.append(cls)

    class Own(Heard):
        def __init__(self):
            self.linear = kinds.Nnx().layers[1] if base is nnx.Module else kinds.Equinox().second

        def __call__(self, x):
            return self.linear(x)

    class Outer(base):
        own: object

        def __init__(self):
            self.own = Own()

        def __call__(self, x):
            return self.own(x)

    x = np.ones((2, 5), np.float32)
    found = explain(Outer(), x, **GRADIENT, layers="own.linear")
    assert [*found.layers] == ["own.linear"]
    assert heard == [Own]
