"""Whatever stops a run: what is stored stays, the same call goes on, and the finished store has the same bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from backtrace_jax import InputError, Run, SettingError, explain_dataset
from backtrace_jax.datasets import job, shards
from backtrace_jax.sources import Examples, Group, Schema
from tests import tiny

COUNT, BLOCK = 40, 16
MODEL = tiny.convolutional()
IMAGES = np.random.default_rng(0).standard_normal((COUNT, 2, 5, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: BLOCK)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "block_size", lambda size, flops: BLOCK)
        explain_dataset(MODEL, IMAGES, folder)
    return files(folder)


class Batches:
    """A stream of so many examples."""

    schema = Schema({"x": ((2, 5, 5), "float32")}, identity={"kind": "batches"})
    count = None

    def __init__(self, count=COUNT, size=7):
        self.end, self.size = count, size

    def read(self, first, last):
        raise AssertionError

    def stream(self):
        for first in range(0, self.end, self.size):
            rows = IMAGES[first : min(first + self.size, self.end)]
            yield Examples(len(rows), (Group(np.arange(len(rows)), {"x": rows}),))


class DiedError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("steps", [1, 2, 9, 14, 20, 33])
def test_dying_at_any_file(tmp_path, monkeypatch, whole, steps):
    """Files are written whole or not at all, in threads; from a certain one on nothing reaches the disk any more."""
    left = iter(range(steps))

    def replace(self, target):
        if next(left, None) is None:
            raise DiedError
        return os.replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Path, "replace", replace)
        patch.setattr(shards.Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(DiedError):
            explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert [*tmp_path.rglob("*.partial")]
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert files(tmp_path / "store") == whole


def test_dying_while_the_store_is_laid_out(tmp_path, monkeypatch, whole):
    (tmp_path / ".store.partial" / "target").mkdir(parents=True)
    (tmp_path / ".store.partial" / "target" / "zarr.json").write_text("half")
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert files(tmp_path / "store") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


RUN = """
    import sys, numpy as np
    from backtrace_jax import explain_dataset
    from backtrace_jax.datasets import job
    from backtrace_jax.runtime.numerics import COMPILER_OPTIONS
    from tests.datasets.test_stopping import IMAGES, MODEL
    from tests.rules.running import CHEAP
    COMPILER_OPTIONS["cpu"].update(CHEAP)
    job.block_size = lambda size, flops: 2
    explain_dataset(MODEL, IMAGES, sys.argv[1])
"""


def test_killed_twice(tmp_path):
    """The process is killed at a random moment once the store is there; at the third time it comes to an end."""
    command = [sys.executable, "-c", textwrap.dedent(RUN)]
    moments = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen([*command, tmp_path / "killed"])
        while not [*(tmp_path / "killed").glob("status/c/*")] and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    for name in ("killed", "whole"):
        assert subprocess.run([*command, tmp_path / name]).returncode == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_full_disk(tmp_path, whole):
    """The limit of a file's size stands for it: both fail a write half way."""

    class StopError(Exception):
        pass

    def stop(done, total):
        raise StopError

    with pytest.raises(StopError):
        explain_dataset(MODEL, IMAGES, tmp_path / "store", progress=stop)
    stored = np.count_nonzero(Run(tmp_path / "store").status)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(SettingError, match=r"the disk is full .*; what is stored stays, and the same call goes on"):
            explain_dataset(MODEL, IMAGES, tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*tmp_path.rglob("*.partial")]
    assert np.count_nonzero(Run(tmp_path / "store").status) == stored
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert files(tmp_path / "store") == whole


