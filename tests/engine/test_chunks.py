"""Batches run in padded chunks of one size and come back whole and in order."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest

from backtrace_jax.engine.chunks import run_chunks
from backtrace_jax.engine.sizes import Sizes, Work, default_chunk, lanes_of, sizes_of
from backtrace_jax.errors import SettingError
from backtrace_jax.question.settings import check_chunk


class Recorder:
    """Doubles one array and negates the other, and keeps what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, part, used):
        values, pairs = part["values"], part["pairs"]
        self.calls.append(values.copy())
        return {"double": values * 2, "negated": (-pairs,)}


@pytest.mark.parametrize(("count", "chunk"), [(1, 1), (1, 8), (3, 1), (7, 8), (8, 8), (9, 8), (33, 16), (40, 8)])
def test_results_are_joined_in_order_and_padding_is_cut_off(count, chunk):
    call = Recorder()
    arrays = {"values": np.arange(count), "pairs": np.arange(2 * count).reshape(count, 2)}
    result = run_chunks(call, arrays, count, Sizes(chunk), None)
    np.testing.assert_array_equal(result["double"], 2 * arrays["values"])
    np.testing.assert_array_equal(result["negated"][0], -arrays["pairs"])
    assert [len(values) for values in call.calls] == [chunk] * -(-count // chunk)


def test_padding_repeats_the_last_example():
    call = Recorder()
    run_chunks(call, {"values": np.arange(10), "pairs": np.zeros((10, 2))}, 10, Sizes(8), None)
    assert [values.tolist() for values in call.calls] == [[*range(8)], [8, *[9] * 7]]


def test_absent_parts_stay_absent():
    arrays = ({"x": np.arange(3)}, np.arange(3), None)
    result = run_chunks(lambda part, used: (part[0]["x"] + part[1], part[2]), arrays, 3, Sizes(8), None)
    assert result[0].tolist() == [0, 2, 4]
    assert result[1] is None


@pytest.mark.parametrize("chunks", [1, 3])
def test_results_without_entries_keep_their_shapes(chunks):
    """Books of a graph that has no nodes, say."""
    shape = (8, 0, 2) if chunks == 1 else (chunks, 8, 0, 2)
    found = run_chunks(lambda part, used: np.zeros(shape), np.arange(20.0)[:, None], 20, Sizes(8, chunks), None)
    assert found.shape == (20, 0, 2)


def test_progress_counts_examples():
    seen = []
    arrays = {"values": np.arange(20), "pairs": np.zeros((20, 1))}
    run_chunks(Recorder(), arrays, 20, Sizes(8), lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("chunk", [1, 8, 16, 32, 800])
def test_chunks_that_are_fine(chunk):
    check_chunk(chunk)


@pytest.mark.parametrize("chunk", [0, -8, 2, 3, 7, 9, 12, 8.0, "8", True, None, np.array(8)])
def test_other_chunks_are_refused(chunk):
    with pytest.raises(SettingError, match=r"chunk must be 1 or a multiple of 8, found"):
        check_chunk(chunk)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 24, 25, 48, 49, 100])
