"""Runs trials in a process of its own: numbers come in on standard input, one line of JSON per trial goes out.

python -m benchmarks.fuzz.worker SEED [--full] [--every N]
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import stat
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backtrace_jax.errors import BacktraceError

from .corpus import corpus
from .mutations import mutate
from .mutations.archives import mutate_archive
from .subjects import USES, Used, compared

SECONDS = 10
_TRACED = 30  # seconds after which a file that hangs says where
BYTES = 2**31
_DATA = 3 * 2**31  # what the operating system grants a process: far above what is allowed, so that too much is seen
_SHARES = {"handmade": 0.38, "node": 0.3, "stored": 0.14, "saved": 0.12, "keras": 0.06}  # of the files, by family


@dataclass
class Trial:
    """What became of one file.

    Attributes:
        name: SEED:INDEX, by which it can be replayed.
        base: The model it was made from.
        mutations: What was done to it.
        outcome: "explained", "lowered", "loaded", "read", or the class of the library's error.
        message: The beginning of the error's message.
        cause: Class of what the library's error was raised from, if anything.
        findings: What must not be: kind and description.
        seconds: Processor time.
        mebibytes: Most memory held.
    """

    name: str
    base: str
    mutations: list[str]
    outcome: str = "read"
    message: str = ""
    cause: str = ""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    mebibytes: int = 0


_watched: list[tuple[str, Any, str]] | None = None  # what is opened while a trial runs


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_DIRECTORY:
        return  # a step on the way to a file, which is an event of its own
    if _watched is not None and event in _EVENTS:
        _watched.append((event, arguments[0] if arguments else None, str(arguments[1:2])))


_EVENTS = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "subprocess.Popen", "os.system"}
_EVENTS |= {"os.exec", "os.posix_spawn", "socket.connect", "urllib.Request", "shutil.rmtree", "os.chdir", "os.putenv"}


@contextmanager
def _watching(folder: Path, trial: Trial) -> Iterator[None]:
    """Note what is opened outside the model's folder; what Python itself imports is let pass."""
    global _watched
    _watched = []
    try:
        yield
    finally:
        seen, _watched = _watched, None
        trial.findings += [
            f"outside: {event} {what!r} {how}" for event, what, how in seen if _is_outside(event, what, how, folder)
        ]


def _is_outside(event: str, what: Any, how: str, folder: Path) -> bool:
    """Whether something was written, or read elsewhere than in the folder, after all links are followed."""
    if isinstance(what, str | bytes | os.PathLike) and _is_under(what, tempfile.gettempdir()):
        return False  # a folder of the library's own, which `main` puts aside for it
    if event == "os.remove" and how != "(-1,)":
        return False  # inside a folder that is removed, which is an event of its own
    if event not in ("open", "os.listdir", "os.scandir") or "w" in how or "a" in how or "+" in how:
        return True
    if not isinstance(what, str | bytes | os.PathLike):
        return False  # a file that is open already
    return not any(_is_under(what, each) for each in (folder, *_PYTHONS))


def _is_under(what: Any, folder: Any) -> bool:
    return Path(os.path.realpath(os.fsdecode(what))).is_relative_to(os.path.realpath(folder))


_PYTHONS = (sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/dev/null", "/dev/urandom", "/sys/fs/cgroup")


def main() -> None:
    """Run the trials whose numbers come in."""
    parser = argparse.ArgumentParser()
    parser.add_argument("seed", type=int)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--every", type=int, default=20)
    asked = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print does not mix with the answers
    resource.setrlimit(resource.RLIMIT_DATA, (_DATA, _DATA))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_audit)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        inside = prepared(Path(folder))
        tempfile.tempdir = str(Path(folder) / "aside")
        warm_up(inside, asked.full)
        corpus(asked.full)
        answers.write("ready\n")
        answers.flush()
        for line in sys.stdin:
            trial = run(asked.seed, int(line), inside, full=asked.full, every=asked.every)
            answers.write(json.dumps(asdict(trial)) + "\n")
            answers.flush()


