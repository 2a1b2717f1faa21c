"""The parts of a picture: each function draws one thing on the axes that it is given.

One colour language throughout: red speaks for the target, blue against it, white is zero. Only matplotlib's
object-oriented interface is used; no figure is registered globally and no setting of the user's is changed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.image import AxesImage

from backtrace_jax.errors.texts import printable

INK, MUTED, RULE = "#1d2731", "#66727f", "#dfe3e8"
FOR, AGAINST = "#c1272d", "#2563a8"
LARGE = 4096
MOST_BARS = 20
MOST_TOKENS = 1000
MOST_LINES = 6
LINE_CHARACTERS = 84

DIVERGING = LinearSegmentedColormap.from_list("relevance", ["#14406f", AGAINST, "#ffffff", FOR, "#7d1016"])
SEQUENTIAL = ListedColormap(DIVERGING(np.linspace(0.5, 1.0, 256)), "relevance for")


def literal(text: object) -> str:
    """Make text safe for matplotlib, which would read a pair of dollar signs as a formula, and for what it writes."""
    return printable(text).replace("$", r"\$")


@dataclass(frozen=True)
class Scale:
    """How relevance becomes colour.

    Attributes:
        norm: From relevance to 0..1.
        colour_map: From 0..1 to colours.
        signed: Whether the scale has a blue half for negative relevance.
    """

    norm: Normalize
    colour_map: Colormap
    signed: bool

    @property
    def mappable(self) -> ScalarMappable:
        """What a colour bar is made of."""
        return ScalarMappable(self.norm, self.colour_map)


def colours(relevance: np.ndarray) -> Scale:
    """Choose the scale for relevance: diverging and centred at 0 when signed, white to red when not.

    In large arrays the scale ends at the 99.9th percentile of |relevance|: one hot pixel would bleach all the others.
    """
    size = np.abs(relevance)
    largest = float(size.max(initial=0.0))
    limit = float(np.quantile(size, 0.999)) if size.size > LARGE else largest
    limit = limit or largest or 1.0
    signed = bool((relevance < 0).any())
    return Scale(Normalize(-limit if signed else 0.0, limit), DIVERGING if signed else SEQUENTIAL, signed)


def see_through(scale: Scale) -> ListedColormap:
    """Make the same colours more transparent the closer they are to zero, for laying over a picture."""
    ramp = np.linspace(-1.0 if scale.signed else 0.0, 1.0, 256)
    strength = np.abs(ramp)[:, None] ** 0.6
    # Towards zero the hue stays full and the transparency does the paling, so that dark ground gives no grey veil.
    hue = np.where(ramp[:, None] < 0, to_rgb(AGAINST), to_rgb(FOR))
    mixed = scale.colour_map(np.linspace(0.0, 1.0, 256))[:, :3] * strength + hue * (1 - strength)
    return ListedColormap(np.hstack([mixed, 0.92 * strength]), "relevance over a picture")


def bare(axes: Axes) -> None:
    """Remove ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def framed(axes: Axes) -> None:
    """Remove ticks and draw a fine frame, so that a white picture has an edge on white paper."""
    bare(axes)
    axes.spines[:].set(visible=True, color=RULE, linewidth=0.8)


def title(axes: Axes, text: str, *, colour: str = INK) -> None:
    """Write a small left-aligned title."""
    axes.set_title(literal(text), loc="left", fontsize=9.5, color=colour, pad=6)


def image(axes: Axes, picture: np.ndarray, *, colour_map: str = "gray") -> None:
    """Show a picture, [height, width] or [height, width, 3], values 0..1."""
    axes.imshow(picture, cmap=colour_map, vmin=0.0, vmax=1.0, interpolation="nearest")
    framed(axes)


def overlay(axes: Axes, grey: np.ndarray | None, relevance: np.ndarray, *, colour_map: str = "gray") -> AxesImage:
    """Lay relevance over a paled grey picture, both [height, width]; without a picture, show the heat alone."""
    scale = colours(relevance)
    shown = scale.colour_map
    if grey is not None:
        # Paled, so that the heat keeps its colours on dark ground and the shapes still show.
        low, high = (0.5, 1.0) if colour_map == "gray" else (0.0, 0.3)
        image(axes, low + (high - low) * grey, colour_map=colour_map)
        shown = see_through(scale)
    heat = axes.imshow(relevance, cmap=shown, norm=scale.norm, interpolation="nearest")
    framed(axes)
    return heat


