"""Errors of the library: one root class, so that `except BacktraceError` catches every mistake it can name.

Every message says what was found, where (node, operator, opset, argument), what was expected, and what to do next.
"""

from __future__ import annotations


class BacktraceError(Exception):
    """Root of every error raised on purpose by backtrace-jax."""


class ModelError(BacktraceError):
    """The model file is missing, broken, unsafe or inconsistent."""


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


class InputError(BacktraceError):
    """The inputs do not fit the model: name, rank, shape, dtype, an empty batch, NaN or Inf."""


class SettingError(BacktraceError):
    """A setting of the call is wrong: mode, task, target, output, layers, wrt, chunk and the like."""


class NumericsError(BacktraceError):
    """The model itself produced NaN or Inf on these inputs, so there is nothing sound to explain."""


class MissingDependencyError(BacktraceError):
    """An optional package is needed for this call; the message says which extra installs it."""
