"""The folder that compiled functions are kept in: the user's alone, bounded, shared by processes, never wrong."""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backtrace_jax.errors import SettingError
from backtrace_jax.runtime import cache as caching
from backtrace_jax.runtime.cache import VARIABLE, Cache, cache_of_user

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="nothing is kept here")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def cache(folder):
    return Cache(folder)


@pytest.fixture(autouse=True)
def _asked_anew():
    """What was found out about a folder is remembered for the process."""
    yield
    caching._cache_in.cache_clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_kept_is_read_by_any_other(cache, folder):
    assert cache.read("a") is None
    cache.write("a", b"first")
    cache.write("a", b"second")
    assert Cache(folder).read("a") == b"second"
    assert cache.read("b") is None
    cache.remove("a")
    cache.remove("a")
    assert Cache(folder).read("a") is None


def test_folder_and_files_are_the_users_alone(cache, folder):
    before = os.umask(0)
    try:
        cache.write("a", b"x")
    finally:
        os.umask(before)
    assert (mode(folder), mode(folder / "a")) == (0o700, 0o600)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + b"!" + b[41:], lambda b: b + b"x", lambda b: b[:20]]
)
def test_what_is_damaged_is_removed(cache, folder, damage):
    cache.write("a", b"content of some length")
    path = folder / "a"
    path.write_bytes(damage(path.read_bytes()))
    assert cache.read("a") is None
    assert not path.exists()


def test_a_file_under_another_name_is_none(cache, folder):
    cache.write("a", b"x")
    (folder / "a").rename(folder / "b")
    assert cache.read("b") is None


def test_files_that_others_could_have_written_are_not_read(cache, folder, tmp_path):
    for name in "abc":
        cache.write(name, b"x")
    (folder / "a").chmod(0o620)
    (folder / "b").rename(tmp_path / "b")
    (folder / "b").symlink_to(tmp_path / "b")
    os.unlink(folder / "c")
    os.mkfifo(folder / "c")
    assert [cache.read(name) for name in "abc"] == [None] * 3


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_not_used(cache, folder, bits, monkeypatch):
    cache.write("a", b"x")
    folder.chmod(bits)
    cache.write("b", b"x")
    assert cache.read("a") is None
    assert [path.name for path in folder.iterdir()] == ["a"]
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(SettingError, match=f"^{VARIABLE}=.*others may write to it.*{VARIABLE}=off$"):
        cache_of_user()


def test_the_folder_of_another_user_is_not_used(cache, folder, monkeypatch):
    cache.write("a", b"x")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.read("a") is None
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(SettingError, match="it belongs to another user"):
        cache_of_user()


def test_what_is_no_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(SettingError, match="Not a directory"):
        cache_of_user()


@pytest.mark.parametrize("value", ["", "0", "off", " OFF "])
def test_it_can_be_turned_off(value, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    assert cache_of_user() is None


def test_it_lies_where_the_user_says(folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(folder))
    assert not folder.exists()
    found = cache_of_user()
    found.write("a", b"x")
    assert (folder / "a").exists()
    assert cache_of_user() is found


def test_it_lies_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_of_user().write("a", b"x")
    assert (tmp_path / "backtrace-jax" / "compiled" / "a").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(caching.sys, "platform", "linux")
    cache_of_user().write("a", b"x")
    assert (tmp_path / "home" / ".cache" / "backtrace-jax" / "compiled" / "a").exists()


def test_where_the_usual_folder_cannot_be_used_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "backtrace-jax").write_text("no folder")
    assert cache_of_user() is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "kept")
    cache.write("a", b"x")
    assert cache.read("a") is None


def test_a_full_disk_leaves_nothing_half_written(cache, folder, monkeypatch):
    cache.write("a", b"x")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.write("b", b"y")
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_what_was_not_read_for_longest_goes_first(folder, monkeypatch):
    monkeypatch.setattr(caching, "LARGEST", 1000)
    cache, old = Cache(folder), time.time() - 1000
    for age, name in enumerate("abcd"):
        cache.write(name, bytes(200))
        os.utime(folder / name, (old + age, old + age))
    assert cache.read("a") == bytes(200)
    cache.write("e", bytes(200))
    assert {path.name for path in folder.iterdir()} == {"a", "d", "e"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1000
    cache.write("f", bytes(1001))
    assert cache.read("f") is None


def test_another_process_counts_what_is_there(folder, monkeypatch):
    monkeypatch.setattr(caching, "LARGEST", 1000)
    for name in "abcdefgh":
        Cache(folder).write(name, bytes(200))
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1000


def test_what_a_process_left_unfinished_is_removed(folder):
    folder.mkdir(mode=0o700)
    for name, age in ((".1.part", 7200), (".2.part", 60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    Cache(folder).write("a", b"x")
    assert {path.name for path in folder.iterdir()} == {".2.part", "a"}


def test_readers_see_whole_files_only(folder, monkeypatch):
    """Many writers at a time, of files that make each other give way."""
    monkeypatch.setattr(caching, "LARGEST", 40_000)
    contents = {str(i): bytes([i]) * (1000 + 500 * i) for i in range(20)}

    def work(seed):
        cache = Cache(folder)
        for i in range(60):
            name = str((i * 7 + seed * 3) % 20)
            cache.write(name, contents[name])
            assert cache.read(name) in (None, contents[name])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert not [path for path in Path(folder).iterdir() if path.suffix == ".part"]
