"""How an explainer reaches another process: by a file, never by pickling."""

from __future__ import annotations

from os import PathLike
from typing import Any, TypeVar, Unpack

from backtrace_jax.errors import SettingError
from backtrace_jax.errors.arguments import with_fields
from backtrace_jax.question.feeds import Inputs
from backtrace_jax.question.settings import Settings
from backtrace_jax.runtime.machine import local_devices

from .asking import Asked
from .given import GivenQuestion
from .loading import read_explainer, write
from .stages import Stages

Loaded = TypeVar("Loaded", bound="Portable")


class Portable:
    """Writes itself to a file, and reads itself back."""

    settings: Settings
    device: Any
    _imported: Any
    _stages: Stages
    _called: Any
    _feeds: Any
    _understood: Any

    def export(self, path: str | PathLike[str], inputs: Inputs, **asked: Unpack[GivenQuestion]) -> None:
        """Write a compiled explainer, which is loaded without the model, its framework and its importer.

        The file holds the graph with its weights, and the functions as StableHLO (`jax.export`). Loaded on the same
        machine with the same versions it gives the same bytes. It answers for examples of these shapes: any target,
        and what else can be asked; only what is asked here need not be traced. The inputs are explained once, so that
        mistakes are named and a module's import is proven.

        Args:
            path: Of the file, which is written whole or not at all.
            inputs: Examples, as `explain` takes them.
            asked: What is asked about them, as `explain` takes it: `start=`, say, where calls will have one.

        Raises:
            SettingError: When rules are functions of your own, or values of inputs decide what is computed.
        """
        question = Asked(**asked)
        self._called(inputs, question)
        feeds = self._feeds(self._imported, inputs)
        write(path, self._understood(self._imported, feeds, question), self.settings)

    export.__qualname__ = "Explainer.export"  # as users know it
    export = with_fields(Asked)(export)

    @classmethod
    def load(cls: type[Loaded], path: str | PathLike[str]) -> Loaded:
        """Read an explainer that `export` has written; the file is not trusted, and no code of it is run as it is.

        It is called as the one that was exported; inputs of a PyTorch module or JAX model are arrays by name.

        Raises:
            InputError: When it is no such file, damaged, or of another version.
        """
        imported, settings, stored = read_explainer(path)
        chosen = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
        found = cls(imported, **{**chosen, "batch_axis": settings.axes})  # type: ignore[call-arg]
        found._stages = Stages(found.settings, local_devices(found.settings.devices), stored)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Say how an explainer reaches another process; copies would be compiled anew just the same.

        Raises:
            SettingError: Always.
        """
        raise SettingError(
            "an Explainer holds compiled functions, which are neither copied nor pickled; make one from the model's "
            "file where it is needed (of a module or Keras model, the file that export(model, path) writes), or load "
            "what its own export(path, inputs) writes"
        )
