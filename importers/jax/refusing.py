"""What goes wrong while a user's function is traced: by name, with the line of his code and the way out."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax

from backtrace_jax.errors import BacktraceError, InputError, ModelError, UnsupportedError

from .calls import TORCH
from .places import LIBRARIES

_LIBRARY = "it gives the values of its inputs to code that is not JAX's (numpy, torch, float(), item()); "
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        jax.errors.TracerBoolConversionError,
        "Python decides by the values of the inputs (if, while, and, or); use jax.numpy.where, jax.lax.cond or "
        "jax.lax.while_loop, or pass what decides as a constant: {'train': False}",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "an index of booleans gives a result whose shape depends on values; use jax.numpy.where(mask, x, 0) instead",
    ),
    (jax.errors.TracerArrayConversionError, f"{_LIBRARY}use jax.numpy instead"),
    (
        jax.errors.TracerIntegerConversionError,
        "Python takes a value of the inputs for an index or a size; use jax.numpy.take, or pass it as a Python number",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "a shape, an axis or Python's code needs values of the inputs; pass them as Python numbers: constants",
    ),
    (
        jax.errors.UnexpectedTracerError,
        "it keeps what it computes outside of itself (a global, an attribute, a list); return it instead",
    ),
)


@contextmanager
def refusing(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """Inside, a model is traced.

    Raises:
        BacktraceError: Whatever it raises, with the line of its code.
    """
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{name[:40]}: {error}") from error
    except BacktraceError:
        raise
    except Exception as error:
        raise _refusal(name, shapes, error) from error


def _refusal(name: str, shapes: Mapping[str, tuple[int, ...]], error: Exception) -> BacktraceError:
    where = f"{name[:40]}{_line(error)}"
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return UnsupportedError(f"{where} cannot be traced: {reason}")
    text = " ".join(str(error).split())
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, TypeError) and "Tensor" in text and "Tracer" in text:
        return UnsupportedError(f"{where} computes with torch, not JAX: {TORCH}")
    if type(error).__name__ == "TraceContextError" or "different trace level" in text:
        return UnsupportedError(
            f"{where} changes a module that it holds; pass the module itself, which is copied: explain(module, x)"
        )
    called = ", ".join(f"{each} {list(shape)}" for each, shape in shapes.items())
    return InputError(f"{where} cannot be called with {called:.80}: {type(error).__name__}: {text:.150}")


def _line(error: BaseException) -> str:
    """The innermost line of the user's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _is_foreign(filename: str) -> bool:
    return filename.startswith((*LIBRARIES, "<"))
