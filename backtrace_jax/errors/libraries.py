"""Libraries that come with extras, imported where they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import MissingDependencyError

DATASETS = 'pip install "backtrace-jax[datasets]"'


def library(name: str, need: str, install: str) -> Any:
    """A library by the name of its module.

    Args:
        name: Of the module.
        need: What needs which library: "a store needs zarr".
        install: The command that installs it.

    Raises:
        MissingDependencyError: When it is not installed, with the command.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{need}, which is not installed: {install}") from error
