"""One picture per explanation: which form fits the input, the figure around it, and saving it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backtrace_jax.errors import MissingDependencyError, SettingError
from backtrace_jax.errors.texts import printable, shown
from backtrace_jax.runtime.files import replacing

from .describe import check_example, unit
from .record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160


@dataclass(frozen=True)
class _Subject:
    """What is drawn: one example of one input."""

    values: np.ndarray
    relevance: np.ndarray
    input_name: str
    heading: str
    feature_names: list[str] | None
    tokens: list[str] | None


def draw(
    explanation: Record,
    example: Any = 0,
    *,
    input_name: str | None = None,
    feature_names: Sequence[str] | None = None,
    tokens: Sequence[str] | None = None,
) -> Figure:
    """Draw one example of an explanation (see `Explanation.plot`)."""
    require_matplotlib()
    example = check_example(explanation, example)
    name = _pick(explanation, input_name)
    subject = _Subject(
        values=np.asarray(explanation.inputs[name][example]),
        relevance=np.asarray(explanation.relevance[name][example], np.float64),
        input_name=name,
        heading=f"Relevance of {name} for {unit(explanation, example)}",
        feature_names=_as_texts("feature_names", feature_names),
        tokens=_as_texts("tokens", tokens),
    )
    _check_drawable(subject)
    with _quiet_glyphs():
        return _form(subject)(subject)


_LARGEST = 1e300  # magnitudes that sums and the ends of axes can be made of


def _check_drawable(subject: _Subject) -> None:
    """Refuse what no picture can show.

    Raises:
        SettingError: The input holds nothing, or numbers that are too large.
    """
    if not subject.values.size:
        raise SettingError(f"the input {shown(subject.input_name)} holds no values; there is nothing to draw")
    if any((np.abs(array.astype(np.float64)) > _LARGEST).any() for array in (subject.values, subject.relevance)):
        raise SettingError(f"the input {shown(subject.input_name)} has numbers beyond {_LARGEST:g}; read the arrays")


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a figure to `path`, whole or not at all; the suffix picks the format.

    Raises:
        SettingError: there is no suffix, the suffix names no picture format, or the file cannot be written.
    """
    kind = picture_format(path)
    with replacing(path) as file, _quiet_glyphs():
        figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, facecolor="white")


def picture_format(path: str | PathLike[str]) -> str:
    """Format that a file's suffix asks for.

    Raises:
        SettingError: there is no suffix, or it names no picture format.
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    kind = Path(path).suffix.lower().lstrip(".")
    known = FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        problem = f"no picture format is called '.{kind}'" if kind else "the name has no suffix, which picks the format"
        raise SettingError(f"'{path}': {problem}; use one of .{', .'.join(sorted(known))}")
    return kind


def png(figure: Figure, *, dots_per_inch: int = 110) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with _quiet_glyphs():
        figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white")
    return buffer.getvalue()


def blank(width: float, height: float) -> Figure:
    """Make an empty white figure, size in inches, that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def require_matplotlib() -> None:
    """Raise MissingDependencyError, with the command that helps, when matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        advice = 'pip install "backtrace-jax[viz]"'
        raise MissingDependencyError(f"pictures need matplotlib, which is not installed: {advice}") from error


def as_picture(values: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Turn one image into something to look at, and find its channel axis.

    Returns:
        ([height, width, 3] or [height, width] with values 0..1, channel axis); None for neither 1 nor 3 channels.
    """
    axis = 0 if values.shape[0] in (1, 3) or values.shape[-1] not in (1, 3) else 2
    pixels = np.moveaxis(values.astype(np.float64), axis, -1)
    if pixels.shape[-1] not in (1, 3):
        return None, axis
    known = pixels[~np.isnan(pixels)]  # what is missing is left blank
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    if low < 0 or high > 1:  # normalised or 0..255: stretch; pictures that are 0..1 already keep their brightness
        pixels = (pixels - low) / ((high - low) or 1.0)
    return (pixels[..., 0] if pixels.shape[-1] == 1 else pixels), axis


def grey(picture: np.ndarray) -> np.ndarray:
    """Reduce a picture with values 0..1 to its brightness (ITU-R BT.601), [height, width]."""
    return picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114])


def _pick(explanation: Record, name: str | None) -> str:
    names = list(explanation.relevance)
    if name is None and names:
        return names[0]
    if not isinstance(name, str) or name not in names:
        raise SettingError(
            f"no relevance for an input called {shown(name)}; there is some for: {', '.join(names) or 'none'}"
        )
    return name


def _form(subject: _Subject) -> Callable[[_Subject], Figure]:
    rank, integers = subject.values.ndim, subject.values.dtype.kind in "iu"
    if subject.tokens is not None:
        if rank > 2:
            shape = list(subject.values.shape)
            raise SettingError(
                f"the input {subject.input_name!r} {shape} is an image, it takes no tokens; leave tokens= out"
            )
        return _tokens
    if subject.feature_names is not None or rank == 0:
        return _bars
    forms = {1: _tokens if integers else _bars, 2: _strip, 3: _image}
    if rank not in forms:
        shape = list(subject.values.shape)
        hint = "read the array from .relevance, or pass feature_names= or tokens="
        raise SettingError(f"no form of picture fits the input {subject.input_name!r} of shape {shape}; {hint}")
    return forms[rank]


