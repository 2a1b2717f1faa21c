"""The parts of a picture: each function draws one thing on the axes that it is given.

One colour language throughout: red speaks for the target, blue against it, white is zero. Only matplotlib's
object-oriented interface is used; no figure is registered globally and no setting of the user's is changed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize, to_rgb
from matplotlib.image import AxesImage

INK, MUTED, RULE = "#1d2731", "#66727f", "#dfe3e8"
FOR, AGAINST = "#c1272d", "#2563a8"
MOST_BARS = 20
MOST_TOKENS = 1000
MOST_LINES = 6
LINE_CHARACTERS = 84

DIVERGING = LinearSegmentedColormap.from_list("relevance", ["#14406f", AGAINST, "#ffffff", FOR, "#7d1016"])
SEQUENTIAL = ListedColormap(DIVERGING(np.linspace(0.5, 1.0, 256)), "relevance for")


def literal(text: object) -> str:
    """Make text safe for matplotlib, which would read a pair of dollar signs as a formula."""
    return str(text).replace("$", r"\$")


def colours(relevance: np.ndarray) -> ScalarMappable:
    """Colour map and scale for relevance: diverging and centred at 0 when signed, white to red when not.

    In large arrays the scale ends at the 99.9th percentile of |relevance|: one hot pixel would bleach all the others.
    """
    size = np.abs(relevance)
    limit = float(np.quantile(size, 0.999) if size.size > 4096 else size.max(initial=0.0)) or float(
        size.max(initial=0.0)
    )
    signed = bool((relevance < 0).any())
    limit = limit or 1.0
    return ScalarMappable(Normalize(-limit if signed else 0.0, limit), DIVERGING if signed else SEQUENTIAL)


def see_through(colour_map: Colormap, *, signed: bool) -> ListedColormap:
    """Make the same colours more transparent the closer they are to zero, for laying over a picture."""
    ramp = np.linspace(-1.0 if signed else 0.0, 1.0, 256)
    strength = np.abs(ramp) ** 0.6
    # The hue comes from the map's outer part; its whitening towards zero is done by the transparency instead.
    table = colour_map(np.linspace(0.0, 1.0, 256))
    ends = np.where(ramp[:, None] < 0, to_rgb(AGAINST), to_rgb(FOR))
    table[:, :3] = np.minimum(table[:, :3], 1.0) * strength[:, None] + ends * (1 - strength[:, None])
    table[:, 3] = 0.92 * strength
    return ListedColormap(table, "relevance over a picture")


def bare(axes: Axes) -> None:
    """Remove ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def title(axes: Axes, text: str, *, colour: str = INK) -> None:
    """Write a small left-aligned title."""
    axes.set_title(literal(text), loc="left", fontsize=9.5, color=colour, pad=6)


def image(axes: Axes, picture: np.ndarray, *, colour_map: str = "gray") -> None:
    """Show a picture, [height, width] or [height, width, 3], values 0..1."""
    axes.imshow(picture, cmap=colour_map, vmin=0.0, vmax=1.0, interpolation="nearest")
    bare(axes)


def overlay(
    axes: Axes, grey: np.ndarray | None, relevance: np.ndarray, *, colour_map: str = "gray"
) -> AxesImage:
    """Lay relevance over a paled grey picture, both [height, width]; without a picture, show the heat alone."""
    scale = colours(relevance)
    shown = scale.get_cmap()
    if grey is not None:
        # Paled, so that the heat keeps its colours on dark ground and the shapes still show.
        low, high = (0.35, 1.0) if colour_map == "gray" else (0.0, 0.5)
        image(axes, low + (high - low) * grey, colour_map=colour_map)
        shown = see_through(shown, signed=(scale.norm.vmin or 0.0) < 0)
    heat = axes.imshow(relevance, cmap=shown, norm=scale.norm, interpolation="nearest")
    bare(axes)
    return heat


def bars(axes: Axes, relevance: np.ndarray, names: Sequence[str]) -> None:
    """Signed horizontal bars, [features], the largest |relevance| on top; the tail is summed into one grey bar."""
    order = np.argsort(-np.abs(relevance), kind="stable")
    top, rest = (order, order[:0]) if len(order) <= MOST_BARS + 1 else (order[:MOST_BARS], order[MOST_BARS:])
    lengths, labels = list(relevance[top]), [names[index] for index in top]
    shades = [AGAINST if length < 0 else FOR for length in lengths]
    if len(rest):
        lengths, labels = [*lengths, relevance[rest].sum()], [*labels, f"{len(rest)} others, summed"]
        shades.append("#aab3bd")
    places = np.arange(len(lengths))
    drawn = axes.barh(places, lengths, height=0.68, color=shades, zorder=2)
    axes.bar_label(drawn, [f"{length:+.3g}" for length in lengths], padding=4, fontsize=7.5, color=MUTED)
    axes.set_yticks(places, [literal(label) for label in labels])
    axes.invert_yaxis()
    _dress_bars(axes)


def _dress_bars(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.tick_params(axis="x", length=0, labelsize=7.5, labelcolor=MUTED)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=RULE, linewidth=0.7, zorder=0)
    axes.axvline(0.0, color=MUTED, linewidth=0.8, zorder=3)
    axes.margins(x=0.14, y=0.02)
    axes.set_xlabel("relevance", fontsize=8, color=MUTED)


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
            ground = scale.to_rgba(relevance[position])
            shape = FancyBboxPatch((left, row - 0.36), width, 0.72, boxstyle="round,pad=0,rounding_size=0.2")
            shape.set(facecolor=ground, edgecolor=RULE, linewidth=0.5)
            axes.add_patch(shape)
            ink = "white" if np.dot(ground[:3], (0.3, 0.59, 0.11)) < 0.55 else INK
            style = {"fontsize": 8.5, "family": "monospace", "color": ink}
            axes.text(left + width / 2, row, literal(tokens[position]), ha="center", va="center", **style)
    axes.set(xlim=(-0.5, LINE_CHARACTERS + 0.5), ylim=(len(lines) - 0.45, -0.55))
    bare(axes)
    return scale


def strip(axes: Axes, relevance: np.ndarray, series: np.ndarray) -> AxesImage:
    """A heat strip over time, [steps], behind the input's own lines, [steps, features], when they are few."""
    scale, steps = colours(relevance), len(relevance)
    low, high = (float(series.min()), float(series.max())) if series.size else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.5
    box = (-0.5, steps - 0.5, low - room, high + room)
    style = {"cmap": scale.get_cmap(), "norm": scale.norm, "interpolation": "nearest", "alpha": 0.85}
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


def scale_bar(axes: Axes, scale: ScalarMappable) -> None:
    """A thin colour bar beside the axes."""
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(scale, ax=axes, fraction=0.046, pad=0.03, aspect=22)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=MUTED)
    bar.set_label("relevance", fontsize=8, color=MUTED)