def test_no_space_from_the_first_file_on(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("backtrace_jax.datasets.store.write", full)
    with pytest.raises(SettingError, match=r"the disk is full \(No space left on device\)"):
        explain_dataset(MODEL, IMAGES, tmp_path / "store")


def test_a_folder_that_cannot_be_written():
    with pytest.raises(SettingError, match=r"cannot write '/proc/store'"):
        explain_dataset(MODEL, IMAGES, "/proc/store")


def test_somebody_else_writes(tmp_path, whole):
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    other = os.open(tmp_path / "store", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SettingError, match="another process is writing to"):
        explain_dataset(MODEL, IMAGES, tmp_path / "store")
    os.close(other)
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert files(tmp_path / "store") == whole


@pytest.fixture
def _heard():
    """Ctrl-C as Python hears it; shells have what runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heard")
def test_ctrl_c_says_how_to_go_on(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt, match=r"of 40 examples are stored in .*; the same call goes on from there"):
        explain_dataset(MODEL, IMAGES, tmp_path / "store", progress=lambda *_: signal.raise_signal(signal.SIGINT))
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert files(tmp_path / "store") == whole


def test_a_stream_grows_and_goes_on(tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        raise StopError

    explain_dataset(MODEL, Batches(), tmp_path / "whole")
    with pytest.raises(StopError):
        explain_dataset(MODEL, Batches(), tmp_path / "store", progress=stop)
    assert 0 < len(Run(tmp_path / "store")) < COUNT
    with pytest.raises(InputError, match=r"the stream ends early: it gave 9 examples, and \d+ of it are stored"):
        explain_dataset(MODEL, Batches(9), tmp_path / "store")
    run = explain_dataset(MODEL, Batches(size=3), tmp_path / "store")
    assert files(tmp_path / "store") == files(tmp_path / "whole")
    assert len(run) == COUNT
    assert run.finished
    assert run[39].inputs["x"].tobytes() == IMAGES[39:].tobytes()


def test_an_empty_source(tmp_path):
    for source, said in ((IMAGES[:0], "hold no example"), (Batches(0), "ends before its first example")):
        with pytest.raises(InputError, match=said):
            explain_dataset(MODEL, source, tmp_path / "store")
    assert not [*tmp_path.iterdir()]


class Changing(Batches):
    """A stream whose labels change their type halfway."""

    schema = Schema({"x": ((2, 5, 5), "float32")}, {"label": ((), "int64")}, identity={"kind": "batches"})

    def stream(self):
        for number, each in enumerate(super().stream()):
            labels = np.zeros(each.count, np.int64 if number < 3 else np.float64)
            yield Examples(each.count, each.groups, {"label": labels})


def test_a_source_that_changes_halfway(tmp_path):
    with pytest.raises(InputError, match=r"'carried.label' holds float64 \[\] here, and int64 \[\] at the front"):
        explain_dataset(MODEL, Changing(), tmp_path / "store")


def test_nothing_is_left_of_a_run_that_could_not_begin(tmp_path):
    with pytest.raises(InputError, match="has shape"):
        explain_dataset(MODEL, IMAGES[:, :1], tmp_path / "store")
    with pytest.raises(SettingError, match="target has 3 entries, the source has 40 examples"):
        explain_dataset(MODEL, IMAGES, tmp_path / "store", target=[1, 2, 3])
    assert not [*tmp_path.iterdir()]


def _cut(store):
    file = store / "relevance.x" / "c" / "1" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-20])


def _without(name):
    return lambda store: shutil.rmtree(store / name)


def _described(name, text):
    return lambda store: (store / name / "zarr.json").write_text(text)


def _told(**attributes):
    def edit(store):
        about = json.loads((store / "zarr.json").read_text())
        about["attributes"]["backtrace_jax"] |= attributes
        (store / "zarr.json").write_text(json.dumps(about))

    return edit


def read(store):
    run = Run(store)
    return run[20], run.summary()


@pytest.mark.parametrize(
    "edit",
    [
        _cut,
        _without("status"),
        _without("summary"),
        _without("relevance.x/c/1"),
        _without("outputs.y/c/1"),
        _without("summary/ledger/c"),
        _described("status", "{"),
        _described("relevance.x", "[]"),
        _told(count="40"),
        _told(nodes=3),
        _told(views={"relevance": 1}),
        _told(cautions={}),
        _told(source=None),
    ],
)
def test_a_damaged_store_is_said_to_be(tmp_path, whole, edit):
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    edit(tmp_path / "store")
    with pytest.raises(InputError, match="is damaged: "):
        read(tmp_path / "store")


def test_nothing_is_written_through_a_link(tmp_path, whole):
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    shutil.move(tmp_path / "store" / "status" / "c", tmp_path / "outside")
    (tmp_path / "store" / "status" / "c").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "1").unlink()
    with pytest.raises(InputError, match="holds a link, c, through which nothing is written"):
        explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert sorted(each.name for each in (tmp_path / "outside").iterdir()) == ["0", "2"]


def test_a_link_to_an_empty_folder_stays_one(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to("disk")
    explain_dataset(MODEL, IMAGES, tmp_path / "store")
    assert Run(tmp_path / "disk").finished
    assert (tmp_path / "store").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SettingError, match="here' is the folder that this process works in; name one inside it"):
        explain_dataset(MODEL, IMAGES, ".")
