"""Batches run in padded chunks of one size and come back whole and in order."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from backtrace_jax.engine.chunks import default_chunk, default_group, run_chunks
from backtrace_jax.errors import SettingError
from backtrace_jax.question.settings import check_chunk


class Recorder:
    """Doubles one array and negates the other, and keeps what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, part):
        values, pairs = part["values"], part["pairs"]
        self.calls.append(values.copy())
        return {"double": values * 2, "negated": (-pairs,)}


@pytest.mark.parametrize(("count", "chunk"), [(1, 1), (1, 8), (3, 1), (7, 8), (8, 8), (9, 8), (33, 16), (40, 8)])
def test_results_are_joined_in_order_and_padding_is_cut_off(count, chunk):
    call = Recorder()
    arrays = {"values": np.arange(count), "pairs": np.arange(2 * count).reshape(count, 2)}
    result = run_chunks(call, arrays, count, chunk, None)
    np.testing.assert_array_equal(result["double"], 2 * arrays["values"])
    np.testing.assert_array_equal(result["negated"][0], -arrays["pairs"])
    assert [len(values) for values in call.calls] == [chunk] * -(-count // chunk)


def test_padding_repeats_the_last_example():
    call = Recorder()
    run_chunks(call, {"values": np.arange(10), "pairs": np.zeros((10, 2))}, 10, 8, None)
    assert [values.tolist() for values in call.calls] == [[*range(8)], [8, *[9] * 7]]


def test_absent_parts_stay_absent():
    arrays = ({"x": np.arange(3)}, np.arange(3), None)
    result = run_chunks(lambda part: (part[0]["x"] + part[1], part[2]), arrays, 3, 8, None)
    assert result[0].tolist() == [0, 2, 4]
    assert result[1] is None


def test_progress_counts_examples():
    seen = []
    arrays = {"values": np.arange(20), "pairs": np.zeros((20, 1))}
    run_chunks(Recorder(), arrays, 20, 8, lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("chunk", [1, 8, 16, 32, 800])
def test_chunks_that_are_fine(chunk):
    check_chunk(chunk)


@pytest.mark.parametrize("chunk", [0, -8, 2, 3, 7, 9, 12, 8.0, "8", True, None, np.array(8)])
def test_other_chunks_are_refused(chunk):
    with pytest.raises(SettingError, match=r"chunk must be 1 or a multiple of 8, found"):
        check_chunk(chunk)


def test_heavier_models_run_in_smaller_chunks():
    sizes = [default_chunk(flops, "cpu") for flops in (0.0, 1e6, 1e7, 1e8, 1e9, 1e12)]
    assert sizes == [32, 32, 8, 8, 1, 1]
    for platform in ("cpu", "gpu"):
        for flops in 10.0 ** np.arange(14):
            check_chunk(default_chunk(float(flops), platform))
    assert default_chunk(1e9, "gpu") > 1


def test_heavy_models_go_through_a_chunk_in_groups():
    assert default_group(1e10, "cpu") == 2
    assert default_group(1e8, "cpu") is None
    assert default_group(1e10, "gpu") is None


def test_what_runs_out_of_memory_is_told_by_name():
    """XLA tells when the call is made, or only when its result is waited for."""

    class Late:
        def block_until_ready(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    def early(part):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    for call in (early, lambda part: Late()):
        with pytest.raises(SettingError, match=r"does not fit into memory .*chunk=1"):
            run_chunks(call, np.arange(3), 3, 8, None)


def test_results_that_do_not_fit_together_are_told_by_name(monkeypatch):
    def full(pieces):
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr(np, "concatenate", full)
    with pytest.raises(SettingError, match=r"does not fit into memory \(Unable to allocate 1 TiB\).*chunk=1"):
        run_chunks(lambda part: part, np.arange(9), 9, 8, None)


def test_other_errors_of_a_run_stay_what_they_are():
    def broken(part):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run_chunks(broken, np.arange(3), 3, 8, None)
