"""Several devices and several processes: the store of one process on one device, byte for byte."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from hashlib import sha256

import numpy as np
import onnx
import pytest

from backtrace_jax import Explainer, Run, SettingError, explain_dataset
from backtrace_jax.datasets import job, locking
from backtrace_jax.datasets.locking import UNFINISHED
from tests import tiny

COUNT, BLOCK = 90, 16
MODEL = tiny.convolutional()
IMAGES = np.random.default_rng(0).standard_normal((COUNT, 2, 5, 5)).astype(np.float32)
SCRIPT = f"""
import hashlib, os, signal, sys, warnings
warnings.simplefilter("ignore")
import jax, numpy as np
from backtrace_jax import Explainer, explain_dataset
from backtrace_jax.datasets import job

job.block_size = lambda size, flops: {BLOCK}
how, out, *more = sys.argv[1:]
x = np.load("x.npy")
if how == "devices":
    explainer = Explainer("model.onnx", devices="all", ledger="total")
    explain_dataset(explainer, x, out)
    found = explainer(x)
    print(found.fingerprint["devices"], hashlib.sha256(found.relevance["x"].tobytes()).hexdigest())
elif how == "jax":
    jax.distributed.initialize("127.0.0.1:" + more[1], 2, int(more[0]))
    explain_dataset("model.onnx", x, out)
    jax.distributed.shutdown()
else:
    explain_dataset("model.onnx", x, out, process=(1, 2), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""

pytestmark = pytest.mark.optimised  # as the processes compile it


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(job, "block_size", lambda size, flops: BLOCK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model, its inputs, and the store that one process makes on one device."""
    path = tmp_path_factory.mktemp("processes")
    onnx.save(MODEL, path / "model.onnx")
    np.save(path / "x.npy", IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "block_size", lambda size, flops: BLOCK)
        explain_dataset(path / "model.onnx", IMAGES, path / "whole", devices=1)
    return path


def files(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def started(folder, *arguments, flags=""):
    """A process of its own."""
    given = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)], env={**os.environ, "XLA_FLAGS": flags}, **given
    )


def test_eight_devices_make_the_store_of_one(folder):
    child = started(folder, "devices", "eight", flags="--xla_force_host_platform_device_count=8")
    said, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors[-2000:]
    alone = Explainer(MODEL, ledger="total")(IMAGES).relevance["x"]
    assert said.split() == ["8", sha256(alone.tobytes()).hexdigest()]
    assert files(folder / "eight") == files(folder / "whole")


def test_two_processes_of_jax_make_the_store_of_one(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [started(folder, "jax", "two", number, port) for number in (1, 0)]
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors[-2000:]
    assert files(folder / "two") == files(folder / "whole")


def test_a_process_that_dies_leaves_the_others_alone(folder):
    """The first one finishes its blocks; the same call, of any number of processes, does what is missing."""
    run = explain_dataset(folder / "model.onnx", IMAGES, folder / "left", process=(0, 2))
    pending = np.flatnonzero(run.status == 0) // BLOCK
    assert set(pending) == {1, 3, 5}
    child = started(folder, "dies", "left")
    child.communicate(timeout=300)
    assert child.returncode == -signal.SIGKILL
    assert set(np.flatnonzero(Run(folder / "left").status == 0) // BLOCK) == {3, 5}
    (folder / "left" / f"stray{UNFINISHED}").write_bytes(b"half")
    told = []
    run = explain_dataset(
        folder / "model.onnx", IMAGES, folder / "left", process=(0, 1), progress=lambda *each: told.append(each)
    )
    assert run.finished
    assert told[-1] == (COUNT, COUNT)
    assert len(told) == 2
    assert files(folder / "left") == files(folder / "whole")


def test_processes_side_by_side_keep_others_out_and_tidy_up(folder):
    """From the moment when the store is laid out: a folder that is made anew would not be the one that is locked."""
    call, path, seen = {"model": folder / "model.onnx", "source": IMAGES}, folder / "shared", []

    def meanwhile(done, total):
        if not seen:
            stray = path / f"other{UNFINISHED}"
            stray.write_bytes(b"half")
            with pytest.raises(SettingError, match="another process is writing"):
                explain_dataset(**call, out=path)
            explain_dataset(**call, out=path, process=(1, 2))
            seen.append(stray.exists())

    explain_dataset(**call, out=path, process=(0, 2), progress=meanwhile)
    assert seen == [True]
    assert files(path) == files(folder / "whole")


def test_nobody_else_writes_while_a_store_is_new(folder):
    def meanwhile(done, total):
        with pytest.raises(SettingError, match="another process is writing"):
            explain_dataset(folder / "model.onnx", IMAGES, folder / "new")

    explain_dataset(folder / "model.onnx", IMAGES, folder / "new", progress=meanwhile)


def test_what_processes_cannot_do_is_refused(folder, monkeypatch):
    monkeypatch.setattr(locking, "PATIENCE", 0.0)
    call = {"model": folder / "model.onnx", "source": IMAGES, "out": folder / "refused"}
    for process in ((2, 2), (0, 0), (-1, 2)):
        with pytest.raises(SettingError, match="process must be"):
            explain_dataset(**call, process=process)
    with pytest.raises(SettingError, match="start it, too"):
        explain_dataset(**call, process=(1, 2))
    with pytest.raises(SettingError, match="a stream is read by one process"):
        explain_dataset(call["model"], iter([IMAGES]), call["out"], process=(0, 2))
    assert not call["out"].exists()


@pytest.mark.parametrize("devices", [0, -1, 99, "some"])
def test_devices_that_are_not_there_are_refused(devices):
    with pytest.raises(SettingError, match="devices"):
        Explainer(MODEL, devices=devices)


def test_devices_share_a_batch_within_a_process():
    """The tests run on two devices; weights lie on each of them once."""
    one, both = Explainer(MODEL), Explainer(MODEL, devices="all")
    alone, shared = one(IMAGES), both(IMAGES)
    assert alone.fingerprint["devices"] == 1
    assert shared.fingerprint["devices"] == 2
    assert alone.relevance["x"].tobytes() == shared.relevance["x"].tobytes()
    assert alone.ledger.signed.tobytes() == shared.ledger.signed.tobytes()
    for size in (1, 3, 17):
        assert both(IMAGES[:size]).relevance["x"].tobytes() == alone.relevance["x"][:size].tobytes()
