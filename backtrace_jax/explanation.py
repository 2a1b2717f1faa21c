"""What `explain` returns: relevance per input value, and the ledger that accounts for all of it.

An `Explanation` holds plain NumPy arrays, batch first. Its `Ledger` keeps the books: the relevance that was started at
the output equals what reached the inputs plus what was kept back on the way, by cause:

    start = inputs + bias + constant + stabiliser + dead

In mode "contrastive" relevance for and against are two channels with books of their own; gradient modes keep no books.
Everything here needs NumPy only. Pictures, HTML and files are made by `backtrace_jax.report`, imported when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backtrace_jax.arguments import as_path, known_arguments
from backtrace_jax.errors import AbsentPartError, InputError, MissingNameError
from backtrace_jax.texts import printable, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("start", "inputs", "bias", "constant", "stabiliser", "dead")
"""The columns of a ledger, in the order in which they are stored."""

ALL_UNITS = -1
"""The target of an example whose relevance was started at every unit of the output (regression)."""


class Named(dict[str, Any]):
    """What an explanation holds by name; a name that is not there is answered with those that are."""

    empty = "nothing"  # what to say where there are none

    def __missing__(self, name: object) -> Any:
        listed = ", ".join(map(str, [*self][:_NAMES_SHOWN])) + (", ..." if len(self) > _NAMES_SHOWN else "")
        raise MissingNameError(f"nothing here is called {shown(name, 60)}; there is: {listed or self.empty}")


_NAMES_SHOWN = 8


class _Layers(Named):
    """Relevance of inner values, which is kept when asked for."""

    empty = "nothing, since none were asked for: pass layers=[...], names or globs, to explain or Explainer"


def _column(name: str) -> property:
    index = COLUMNS.index(name)
    return property(lambda ledger: ledger.signed[:, index], doc=f"Signed total of `{name}` per example, [batch].")


@dataclass(frozen=True, eq=False)
class Ledger:
    """The books of an explanation, or of one node of its graph.

    For a node, `start` is the relevance it received and `inputs` what it handed on to its operands.

    Attributes:
        signed: [batch, 6] float64, signed totals, columns in the order of `COLUMNS`.
        absolute: [batch, 6] float64, sums of magnitudes, so that errors which cancel in `signed` still show.
        by_node: the ledger of every graph node, by name; empty for the ledger of a node.

    Raises:
        InputError: an array is not [batch, 6] float64, or the two shapes differ.
    """

    signed: np.ndarray
    absolute: np.ndarray
    by_node: Mapping[str, Ledger] = field(default_factory=dict)

    start = _column("start")
    inputs = _column("inputs")
    bias = _column("bias")
    constant = _column("constant")
    stabiliser = _column("stabiliser")
    dead = _column("dead")

    def __post_init__(self) -> None:
        """Check the shapes here, so that a wrong column can never be read as another one later."""
        for name, array in (("signed", self.signed), ("absolute", self.absolute)):
            if array.ndim != 2 or array.shape[1] != len(COLUMNS) or array.dtype != np.float64:
                found = f"{array.dtype} {list(array.shape)}"
                raise InputError(f"Ledger.{name} must be float64 [batch, {len(COLUMNS)}], got {found}")
        if self.signed.shape != self.absolute.shape:
            shapes = f"{list(self.signed.shape)} and {list(self.absolute.shape)}"
            raise InputError(f"Ledger.signed and Ledger.absolute must have one shape, got {shapes}")

    @property
    def error(self) -> np.ndarray:
        """How far the books are from closing, [batch]: |start - the rest| relative to the largest magnitude."""
        gap = np.abs(self.signed[:, 0] - self.signed[:, 1:].sum(axis=1))
        size = self.absolute.max(axis=1)
        return np.divide(gap, size, out=np.where(gap == 0, 0.0, np.inf), where=size != 0)

    def __repr__(self) -> str:
        """Batch size, number of nodes and the largest closing error."""
        worst = f"{self.error.max():.1e}" if len(self.signed) else "none"
        return f"Ledger({len(self.signed)} examples, {len(self.by_node)} nodes, closing error {worst})"


@dataclass(frozen=True, eq=False)
class Channel:
    """One of the two channels of a contrastive explanation: what speaks for the answer, or what speaks against it.

    Attributes:
        relevance: input name -> relevance of this channel, shaped like that input.
        layers: name -> relevance of the intermediate values that were asked for.
        ledger: the books of this channel.
    """

    relevance: dict[str, np.ndarray]
    layers: dict[str, np.ndarray]
    ledger: Ledger

    def __post_init__(self) -> None:
        """Let every name that is not there be answered with those that are."""
        object.__setattr__(self, "relevance", Named(self.relevance))
        object.__setattr__(self, "layers", _Layers(self.layers))


POSITIVE, NEGATIVE = "positive", "negative"
CHANNELS = (POSITIVE, NEGATIVE)
"""The channels of a contrastive explanation, in the order in which they travel."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a model answered what it answered, for a batch of examples.

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
        ledger: the books of the explanation, in total and per graph node; of a contrastive one those of the
            difference. None in gradient modes, which have no relevance that could be kept.
        fingerprint: what the bits depend on: model hash, mode, settings, versions, device. JSON values only.
        channels: "positive" and "negative" in mode "contrastive"; empty in all others.
        completeness_error: [batch], |total attribution - change| / |change|, where the change is that of the explained
            answer from the baseline; 0 where the two differ by no more than the answers' rounding. None in modes where
            that is not defined, NaN where the answer itself is.
        warnings: what the explanation is to be read with caution for, with numbers and what to try.
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
        object.__setattr__(self, "layers", _Layers(self.layers))

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

    @known_arguments
    def plot(
        self,
        example: Any = 0,
        *,
        input: str | None = None,
        feature_names: Sequence[str] | None = None,
        tokens: Sequence[str] | None = None,
        path: Any = None,
    ) -> Figure:
        """Draw the relevance of one example in the form that fits the input.

        Images [channels, height, width] become a heat map over the input, feature vectors signed bars, integer
        sequences coloured tokens, series [steps, features] a heat strip over time.

        Args:
            example: position in the batch, negative from the end.
            input: which input to draw; by default the first one that bears relevance.
            feature_names: one name per feature (bars are drawn, whatever the dtype); of a series [steps, features] one
                per feature will do, whose relevance is then summed over the steps.
            tokens: one text per position (coloured tokens are drawn; relevance is summed over features).
            path: also save the picture there, whole or not at all; the suffix picks the format.

        Raises:
            SettingError: `example` or `input` does not exist, the names do not fit, or `path` cannot be written.
            MissingDependencyError: matplotlib is not installed.
        """
        from backtrace_jax.report import pictures

        figure = pictures.draw(self, example, input_name=input, feature_names=feature_names, tokens=tokens)
        if path is not None:
            pictures.save(figure, as_path("path", path))
        return figure

    @known_arguments
    def save(self, path: Any) -> None:
        """Write everything into one `.npz` file at exactly `path`: the whole file, or nothing.

        Raises:
            SettingError: the file cannot be written, or the fingerprint holds something that JSON cannot.
        """
        from backtrace_jax.report import archive

        archive.save(self, as_path("path", path))

    @classmethod
    @known_arguments
    def load(cls, path: Any) -> Explanation:
        """Read a file written by `save`; every array comes back bit for bit.

        Raises:
            InputError: the file is missing, broken, from a newer version, or not a saved explanation.
            SettingError: `path` is no path.
        """
        from backtrace_jax.report import archive

        return archive.load(as_path("path", path))

    def __repr__(self) -> str:
        """One line: mode, task, axis of classes, output, shapes, closing error; one more for each warning."""
        shapes = ", ".join(f"{printable(name)}: {list(array.shape)}" for name, array in self.relevance.items())
        mode, axis = self.fingerprint.get("mode", "unknown"), self.fingerprint.get("class_axis")
        task = repr(self.fingerprint.get("task", "unknown")) + ("" if axis is None else f", class_axis={axis!r}")
        books = self.ledger if self.ledger is not None else f"{len(self)} examples"
        line = f"Explanation(mode={mode!r}, task={task}, output={self.output!r}, relevance={{{shapes}}}, {books!s})"
        return "\n".join([line, *(printable(f"warning: {each}") for each in self.warnings)])

    def _repr_html_(self) -> str:
        """Show the explanation in a notebook: self-contained HTML, with a picture where matplotlib is installed."""
        from backtrace_jax.report import html

        return html.render(self)