@pytest.mark.parametrize(("chunks", "lanes", "brief"), [(3, 1, 0), (3, 1, 1000), (3, 2, 0), (1, 3, 0), (64, 2, 48)])
def test_calls_of_several_chunks(count, chunks, lanes, brief):
    """Every example is in its place, no call takes more chunks than it may, and every lane gets its part."""
    used = []

    def call(part, number):
        used.append(number)
        parts = part[None] if chunks == 1 else part
        assert parts.shape == (chunks, 8, 1)
        found = np.full(parts.shape, np.nan)
        found[:number] = 2 * parts[:number]
        return found[0] if chunks == 1 else found

    x = np.arange(count, dtype=np.float32)[:, None]
    sizes = Sizes(8, chunks, lanes, brief)
    np.testing.assert_array_equal(run_chunks(call, x, count, sizes, None), 2 * x)
    assert sum(used) == -(-count // 8)
    assert max(used) - min(used) <= max(used) - 1 < chunks
    assert len(used) >= min(-(-count // 8), 1 if count <= brief else lanes)


def test_brief_batches_run_in_the_thread_that_asks():
    """To hand them over would take longer than they do."""
    threads = []

    def call(part, used):
        threads.append(threading.current_thread())
        return part

    for count, mine in ((8, True), (9, False)):
        threads.clear()
        run_chunks(call, np.arange(count), count, Sizes(8, brief=8), None)
        assert {each is threading.main_thread() for each in threads} == {mine}


def test_calls_run_side_by_side():
    """Each waits for the other one: one after the other they would wait for ever."""
    together = threading.Barrier(2, timeout=30)

    def call(part, used):
        together.wait()
        return part

    assert run_chunks(call, np.arange(16), 16, Sizes(8, lanes=2), None).tolist() == [*range(16)]


def test_progress_counts_what_is_done_side_by_side():
    seen, x = [], np.arange(80)
    run_chunks(lambda part, used: part, x, 80, Sizes(8, lanes=3), lambda *done: seen.append(done))
    assert seen == [(done, 80) for done in range(8, 81, 8)]


def test_heavier_models_run_in_smaller_chunks():
    flops = (0.0, 1e3, 1e5, 2e5, 4e5, 6e5, 1e8, 1e12)
    assert [default_chunk(Work(each, 1), "cpu") for each in flops] == [64, 64, 32, 16, 8, 1, 1, 1]
    for platform in ("cpu", "gpu"):
        for each in 10.0 ** np.arange(14):
            check_chunk(default_chunk(Work(float(each), 1), platform))
    assert default_chunk(Work(1e9, 1), "gpu") > 1


def test_models_that_use_each_weight_once_run_in_chunks():
    """What is read for one example serves eight, unless the model is so heavy that one fills the machine."""
    assert [default_chunk(Work(each, 1, int(2 * each)), "cpu") for each in (1e3, 1e6, 1e8, 1e10)] == [64, 8, 8, 1]
    assert [default_chunk(Work(each, 1, int(each / 25)), "cpu") for each in (1e3, 1e6, 1e8, 1e10)] == [64, 1, 1, 1]


def test_light_models_take_many_chunks_per_call():
    """So many that calling costs little; as few as hold inputs that all travel whether they are used or not."""
    assert sizes_of(64, Work(1e3, 120), "cpu").chunks == 32
    assert sizes_of(64, Work(1e3, 120, walks=64), "cpu").chunks == 9
    assert sizes_of(64, Work(1e3, 2**14), "cpu").chunks == 1
    assert sizes_of(8, Work(3e5, 256), "cpu").chunks == 16
    assert sizes_of(1, Work(1e8, 256), "cpu").chunks == 1
    assert sizes_of(64, Work(1e3, 120), "gpu") == Sizes(64)


def test_heavy_models_go_through_a_chunk_by_and_by():
    assert sizes_of(32, Work(1e10, 2**20), "cpu") == Sizes(2, 16)
    assert sizes_of(1, Work(1e10, 2**20), "cpu") == Sizes(1)
    assert sizes_of(32, Work(1e10, 2**20), "gpu") == Sizes(32)


def test_what_takes_long_is_not_brief():
    """A loop of any length, and many walks."""
    assert sizes_of(64, Work(1e3, 120), "cpu").brief == 3 * 32 * 64  # in three calls
    assert sizes_of(64, Work(1e3, 120, walks=64), "cpu").brief == 125
    assert sizes_of(64, Work(1e3, 120, loops=True), "cpu").brief == 0
    assert sizes_of(1, Work(1e8, 120), "cpu").brief == 0


def test_a_single_call_of_some_milliseconds_is_prompt():
    assert sizes_of(1, Work(4e7, 120), "cpu").prompt == 5
    assert sizes_of(1, Work(4e7, 120, walks=64), "cpu").prompt == 0
    assert sizes_of(1, Work(4e7, 120, loops=True), "cpu").prompt == 0
    assert sizes_of(1, Work(1e10, 120), "cpu").prompt == 0


@pytest.mark.parametrize(("count", "prompt", "here"), [(8, 8, True), (8, 7, False), (16, 16, False)])
def test_only_a_prompt_batch_of_one_call_is_explained_in_the_callers_thread(count, prompt, here):
    seen = []

    def call(part, used):
        seen.append(threading.current_thread() is threading.main_thread())
        return part

    run_chunks(call, np.arange(count), count, Sizes(8, chunks=2, lanes=2, prompt=prompt), None)
    assert set(seen) == {here}


@pytest.mark.parametrize(("chunks", "lanes"), [(1, 1), (4, 2)])
def test_what_a_call_gives_is_settled_without_padding(chunks, lanes):
    """Examples in front, whatever the call takes, and none that stand for others."""
    sizes, seen = [], []

    def settle(found):
        sizes.append(len(found["kept"]))
        seen.extend(found["kept"].tolist())
        return {"kept": 2 * found["kept"], "more": found["kept"][:, None]}

    given = np.arange(29)
    found = run_chunks(lambda part, used: {"kept": part}, given, 29, Sizes(4, chunks, lanes), None, settle)
    assert found["kept"].tolist() == (2 * given).tolist()
    assert found["more"].tolist() == given[:, None].tolist()
    assert (sum(sizes), sorted(seen)) == (29, [*range(29)])


def test_calls_side_by_side_fit_into_memory():
    light = Work(1e5, 256)
    assert lanes_of(light, 2**20, "cpu", 4) == 4
    assert lanes_of(light, 2**27, "cpu", 4) == 2
    assert lanes_of(light, 2**40, "cpu", 4) == 1
    assert lanes_of(light, None, "cpu", 4) == 1
    assert lanes_of(light, 2**20, "gpu", 4) == 1
    assert lanes_of(Work(1e10, 256), 2**20, "cpu", 4) == 1


def test_what_runs_out_of_memory_is_told_by_name():
    """XLA tells when the call is made, or only when its result is waited for."""

    class Late:
        def block_until_ready(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    def early(part, used):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    for call in (early, lambda part, used: Late()):
        with pytest.raises(SettingError, match=r"does not fit into memory .*chunk=1"):
            run_chunks(call, np.arange(3), 3, Sizes(8), None)


def test_results_that_do_not_fit_together_are_told_by_name():
    def large(part, used):
        return np.broadcast_to(np.float32(0), (8, 2**30, 2**20))

    with pytest.raises(SettingError, match=r"does not fit into memory \(Unable to allocate.*chunk=1"):
        run_chunks(large, np.arange(9), 9, Sizes(8), None)


@pytest.mark.parametrize("lanes", [1, 2])
def test_other_errors_of_a_run_stay_what_they_are(lanes):
    def broken(part, used):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run_chunks(broken, np.arange(30), 30, Sizes(8, lanes=lanes), None)
