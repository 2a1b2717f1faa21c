"""An explanation's outputs, and the gradient at its inputs, beside those of the same ONNX file run by PyTorch.

onnx2torch turns the file into a PyTorch module: another reading of it, other kernels, and autograd's own derivative.
The two agree but for rounding, so they are compared within a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from backtrace_jax.batch.layout import rows_of
from backtrace_jax.errors import MissingDependencyError, SettingError
from backtrace_jax.explanation.describe import units
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers import read
from backtrace_jax.ir.imported import InputType
from backtrace_jax.question.settings import Settings

from .explainer import Explainer
from .verification import Check, Difference

TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Relative to the largest entry of an array: single precision adds up in another order."""

_OUTPUTS, _GRADIENTS = "outputs beside PyTorch", "gradient beside PyTorch"
_AS_ASKED = ("wrt", "chunk", "dtype", "precision")
Arrays: TypeAlias = Mapping[str, np.ndarray]


def check_comparable(model: Path, settings: Settings) -> None:
    """Find out what cannot be compared before anything is explained.

    Raises:
        SettingError: The model is no ONNX file, or its inputs do not have the batch first.
        MissingDependencyError: onnx2torch is not installed.
    """
    if model.suffix.lower() != ".onnx":
        raise SettingError(
            f"only ONNX files are compared with PyTorch, '{model}' is none; export(model, path) makes one"
        )
    if settings.batch_axis != 0:
        raise SettingError(
            "a comparison with PyTorch takes models whose inputs have the batch first, without batch_axis"
        )
    try:
        import onnx2torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        advice = "pip install 'backtrace-jax[verify]'"
        raise MissingDependencyError(f"a comparison with PyTorch needs onnx2torch ({error}): {advice}") from error


def compared(model: Path, explanation: Explanation, settings: Settings) -> Iterator[Check]:
    """Compare outputs, and the gradient of what is explained.

    Args:
        model: The ONNX file.
        explanation: Of its inputs, by the engine.
        settings: What it was made with.
    """
    start = _start(explanation)
    try:
        outputs, gradient = _Torch(model, explanation, start).run()
    except Exception as error:  # another package's code, with limits of its own
        said = " ".join(f"{type(error).__name__}: {error}".split())
        yield Check(_OUTPUTS, failure=f"onnx2torch cannot run this file ({said:.200}); it knows older opsets best")
        return
    yield _compared(_OUTPUTS, "outputs", explanation.outputs, outputs, TOLERANCE)
    if explanation.output not in outputs:
        yield Check(_GRADIENTS, skipped=f"{explanation.output!r} is a value inside the model")
    elif not gradient:
        yield Check(_GRADIENTS, skipped="no input holds floats")
    else:
        asked = {name: getattr(settings, name) for name in _AS_ASKED}
        differentiate = Explainer(model, mode="gradient", output=explanation.output, **asked)
        ours = differentiate(explanation.inputs, start=start).relevance
        yield _compared(_GRADIENTS, "gradient", ours, gradient, GRADIENT_TOLERANCE)


def _start(explanation: Explanation) -> np.ndarray:
    """What the gradient is taken of: 1 at the units explained; equal parts of all, where none are named."""
    values = explanation.outputs[explanation.output]
    start = np.zeros(values.shape, values.dtype).reshape(len(values), -1)
    for example, row in enumerate(start):
        named = units(explanation, example)
        row[named or slice(None)] = 1 if named else 1 / len(row)
    return start.reshape(values.shape)


@dataclass(frozen=True, eq=False)
class _Torch:
    """The file as a PyTorch module, and the inputs of an explanation.

    Attributes:
        model: The file.
        explanation: What holds the inputs.
        start: Weights of the output explained, whose gradient is taken.
    """

    model: Path
    explanation: Explanation
    start: np.ndarray

    @cached_property
    def declared(self) -> Sequence[InputType]:
        return read(self.model).inputs

    @cached_property
    def module(self) -> Any:
        from onnx2torch import convert  # pyright: ignore[reportMissingImports]

        module = convert(str(self.model)).eval()
        return module.double() if self.start.dtype == np.float64 else module

    @cached_property
    def output_names(self) -> list[str]:
        import onnx  # which exported explainers do without

        return [output.name for output in onnx.load(self.model, load_external_data=False).graph.output]

    def run(self) -> tuple[Arrays, Arrays]:
        """Outputs by name, and the gradient of the explained one by input; as many examples at a time as the file
        takes."""
        count = len(self.explanation)
        fixed = any(entry.dims and entry.dims[0] is not None for entry in self.declared)
        size = rows_of(self.declared) if fixed else count
        found = [self.of(np.arange(first, first + size) % count) for first in range(0, count, size)]
        outputs, gradients = ([each[k] for each in found] for k in (0, 1))
        return _joined(outputs, count), _joined(gradients, count)

    def of(self, places: np.ndarray) -> tuple[Arrays, Arrays]:
        """Those of some examples."""
        import torch

        given = [torch.from_numpy(self._input(entry.name)[places]) for entry in self.declared]
        given = [each.requires_grad_(each.is_floating_point()) for each in given]
        answer = self.module(*given)
        answers = dict(zip(self.output_names, (answer,) if len(self.output_names) == 1 else answer, strict=True))
        explained = answers.get(self.explanation.output)
        if explained is not None and explained.requires_grad:
            (explained * torch.from_numpy(self.start[places])).sum().backward()
        outputs = {name: each.detach().numpy() for name, each in answers.items() if name in self.explanation.outputs}
        taken = zip(self.declared, given, strict=True)
        return outputs, {entry.name: each.grad.numpy() for entry, each in taken if each.grad is not None}

    def _input(self, name: str) -> np.ndarray:
        array = self.explanation.inputs[name]
        return array.astype(self.start.dtype) if array.dtype.kind == "f" else array


def _joined(parts: Sequence[Arrays], count: int) -> Arrays:
    """Examples of several runs, without those that the last one was filled up with."""
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _compared(check: str, kind: str, ours: Arrays, theirs: Arrays, tolerance: float) -> Check:
    """Compare the arrays of floats that both have; the entry furthest apart is named where that is too far."""
    furthest = 0.0
    names = [name for name in ours if name in theirs and ours[name].dtype.kind == "f"]
    for name in names:
        one, other = ours[name].astype(np.float64), theirs[name].astype(np.float64)
        if one.shape != other.shape:
            return Check(check, Difference(f"{kind}[{name!r}]", 0, None, str(list(one.shape)), str(list(other.shape))))
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
        apart = np.nan_to_num(apart, nan=np.inf) / max(np.abs(other[np.isfinite(other)]).max(initial=0), 1e-30)
        worst = np.unravel_index(int(apart.argmax()), apart.shape)
        if apart[worst] > tolerance:
            place = tuple(map(int, worst))
            values = (f"{each[worst]:.9g}" for each in (one, other))
            return Check(check, Difference(f"{kind}[{name!r}]", place[0], place[1:], *values))
        furthest = max(furthest, float(apart[worst]))
    if not names:
        return Check(check, skipped="there are no floats that both have")
    said = f"they differ by at most {furthest:.1e} of the largest entry (allowed: {tolerance:.0e})"
    return Check(check, found=said)