def prepared(folder: Path) -> Path:
    """A folder with data for models, and everything beside and in it that must not be read."""
    inside = folder / "models"
    (inside / "sub").mkdir(parents=True)
    (folder / "aside").mkdir()
    (folder / "secret.bin").write_bytes(np.arange(64, dtype=np.float32).tobytes())
    (inside / "weights.bin").write_bytes(np.linspace(-1, 1, 64, dtype=np.float32).tobytes())
    (inside / "link.bin").symlink_to(folder / "secret.bin")
    (inside / "up").symlink_to(folder)
    (inside / "loop").symlink_to(inside / "loop")
    os.mkfifo(inside / "pipe")
    try:
        os.mknod(inside / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except OSError:  # only the superuser may
        (inside / "device").symlink_to("/dev/zero")
    return inside


def warm_up(folder: Path, full: bool) -> None:
    """Let every lazy import happen before anything is watched."""
    for name, data in corpus(full).items():
        path = folder / f"warm{_suffix(name)}"
        if name.partition("/")[0] in ("saved", "keras") or name == "handmade/dense":
            path.write_bytes(data)
            USES[path.suffix](path, True)
            path.unlink()


def _suffix(base: str) -> str:
    """Of the file that a base is read from; models in ONNX have names without one."""
    return Path(base).suffix if Path(base).suffix in USES else ".onnx"


def made(seed: int, index: int, *, full: bool) -> tuple[bytes, Trial]:
    """The file of this number."""
    rng = np.random.default_rng([seed, index])
    models = corpus(full)
    present = {name.partition("/")[0] for name in models}
    shares = {family: share for family, share in _SHARES.items() if family in present}
    family = str(rng.choice([*shares], p=np.array([*shares.values()]) / sum(shares.values())))
    names = [name for name in models if name.startswith(family + "/")]
    base = names[int(rng.integers(len(names)))]
    with np.errstate(all="ignore"):
        data, mutations = (mutate if _suffix(base) == ".onnx" else mutate_archive)(models[base], rng)
    return data, Trial(f"{seed}:{index}", base, mutations)


def run(seed: int, index: int, folder: Path, *, full: bool, every: int) -> Trial:
    """Make one file and give it to everything that reads a model."""
    faulthandler.dump_traceback_later(_TRACED)
    data, trial = made(seed, index, full=full)
    path = folder / f"model{_suffix(trial.base)}"
    path.write_bytes(data)
    print(trial.name, trial.base, trial.mutations, file=sys.stderr, flush=True)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of memory starts again
    start, wall, used = time.process_time(), time.monotonic(), Used("")
    with _watching(folder, trial), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            used = USES[path.suffix](path, index % every == 0)
            trial.outcome = used.outcome
        except BacktraceError as error:
            _note(error, trial)
        except Exception as error:
            trial.findings.append(f"exception: {_located(error)}")
    faulthandler.cancel_dump_traceback_later()
    trial.seconds = round(min(time.process_time() - start, time.monotonic() - wall), 2)
    trial.mebibytes = _peak() >> 20
    trial.findings += [f"warning: {each.message!s:.200}" for each in told if each.category is RuntimeWarning]
    trial.findings += compared(path, used)
    if trial.seconds > SECONDS:
        trial.findings.append(f"slow: {trial.seconds} s")
    if trial.mebibytes > BYTES >> 20:
        trial.findings.append(f"memory: {trial.mebibytes} MiB")
    return trial


def _note(error: BacktraceError, trial: Trial) -> None:
    """An error of the library's own; it must not stand for memory or a stack that ran out."""
    trial.outcome, trial.message = type(error).__name__, str(error)[:300]
    if len(str(error)) >= 1000:
        trial.findings.append(f"message: {len(str(error))} characters")
    cause = error.__cause__
    if cause is not None:
        trial.cause = _located(cause)
    while cause is not None:
        if isinstance(cause, MemoryError | RecursionError) or "RESOURCE_EXHAUSTED" in str(cause)[:1000]:
            trial.findings.append(f"exhausted: {_located(cause)}")
        cause = cause.__cause__


def _located(error: BaseException) -> str:
    """Class of an error, where in the project it came from, and what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "backtrace" in f.filename or "importers" in f.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else "?"
    return f"{type(error).__name__} in {place}: {str(error)[:160]}"


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
