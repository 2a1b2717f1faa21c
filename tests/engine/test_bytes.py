"""The same example has the same bytes alone, in every batch and at every position; a second call compiles nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from backtrace_jax import Explainer, Explanation, explain
from backtrace_jax.engine import compiled
from backtrace_jax.engine.sizes import Sizes
from tests.tiny import convolutional, images, random
from tests.zoo import exported

pytestmark = pytest.mark.optimised
GROUPED = {"resnet_small in groups": "resnet_small", "bert in groups": "bert"}
"""Explained a few at a time within a chunk, as only heavy models are by default."""
MODELS = ("mlp", "lenet_relu", "resnet_small", "bert", *GROUPED)
COUNT = 33
Inputs = dict[str, np.ndarray]


@functools.cache
def explainer(name: str) -> Explainer:
    if name not in GROUPED:
        return Explainer(exported(name).model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "sizes_of", lambda *_: Sizes(4, 2))
        call = Explainer(exported(GROUPED[name]).model, chunk=8)
        call({key: array[:1] for key, array in examples(name).items()})
    return call


@functools.cache
def examples(name: str) -> Inputs:
    """Different examples: images with noise; sentences as they are, with one word exchanged."""
    generator, chosen = np.random.default_rng(0), np.arange(COUNT) % 3
    inputs = {key: value[chosen] for key, value in exported(GROUPED.get(name, name)).inputs.items()}
    if "input_ids" in inputs:
        inputs["input_ids"][:, 1] = 3 + np.arange(COUNT)
        return inputs
    return {key: (x + generator.normal(size=x.shape)).astype(x.dtype) for key, x in inputs.items()}


def rows(inputs: Inputs, chosen) -> Inputs:
    return {key: value[chosen] for key, value in inputs.items()}


def row_bytes(explanation: Explanation) -> list[bytes]:
    """Everything an explanation says of each example: relevance, outputs, target, books."""
    ledger, target = explanation.ledger, explanation.target
    books = [] if ledger is None else [ledger.signed, ledger.absolute]
    arrays = [*explanation.relevance.values(), *explanation.outputs.values(), *books, target]
    return [b"".join(array[i].tobytes() for array in arrays) for i in range(len(explanation))]


@functools.cache
def alone(name: str) -> tuple[bytes, ...]:
    """Each example in a batch of its own."""
    call, inputs = explainer(name), examples(name)
    return tuple(row_bytes(call(rows(inputs, [i])))[0] for i in range(COUNT))


@pytest.mark.parametrize("name", MODELS)
def test_examples_differ(name):
    assert len(set(alone(name))) == COUNT


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 2, 3, 8, COUNT])
def test_bytes_do_not_depend_on_the_batch_size(name, size):
    explanation = explainer(name)(rows(examples(name), range(size)))
    assert row_bytes(explanation) == list(alone(name)[:size])


@pytest.mark.parametrize("name", MODELS)
def test_bytes_do_not_depend_on_the_position(name):
    """One example at every position of a batch of 33, and batches in other orders."""
    assert row_bytes(explainer(name)(rows(examples(name), [7] * COUNT))) == [alone(name)[7]] * COUNT
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(COUNT)
        found = row_bytes(explainer(name)(rows(examples(name), order)))
        assert found == [alone(name)[i] for i in order]


@pytest.mark.parametrize("name", ["mlp", "lenet_relu"])
def test_bytes_do_not_depend_on_the_call(name):
    """`explain`, a new Explainer and a kept one agree, and so do layers with the explanation without them."""
    inputs = rows(examples(name), range(5))
    kept = row_bytes(explainer(name)(inputs))
    assert row_bytes(explain(exported(name).model, inputs)) == kept
    assert row_bytes(Explainer(exported(name).model)(inputs)) == kept


@pytest.mark.parametrize("chunk", [1, 8])
def test_any_chunk_that_is_allowed_gives_rows_of_its_own(chunk):
    """Chunks may differ among each other; within one, batch and position do not matter."""
    call, inputs = Explainer(exported("lenet_relu").model, chunk=chunk), examples("lenet_relu")
    together = row_bytes(call(rows(inputs, range(19))))
    for i in (0, 5, 18):
        assert row_bytes(call(rows(inputs, [i]))) == [together[i]]


@pytest.mark.parametrize("ledger", ["nodes", "total"])
@pytest.mark.parametrize("mode", ["default", "lrp-epsilon", "contrastive", "gradient", "integrated-gradients"])
def test_bytes_at_the_borders_of_chunks_and_calls(mode, ledger, monkeypatch):
    """Of one example, of a whole chunk, of a whole call, and of one more; from any place on."""
    used: list[Sizes] = []
    run_chunks = compiled.run_chunks

    def noted(call, arrays, count, sizes, *more):
        used.append(sizes)
        return run_chunks(call, arrays, count, sizes, *more)

    monkeypatch.setattr(compiled, "run_chunks", noted)
    call = Explainer(convolutional(), mode=mode, ledger=ledger, chunk=8)
    call(images())
    capacity = used[0].chunk * used[0].chunks
    assert capacity > used[0].chunk == 8
    x = random(2 * capacity + 9, *images().shape[1:])
    together = row_bytes(call(x))
    assert len(set(together)) == len(x)
    for count in (1, 2, 7, 8, 9, capacity, capacity + 1):
        for first in (0, 5, len(x) - count):
            assert row_bytes(call(x[first : first + count])) == together[first : first + count]


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects the compilations that happen inside."""
    seen: list[str] = []

    def listen(event: str, duration: float, **kwargs) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", ["mlp", "bert"])
def test_a_second_call_compiles_nothing(name):
    inputs, model = examples(name), exported(name).model
    explain(model, rows(inputs, [0]))
    with compilations() as seen:
        for size in (1, 2, COUNT):
            explain(model, rows(inputs, range(size)))
    assert seen == []


def test_compilations_are_noticed():
    inputs, model = examples("mlp"), exported("mlp").model
    with compilations() as seen:
        explain(model, inputs, scaler=float(np.random.default_rng().uniform()))
    assert len(seen) > 0
