"""`verify`: that explanations have the same bytes on this machine, in whatever company and process they are made.

The examples are explained together, and then again: each alone, in other batches, at other positions, in another
process, and with another number of host devices. Every array of an explanation is compared byte by byte.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np

from backtrace_jax.errors import RelevanceWarning, SettingError
from backtrace_jax.errors.arguments import choice, fields_of, with_fields
from backtrace_jax.errors.texts import shown
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.explanation.structure import parts
from backtrace_jax.question.feeds import Inputs
from backtrace_jax.question.settings import ALL, Settings
from backtrace_jax.runtime import cache
from backtrace_jax.runtime.machine import xla_flags

from .against_torch import check_comparable, compared
from .asking import Asked
from .explainer import OPTIONS, Explainer
from .given import Given
from .streaming import Asking
from .verification import Check, Difference, Verification, first_difference

TORCH = "torch"
SIZES = (2, 3, 7)
"""Examples of the other batches."""

_MANY_DEVICES = 8
_DEVICE_COUNT = "--xla_force_host_platform_device_count"


@with_fields(Asked, Settings, elsewhere=OPTIONS)
def verify(
    model: Any,
    inputs: Inputs,
    *,
    compare_with: str | None = None,
    told: Callable[[Check], object] | None = None,
    **chosen: Unpack[Given],
) -> Verification:
    """Explain examples together, and once more in every other way that must not matter.

    Args:
        model: Path of an ONNX or Keras file, since other processes read it too.
        inputs: As `explain` takes them; a handful of examples will do.
        compare_with: "torch": also compare outputs and gradients with the same ONNX file, run by PyTorch through
            onnx2torch (extra `verify`).
        told: Called with each check when it is done.
        chosen: Settings and question, as `explain` takes them.

    Raises:
        SettingError: The model is no file, or what is asked does not exist.
        MissingDependencyError: onnx2torch is not installed.
        BacktraceError: What `explain` raises about the examples together.
    """
    if not isinstance(model, str | Path):
        raise SettingError(f"verify reads the model in other processes too: pass its file, found {shown(model)}")
    given, path = fields_of(Settings, chosen), Path(model)
    if compare_with is not None:
        choice("compare_with", compare_with, (TORCH,))
        check_comparable(path, Settings.of(**given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)
        made = _Verifying(path, Explainer(path, **given), inputs, given, Asked(**fields_of(Asked, chosen)))
        checks = []
        for check in made.checks(compare_with):
            checks.append(check)
            if told is not None:
                told(check)
    return Verification(made.sha256, len(made.whole), tuple(checks))


class _Verifying:
    """Examples that were explained together, and what is explained of them once more."""

    def __init__(
        self, model: Path, explainer: Explainer, inputs: Inputs, settings: dict[str, Any], asked: Asked
    ) -> None:
        self.model, self.explainer, self.settings, self.asking = model, explainer, settings, Asking(asked)
        self.feeds = explainer.first(inputs)
        self.count = len(next(iter(self.feeds.values())))
        self.asking.check(self.count)
        self.whole = self.explained(np.arange(self.count))
        self.arrays = _arrays(self.whole)

    def explained(self, places: np.ndarray) -> Explanation:
        """Some of the examples, in any order, some of them perhaps several times."""
        feeds = {name: array[places] for name, array in self.feeds.items()}
        return self.explainer.explain_first(feeds, self.asking.of(0, places, {}))

    @property
    def sha256(self) -> str:
        """Of all arrays."""
        found = hashlib.sha256()
        for name, array in self.arrays:
            found.update(f"{name} {array.dtype.name} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def checks(self, compare_with: str | None) -> Iterator[Check]:
        """Everything that is compared, one after the other."""
        for name, batches in _companies(self.count).items():
            yield Check(name, self.first_difference(batches))
        yield self.in_process("in another process", {})
        yield self.on_other_devices()
        if compare_with == TORCH:
            yield from compared(self.model, self.whole, self.explainer.settings)

    def first_difference(self, batches: Sequence[np.ndarray]) -> Difference | None:
        """That of the examples explained in these batches."""
        for places in batches:
            found = first_difference(self.arrays, _arrays(self.explained(places)), places)
            if found is not None:
                return found
        return None

    def on_other_devices(self) -> Check:
        """Explain in a process with another number of devices, which only the host's processor can pretend to have."""
        if self.explainer.device.platform != "cpu":
            kind = self.explainer.device.device_kind
            return Check("on other devices", skipped=f"only the host has a number of devices to choose, this is {kind}")
        here = len(jax.devices())
        count = 1 if here > 1 else _MANY_DEVICES
        flags = re.sub(rf"{_DEVICE_COUNT}=\S*", "", xla_flags())
        name = f"on {count} host device{'s' if count > 1 else ''}, not {here}"
        environment = {"XLA_FLAGS": f"{flags} {_DEVICE_COUNT}={count}".strip()}
        return self.in_process(name, environment, devices=ALL)

    def in_process(self, name: str, environment: Mapping[str, str], **changed: Any) -> Check:
        """Explain all examples in a process of its own, with some settings changed."""
        job = (self.model.absolute(), self.feeds, {**self.settings, **changed}, self.asking.asked)
        with tempfile.TemporaryDirectory(prefix="backtrace-jax-verify-") as folder:
            try:
                Path(folder, _JOB).write_bytes(pickle.dumps(job))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                return Check(name, failure=f"what is asked cannot be sent to another process: {error}")
            run = subprocess.run(
                [sys.executable, "-c", f"from {__name__} import answer_job; answer_job({folder!r})"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **_COMPILING, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if run.returncode:
                last = run.stderr.decode(errors="replace").strip().splitlines()[-1:]
                return Check(name, failure=" ".join([f"it ended with exit code {run.returncode}:", *last]))
            found = Explanation.load(Path(folder, _ANSWER))
        return Check(name, first_difference(self.arrays, _arrays(found), np.arange(self.count)))


_COMPILING = {cache.VARIABLE: cache.OFF[-1]}  # another process proves more when it compiles for itself
_JOB, _ANSWER = "job.pickle", "answer.npz"


def answer_job(folder: str) -> None:
    """Do what another process has left in a folder of its own."""
    model, feeds, settings, asked = pickle.loads(Path(folder, _JOB).read_bytes())  # our own file, in our own folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)
        Explainer(model, **settings).explain_first(feeds, asked).save(Path(folder, _ANSWER))


def _companies(count: int) -> dict[str, list[np.ndarray]]:
    """The examples in other company: by what was done, batches of them."""
    every, longest = np.arange(count), np.arange(max(count, max(SIZES))) % count
    batches = [longest[i : i + size] for size in SIZES for i in range(0, len(longest), size)]
    return {
        "each example alone": [*every[:, None]],
        f"in batches of {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]}": batches,
        "at other positions": [every[::-1], np.roll(longest, 1), np.roll(every, count // 2)],
    }


def _arrays(explanation: Explanation) -> list[tuple[str, np.ndarray]]:
    """What is compared: every array of an explanation but the inputs, by name."""
    return [(part.label, part.array) for part in parts(explanation) if not part.label.startswith("inputs[")]