def bars(axes: Axes, relevance: np.ndarray, names: Sequence[str], *, most: int = MOST_BARS) -> None:
    """Signed horizontal bars, [features], the largest |relevance| on top; below, what the rest sums to."""
    relevance = relevance.astype(np.float64)
    order = np.argsort(-np.abs(relevance), kind="stable")
    top, rest = order[:most], order[most:]
    places = np.arange(len(top))
    drawn = axes.barh(places, relevance[top], height=0.68, color=np.where(relevance[top] < 0, AGAINST, FOR), zorder=2)
    axes.bar_label(drawn, [plain(length, "+.3g") for length in relevance[top]], padding=4, fontsize=7.5, color=MUTED)
    axes.set_yticks(places, [literal(names[index]) for index in top])
    axes.invert_yaxis()
    _dress_bars(axes)
    remainder = f" ({len(rest)} others sum to {plain(relevance[rest].sum(), '+.3g')})" if len(rest) else ""
    axes.set_xlabel(f"relevance{remainder}", fontsize=8, color=MUTED)


def plain(value: float, form: str) -> str:
    """Format a number with the typographic minus that matplotlib gives the axis."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _dress_bars(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.tick_params(axis="x", length=0, labelsize=7.5, labelcolor=MUTED)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.7, zorder=0)
    axes.axvline(0.0, color=MUTED, linewidth=0.8, zorder=3)
    axes.margins(x=0.14, y=0.02)


def token_lines(tokens: Sequence[str]) -> list[list[tuple[int, float, float]]]:
    """Break tokens into lines: per line (position, left edge, width), in characters of a fixed-pitch font."""
    lines: list[list[tuple[int, float, float]]] = [[]]
    left = 0.0
    for position, token in enumerate(tokens):
        width = 1.2 + sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in token)
        if lines[-1] and left + width > LINE_CHARACTERS:
            lines.append([])
            left = 0.0
        lines[-1].append((position, left, width))
        left += width + 0.5
    return lines


def text(axes: Axes, relevance: np.ndarray, tokens: Sequence[str]) -> ScalarMappable:
    """Tokens in reading order on grounds coloured by relevance, [tokens]. Tabs and line breaks are shown as signs."""
    from matplotlib.patches import FancyBboxPatch

    scale, lines = colours(relevance), token_lines(tokens)
    for row, line in enumerate(lines):
        for position, left, width in line:
            ground = scale.mappable.to_rgba(relevance[position])
            shape = FancyBboxPatch((left, row - 0.36), width, 0.72, boxstyle="round,pad=0,rounding_size=0.2")
            shape.set(facecolor=ground, edgecolor=RULE, linewidth=0.5)
            axes.add_patch(shape)
            ink = "white" if np.dot(ground[:3], (0.3, 0.59, 0.11)) < 0.55 else INK
            style = {"fontsize": 8.5, "family": "monospace", "color": ink}
            axes.text(left + width / 2, row, literal(tokens[position]), ha="center", va="center", **style)
    axes.set(xlim=(-0.5, LINE_CHARACTERS + 0.5), ylim=(len(lines) - 0.45, -0.55))
    bare(axes)
    return scale.mappable


def strip(axes: Axes, relevance: np.ndarray, series: np.ndarray) -> AxesImage:
    """A heat strip over time, [steps], behind the input's own lines, [steps, features], when they are few."""
    scale, steps = colours(relevance), len(relevance)
    known = series[~np.isnan(series)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.5
    box = (-0.5, steps - 0.5, low - room, high + room)
    style = {"cmap": scale.colour_map, "norm": scale.norm, "interpolation": "nearest", "alpha": 0.85}
    heat = axes.imshow(relevance[None, :], aspect="auto", extent=box, **style)
    if series.shape[1] <= MOST_LINES:
        axes.plot(np.arange(steps), series, color=INK, linewidth=1.1)
        axes.set_ylabel("input", fontsize=8, color=MUTED)
    else:
        axes.set_yticks([])
    axes.set_xlabel("step", fontsize=8, color=MUTED)
    axes.tick_params(length=0, labelsize=7.5, labelcolor=MUTED)
    axes.spines[:].set_visible(False)
    return heat


def scale_bar(axes: Axes, drawn: ScalarMappable) -> None:
    """A thin colour bar beside the axes."""
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(drawn, ax=axes, fraction=0.046, pad=0.03, aspect=22)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=MUTED)
    bar.set_label("relevance", fontsize=8, color=MUTED)
