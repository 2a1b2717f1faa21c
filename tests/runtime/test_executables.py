"""Executables that are kept are those that would be compiled, and nothing else of the process changes."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from backtrace_jax.runtime import cache as caching
from backtrace_jax.runtime import numerics
from backtrace_jax.runtime.numerics import compiled, exact_types

TYPE = jax.ShapeDtypeStruct((7, 5), np.float32)
X = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "kept"))
    yield tmp_path / "kept"
    caching._cache_in.cache_clear()


@contextlib.contextmanager
def counted():
    """Counts what is compiled inside."""
    found = []

    def heard(event, *_, **__):
        found.extend([event] if event == COMPILED else [])

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def attend(x):
    return {"out": jax.nn.softmax(x @ x.T, axis=-1), "size": jnp.abs(x).sum()}


def anew(function):
    """The same function, of which JAX remembers nothing."""
    return lambda *arrays: function(*arrays)


def times_compiled(*functions, types=(TYPE,), **settings):
    with counted() as found:
        for each in functions:
            compiled(anew(each), *types, **{"device": jax.devices()[0], **settings})
    return len(found)


def test_the_second_time_nothing_is_compiled_and_bytes_are_the_same():
    first = compiled(anew(attend), TYPE, device=jax.devices()[0])
    with counted() as found:
        second = compiled(anew(attend), TYPE, device=jax.devices()[0])
    assert not found
    one, other = (jax.tree.map(np.asarray, each(X)) for each in (first, second))
    assert one["out"].tobytes() == other["out"].tobytes()
    assert one["size"].tobytes() == other["size"].tobytes()
    np.testing.assert_allclose(one["size"], np.abs(X).sum(), rtol=1e-6)
    needs = [each.memory_analysis() for each in (first, second)]
    for name in ("temp_size_in_bytes", "output_size_in_bytes", "argument_size_in_bytes"):
        assert getattr(needs[0], name) == getattr(needs[1], name)


def test_turned_off_everything_is_compiled(monkeypatch, folder):
    monkeypatch.setenv(caching.VARIABLE, "off")
    assert times_compiled(attend, attend) == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    "other",
    [
        {"functions": [lambda x: {"out": jax.nn.softmax(x @ x.T, axis=-1), "size": jnp.abs(x).sum() + 1}]},
        {"functions": [lambda x: {"out": jax.nn.softmax(x @ x.T, axis=-1), "length": jnp.abs(x).sum()}]},
        {"types": [jax.ShapeDtypeStruct((7, 6), np.float32)]},
        {"types": [jax.ShapeDtypeStruct((7, 5), np.float64)]},
        {"precision": "default"},
        {"device": jax.devices()[-1]},
    ],
)
def test_what_differs_is_compiled(other):
    assert times_compiled(attend) == 1
    assert times_compiled(*other.pop("functions", [attend]), **other) == 1


def test_surroundings_that_differ_are_compiled_for(monkeypatch):
    from backtrace_jax.runtime import machine

    assert times_compiled(attend) == 1
    changes = [
        (machine, "processor", lambda: ("x86_64", "flags: none")),
        (machine, "threads", lambda: 64),
        (machine, "xla_flags", lambda: "--xla_cpu_max_isa=SSE4_2"),
        (machine, "versions", lambda: {"jaxlib": "0.0"}),
    ]
    for module, name, changed in changes:
        with monkeypatch.context() as inside:
            inside.setattr(module, name, changed)
            assert times_compiled(attend) == 1, name
    monkeypatch.setitem(numerics.COMPILER_OPTIONS["cpu"], "xla_cpu_prefer_vector_width", 128)
    assert times_compiled(attend) == 1
    with monkeypatch.context() as inside:
        inside.setenv("JAX_MEMORY_FITTING_LEVEL", "O0")  # read when JAX is imported, so it changes nothing
        assert times_compiled(attend) == 0


def test_arguments_that_are_not_read_are_told_apart():
    """The text of a function whose other argument is left out would be the same."""
    types = (TYPE, TYPE)
    assert times_compiled(lambda x, y: x + 1, types=types) == 1
    assert times_compiled(lambda x, y: y + 1, types=types) == 1
    second = compiled(lambda x, y: y + 1, *types, device=jax.devices()[0])
    np.testing.assert_array_equal(second(X, 2 * X), 2 * X + 1)


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04N."])
def test_what_jax_does_not_take_is_made_anew(content, folder):
    first = compiled(anew(attend), TYPE, device=jax.devices()[0])
    (name,) = (path.name for path in folder.iterdir())
    caching.cache_of_user().write(name, content)
    with counted() as found:
        second = compiled(anew(attend), TYPE, device=jax.devices()[0])
    assert len(found) == 1
    assert np.array_equal(first(X)["out"], second(X)["out"])
    assert times_compiled(attend) == 0


def test_functions_that_call_back_are_not_kept(folder):
    """What they call is a place in the memory of this process."""

    def called(x):
        return jax.pure_callback(lambda x: np.asarray(x) + 1, TYPE, x)

    assert times_compiled(called, called) == 2
    assert not folder.exists()


def test_nothing_of_the_process_changes():
    before = {name: str(value) for name, value in jax.config.values.items()}
    assert times_compiled(attend, attend) == 1
    assert {name: str(value) for name, value in jax.config.values.items()} == before
    with exact_types():
        assert jax.config.jax_compilation_cache_dir is None