def _image(subject: _Subject) -> Figure:
    from . import panels

    picture, axis = as_picture(subject.values)
    heat = subject.relevance.sum(axis=axis)
    figure = blank(7.4 if picture is not None else 4.4, 3.7)
    _head(figure, subject)
    columns = np.atleast_1d(figure.subplots(1, 2 if picture is not None else 1))
    if picture is not None:
        panels.image(columns[0], picture)
        panels.title(columns[0], "input", colour=panels.MUTED)
    drawn = panels.overlay(columns[-1], None if picture is None else grey(picture), heat)
    panels.title(columns[-1], "relevance", colour=panels.MUTED)
    panels.scale_bar(columns[-1], drawn)
    return figure


def _bars(subject: _Subject) -> Figure:
    from . import panels

    relevance, labels = _of_variables(subject) or _of_values(subject)
    figure = blank(7.4, 1.3 + 0.27 * min(len(labels), panels.MOST_BARS))
    _head(figure, subject)
    panels.bars(figure.subplots(), relevance, labels)
    return figure


def _of_variables(subject: _Subject) -> tuple[np.ndarray, list[str]] | None:
    """Of a series [steps, features] with a name for each feature: what each feature has in all steps together."""
    names, shape = subject.feature_names, subject.relevance.shape
    if names is None or len(shape) != 2 or len(names) != shape[1]:
        return None
    return subject.relevance.sum(axis=0), [f"{name}, all steps" for name in names]


def _of_values(subject: _Subject) -> tuple[np.ndarray, list[str]]:
    from . import panels

    values, relevance = subject.values.ravel().astype(np.float64), subject.relevance.ravel()
    names = _fitting(subject.feature_names, len(relevance), "feature_names")
    if names is None:
        names = [f"{subject.input_name}[{index}]" for index in range(len(relevance))]
    return relevance, [f"{name} = {panels.plain(value, '.4g')}" for name, value in zip(names, values, strict=True)]


def _tokens(subject: _Subject) -> Figure:
    from . import panels

    relevance = subject.relevance.reshape(len(subject.relevance), -1).sum(axis=1) if subject.relevance.ndim else None
    if relevance is None:
        raise SettingError(f"the input {subject.input_name!r} is a single number and has no tokens")
    texts = _fitting(subject.tokens, len(relevance), "tokens") or [str(number) for number in subject.values]
    shown = [_visible(text) for text in texts[: panels.MOST_TOKENS]]
    figure = blank(7.8, 1.0 + 0.27 * len(panels.token_lines(shown)))
    left_out = f" (first {len(shown)} of {len(texts)} tokens)" if len(shown) < len(texts) else ""
    _head(figure, subject, left_out)
    axes = figure.subplots()
    panels.scale_bar(axes, panels.text(axes, relevance[: len(shown)], shown))
    return figure


def _strip(subject: _Subject) -> Figure:
    from . import panels

    values, relevance = subject.values, subject.relevance
    if values.shape[0] == 1:  # [1, steps]: one channel of a signal, channels first
        values, relevance = values.T, relevance.T
    figure = blank(7.8, 2.6)
    _head(figure, subject)
    axes = figure.subplots()
    panels.scale_bar(axes, panels.strip(axes, relevance.sum(axis=1), values))
    return figure


def _head(figure: Figure, subject: _Subject, note: str = "") -> None:
    from . import panels

    text = panels.literal(subject.heading + note)
    figure.suptitle(text, x=0.012, ha="left", fontsize=10.5, fontweight="bold", color=panels.INK)


def _as_texts(setting: str, names: Any) -> list[str] | None:
    """A list of names as the user gives it.

    Raises:
        SettingError: It is none.
    """
    if names is None:
        return None
    listed = names.tolist() if isinstance(names, np.ndarray) else names
    if isinstance(listed, str | bytes) or not isinstance(listed, Sequence):
        found = "a single text" if isinstance(listed, str) else shown(names)
        raise SettingError(f"{setting} must be a list of names, found {found}")
    return [each if isinstance(each, str) else shown(each) for each in listed]


def _fitting(names: list[str] | None, count: int, setting: str) -> list[str] | None:
    if names is not None and len(names) != count:
        raise SettingError(f"{setting} needs {count} names for this input, got {len(names)} names")
    return names


def _visible(token: str) -> str:
    shown = printable(token)
    return shown if shown.strip() else "·" * max(1, len(shown))


@contextmanager
def _quiet_glyphs() -> Iterator[None]:
    """A letter that no installed font has is drawn as a box; that is no reason to warn in the middle of a run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield
