"""Errors of the library: one root class, so that `except BacktraceError` catches every mistake it can name.

Every message says what was found, where (node, operator, opset, argument), what was expected, and what to do next.
"""

from __future__ import annotations

from typing import Any

from .texts import printable, shortened


class BacktraceError(Exception):
    """Root of every error raised on purpose by backtrace-jax."""

    def __str__(self) -> str:
        """The message on a page: names out of a damaged file may be megabytes long, and drive a terminal."""
        return shortened(printable(shortened(Exception.__str__(self)), kept="\n\t"))


class ModelError(BacktraceError):
    """The model file is missing, broken, unsafe or inconsistent."""


class ImportMismatchError(ModelError):
    """The imported model does not compute what the framework's own model computes."""


class UnsupportedError(BacktraceError):
    """The model uses an operator, a domain or a combination that has no implementation or no rule yet."""


class DataDependentError(UnsupportedError):
    """A shape or a setting depends on the values of inputs; known beforehand, they would do no harm.

    Attributes:
        inputs: Names of the inputs that decide.
    """

    def __init__(self, message: str, inputs: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.inputs = inputs


class MixedExamplesError(UnsupportedError):
    """A model does something to several examples together that it does not do to each alone.

    Attributes:
        reason: Which node does what, without the ways out.
    """

    def __init__(self, reason: str, ways_out: str) -> None:
        super().__init__(f"{reason}. {ways_out}")
        self.reason, self.ways_out = reason, ways_out

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it reach another process, as errors of workers do."""
        return type(self), (self.reason, self.ways_out), {"args": self.args}


class InputError(BacktraceError):
    """The inputs do not fit the model: name, rank, shape, dtype, an empty batch, NaN or Inf."""


class SettingError(BacktraceError):
    """A setting of the call is wrong: mode, task, target, output, layers, wrt, chunk and the like."""


class UnfitExampleError(SettingError):
    """A setting does not fit some of the examples: an empty mask, a class that does not exist, bounds they exceed."""


class MissingNameError(SettingError, KeyError):
    """Nothing of this name is there; the message lists the names there are."""


class NumericsError(BacktraceError):
    """The model itself produced NaN or Inf on these inputs, so there is nothing sound to explain."""


class AbsentPartError(InputError, AttributeError):
    """An explanation has no such part, as one that is not contrastive has no positive relevance of its own."""


class MissingDependencyError(BacktraceError):
    """An optional package is needed for this call; the message says which extra installs it."""


class RelevanceWarning(UserWarning):
    """An explanation that is to be read with caution: the message says by how much, and what to try."""
