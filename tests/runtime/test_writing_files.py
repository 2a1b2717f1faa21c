"""Files are written whole or not at all, and stay what they are: links, devices, pipes, modes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from typing import Any

import pytest

from backtrace_jax import Explanation
from backtrace_jax.errors import SettingError
from backtrace_jax.runtime.files import replacing
from tests.handmade import digits


def write(path, data: Any = b"new"):
    with replacing(path) as file:
        file.write(data)


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "real", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert {*tmp_path.iterdir()} == {link, tmp_path / "folder"}
    assert [*(tmp_path / "folder").iterdir()] == [target]


def test_a_link_to_nothing_makes_the_file_it_names(tmp_path):
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link")
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    seen = []
    with replacing(path) as file:
        seen += [stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()]
        file.write(b"new")
    assert seen == [mode, mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


def test_a_pipe_is_written_to(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    digits("default").save(path)
    reader.join()
    assert stat.S_ISFIFO(path.stat().st_mode)
    (tmp_path / "copy.npz").write_bytes(read[0])
    assert Explanation.load(tmp_path / "copy.npz").output


def test_a_device_stays_a_device():
    digits("default").save("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("path", ["", ".", "nowhere/file", "a\0b", "x" * 300])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="cannot write"):
        write(path)
    assert not [*tmp_path.iterdir()]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="bytes"):
        write(path, "text")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_no_partial_file_survives_the_end_of_the_process(tmp_path):
    code = f"""
import time
from backtrace_jax.runtime.files import replacing
with replacing({str(tmp_path / "file")!r}) as file:
    file.write(b"half")
    print("begun", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert not [*tmp_path.iterdir()]


def test_the_handler_of_somebody_else_stays(tmp_path):
    before = signal.signal(signal.SIGTERM, mine := lambda number, frame: None)
    try:
        with replacing(tmp_path / "file"):
            assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    write(tmp_path / "file")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
