"""Recipes tell all that tracing reads, and nothing that differs between processes; what is unknown has none."""

from __future__ import annotations

import functools
import os
import time
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from backtrace_jax.ir import Eqn, Graph, Var
from backtrace_jax.rules import Rule
from backtrace_jax.runtime import cache as caching
from backtrace_jax.runtime import executables, recipes
from backtrace_jax.runtime.numerics import compiled
from backtrace_jax.runtime.recipes import Telling, UntoldError, made_once

X = Var("x", (1, 3), np.dtype(np.float32))


def told(value):
    return Telling().of(value)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(recipes, "_SETTLED", -1e9)  # these files may have been written a moment ago
    recipes._sources.cache_clear()
    yield tmp_path / "kept"
    recipes._sources.cache_clear()
    caching._cache_in.cache_clear()


DIFFERENT = [
    *(
        None,
        False,
        0,
        0.0,
        -0.0,
        "",
        b"",
        (),
        [],
        {},
        frozenset(),
        np.zeros(()),
        np.float32(0),
        np.zeros((), np.float32),
    ),
    *(
        True,
        1,
        1.0,
        "1",
        b"1",
        (1,),
        [1],
        {1: 1},
        {1: 2},
        {1: 1, 2: 2},
        {2: 2, 1: 1},
        {1},
        1 + 0j,
        (1, (2,)),
        ((1, 2),),
    ),
    *(np.zeros((2, 1)), np.zeros((1, 2)), np.zeros(2, ">f4"), np.zeros(2, "<f4"), np.arange(2), np.arange(2)[::-1]),
    *(np.dtype("f4"), np.dtype(ml_dtypes.bfloat16), np.float32, jnp.tanh, jnp.sin, np.tanh, jax.nn.gelu, Rule),
    *(X, Var("y", (1, 3), X.dtype), Graph((X,), (), (), (X,), ("x",)), Graph((X,), (), (), (X,), ("z",))),
    *(Eqn("relu", (X,), (X,), {"a": 1}), Eqn("relu", (X,), (X,), {"a": 1.0}), Eqn("relu", (X,), (X,))),
    *(jax.ShapeDtypeStruct((2,), np.float32), jax.ShapeDtypeStruct((2,), np.float32, weak_type=True)),
    *(functools.partial(jnp.sum), functools.partial(jnp.sum, 1), functools.partial(jnp.sum, axis=1)),
]


def test_what_differs_is_told_apart():
    digests = [told(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)


def test_what_is_equal_is_told_the_same():
    assert told({"a", "b", "c"}) == told({"c", "b", "a"})
    assert told(OrderedDict(a=[X])) == told(MappingProxyType({"a": [Var("x", (1, 3), X.dtype)]}))
    one, other = (np.arange(6).reshape(2, 3) for _ in range(2))
    assert told((one, one)) == told((one, other))


@dataclass(frozen=True)
class Foreign:
    size: int


@pytest.mark.parametrize(
    "value", [lambda site, R: ({}, {}), told, Foreign(1), Foreign, object(), pytest, iter(()), jnp.ones(3)]
)
def test_what_others_have_written_or_is_on_a_device_is_untold(value):
    for each in (value, [1, value], {"a": (value,)}, Rule("own", lambda site, R: ({}, {}), (("with", value),))):
        with pytest.raises(UntoldError):
            told(each)


def test_what_holds_itself_is_untold():
    circle = []
    circle.append(circle)
    with pytest.raises(UntoldError, match="itself"):
        told(circle)


def made(what, count):
    """Two functions, one of them twice, and how often they had to be made."""

    def make():
        count.append(what)
        one, other = (compiled(lambda x, n=n: x + n, np.ones(3, np.float32), device=jax.devices()[0]) for n in (1, 2))
        return {"pieces": [one, other, one], "types": [jax.ShapeDtypeStruct((3,), np.float32)]}

    return made_once(what, jax.devices()[0], make)


def test_what_was_made_is_found():
    count = []
    first, second = made(("a", X), count), made(("a", X), count)
    assert len(count) == 1
    assert second["types"] == first["types"]
    assert second["pieces"][0] is second["pieces"][2]
    for one, other in zip(first["pieces"], second["pieces"], strict=True):
        np.testing.assert_array_equal(one(np.ones(3, np.float32)), other(np.ones(3, np.float32)))
    made(("b", X), count)
    made(("a", X), count)
    assert len(count) == 2


def test_settings_of_jax_and_sources_are_told(monkeypatch):
    count = []
    made("a", count)
    with jax.numpy_rank_promotion("allow"):
        made("a", count)
    assert len(count) == 2
    with monkeypatch.context() as inside:
        inside.setattr(recipes, "_sources", lambda: "others")
        made("a", count)
    assert len(count) == 3
    made("a", count)
    assert len(count) == 3


def test_files_that_changed_since_they_were_imported_have_no_recipe(monkeypatch):
    monkeypatch.setattr(recipes, "_SETTLED", 5.0)
    monkeypatch.setattr(recipes, "_STARTED", os.stat(recipes.__file__).st_mtime)
    count = []
    made("a", count)
    made("a", count)
    assert len(count) == 2


@pytest.mark.parametrize("lost", ["executable", "damaged recipe", "everything"])
def test_what_was_lost_is_made_anew(folder, lost):
    count = []
    first = made("a", count)
    recipe = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns).name
    if lost == "executable":
        caching.cache_of_user().remove(executables.NAMES[first["pieces"][1]])
    elif lost == "damaged recipe":
        caching.cache_of_user().write(recipe, b"no pickle")
    else:
        for path in folder.iterdir():
            path.unlink()
    for _ in range(2):
        made("a", count)
    assert len(count) == 2


def test_turned_off_it_is_made_every_time(monkeypatch):
    monkeypatch.setenv(caching.VARIABLE, "off")
    count = []
    made("a", count)
    made("a", count)
    assert len(count) == 2


def test_it_takes_little_time_to_tell():
    """A chain of thousands of equations, whose values occur in several places."""
    graph = Graph((X,), (), tuple(Eqn("relu", (X, X), (Var(f"v{i}", (1, 3), X.dtype),)) for i in range(3000)), (X,), ())
    started = time.process_time()
    told((graph, graph, {"again": graph}))
    assert time.process_time() - started < 2.0
