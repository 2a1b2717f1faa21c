"""What `explain` returns: relevance per input value, and the ledger that accounts for all of it.

An `Explanation` holds plain NumPy arrays, batch first (`record`). Its `Ledger` keeps the books (`ledger`). In mode
"contrastive" relevance for and against are two channels with books of their own; gradient modes keep no books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backtrace_jax.errors.arguments import as_path, known_arguments

from . import archive, html, pictures
from .record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Record):
    """Why a model answered what it answered, for a batch of examples; `Record` lists its attributes."""

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
        archive.save(self, as_path("path", path))

    @classmethod
    @known_arguments
    def load(cls, path: Any) -> Explanation:
        """Read a file written by `save`; every array comes back bit for bit.

        Raises:
            InputError: the file is missing, broken, from a newer version, or not a saved explanation.
            SettingError: `path` is no path.
        """
        return cls(**vars(archive.load(as_path("path", path))))

    def _repr_html_(self) -> str:
        """Show the explanation in a notebook: self-contained HTML, with a picture where matplotlib is installed."""
        return html.render(self)
