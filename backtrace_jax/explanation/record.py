"""What an explanation holds: plain NumPy arrays, batch first, and what they are relevance of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backtrace_jax.errors import AbsentPartError
from backtrace_jax.errors.texts import printable

from .ledger import NEGATIVE, POSITIVE, Channel, Layers, Ledger, Named


@dataclass(frozen=True, eq=False)
class Record:
    """The contents of an explanation, for a batch of examples.

    Attributes:
        relevance: input name -> relevance, shaped like that input (integer inputs: float relevance per token). In mode
            "contrastive" what speaks for the answer minus what speaks against it.
        inputs: input name -> the inputs that were explained.
        outputs: output name -> the model's outputs (and the value explained, where that is an inner one).
        output: name of the explained output.
        target: [batch], what was explained: the flat index of the unit within one example of the output; the class, 0
            or 1, that a single unit was asked to speak for (1 where that was left open, whatever it predicts); the
            class of a multi-class segmentation; start times length plus end of a span; `ALL_UNITS` (-1) where relevance
            was started at all units that the task names. None when the caller gave the start relevance.
        layers: name -> relevance of the intermediate values that were asked for.
        ledger: the books of the explanation, in total and (unless `ledger="total"` was asked for) per graph node; of a
            contrastive one those of the difference. None in gradient modes, which have no relevance that could be kept,
            and where `ledger=None` was asked for.
        fingerprint: what the bits depend on: model hash, mode, settings, versions, device. JSON values only.
        channels: "positive" and "negative" in mode "contrastive"; empty in all others.
        completeness_error: [batch], |total attribution - change| / |change|, where the change is that of the explained
            answer from the baseline; 0 where the two differ by no more than the answers' rounding. None in modes where
            that is not defined, NaN where the answer itself is.
        warnings: what the explanation is to be read with caution for, with numbers and what to try.
        structure: puts values by input name into the tree that the inputs were passed in; None where there was none,
            and in what was saved and loaded.
    """

    relevance: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    output: str
    target: np.ndarray | None
    layers: dict[str, np.ndarray]
    ledger: Ledger | None
    fingerprint: dict[str, Any]
    channels: dict[str, Channel] = field(default_factory=dict)
    completeness_error: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    structure: Callable[[Mapping[str, Any]], Any] | None = None

    def in_tree(self, values: Mapping[str, Any] | None = None) -> Any:
        """Relevance in the tree that the inputs were passed in to a JAX model.

        Args:
            values: Other values by input name, for example `explanation.positive`.

        Returns:
            The tree, with the array of each input in its place, batch first; None in the place of all else.

        Raises:
            AbsentPartError: Where the inputs were in no tree, or the explanation was saved and loaded.
        """
        if self.structure is None:
            raise AbsentPartError(
                "there is no tree: the model was no JAX function, or the explanation was saved and loaded, or taken "
                "from a run; relevance is by input name"
            )
        return self.structure(self.relevance if values is None else values)

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: everything but the tree, whose classes it may not know."""
        return {**vars(self), "structure": None}

    @property
    def positive(self) -> dict[str, np.ndarray]:
        """Input name -> relevance that speaks for the answer (mode "contrastive"; layers: `channels["positive"]`)."""
        return self._channel(POSITIVE).relevance

    @property
    def negative(self) -> dict[str, np.ndarray]:
        """Input name -> relevance that speaks against the answer (mode "contrastive")."""
        return self._channel(NEGATIVE).relevance

    def __post_init__(self) -> None:
        """Let every name that is not there be answered with those that are."""
        for part in ("relevance", "inputs", "outputs", "channels"):
            object.__setattr__(self, part, Named(getattr(self, part)))
        object.__setattr__(self, "layers", Layers(self.layers))

    @property
    def mode(self) -> str:
        """Name of the mode, as the fingerprint has it."""
        return self.fingerprint.get("mode", "unknown")

    @property
    def task(self) -> str:
        """Kind of answer explained, as the fingerprint has it: what "auto" chose."""
        return self.fingerprint.get("task", "unknown")

    def _channel(self, name: str) -> Channel:
        if name not in self.channels:
            mode = self.fingerprint.get("mode", "unknown")
            raise AbsentPartError(f"mode {mode!r} has no {name} relevance apart; explain with mode='contrastive'")
        return self.channels[name]

    def __len__(self) -> int:
        """Count the examples."""
        return len(next(iter(self.inputs.values()), ()))

    def __repr__(self) -> str:
        """One line: mode, task, axis of classes, output, shapes, closing error; one more for each warning."""
        shapes = ", ".join(f"{printable(name)}: {list(array.shape)}" for name, array in self.relevance.items())
        mode, axis = self.fingerprint.get("mode", "unknown"), self.fingerprint.get("class_axis")
        task = repr(self.fingerprint.get("task", "unknown")) + ("" if axis is None else f", class_axis={axis!r}")
        books = self.ledger if self.ledger is not None else f"{len(self)} examples"
        line = f"Explanation(mode={mode!r}, task={task}, output={self.output!r}, relevance={{{shapes}}}, {books!s})"
        return "\n".join([line, *(printable(f"warning: {each}") for each in self.warnings)])
