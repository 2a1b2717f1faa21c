"""Pictures and notebook HTML."""

from __future__ import annotations

import base64
import io
import os
import re
import sys
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from backtrace_jax.errors import MissingDependencyError, SettingError
from backtrace_jax.explanation import describe, panels, pictures
from tests.handmade import digits, explanation

NASTY = "<script>alert('$x$ & \"y\"')</script>"


def signed(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)


def texts(figure: Figure) -> str:
    """Everything a reader can read, labels of ticks included."""
    figure.draw_without_rendering()
    return "\n".join(item.get_text() for item in figure.findobj(mpl.text.Text))


# Which picture fits which input


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 6, 5), (6, 5, 3), (6, 5, 1)])
def test_images_become_a_heat_map_over_the_input(shape):
    relevance = signed(*shape)
    figure = explanation(signed(*shape), relevance).plot(1)
    shown, overlaid, _ = figure.axes
    (input_image,) = shown.images
    ground, heat = overlaid.images
    channel = 0 if shape[0] in (1, 3) else 2
    np.testing.assert_allclose(heat.get_array(), relevance[1].sum(axis=channel), rtol=1e-5)
    assert ground.get_array().shape == (6, 5)
    assert input_image.get_array().min() >= 0
    assert input_image.get_array().max() <= 1
    assert -heat.norm.vmin == heat.norm.vmax == pytest.approx(np.abs(relevance[1].sum(axis=channel)).max())


def test_contrastive_pictures_show_the_difference():
    found = digits("contrastive")
    difference = (found.positive["image"] - found.negative["image"])[1].sum(axis=0)
    np.testing.assert_allclose(found.plot(1).axes[1].images[1].get_array(), difference, rtol=1e-5)


def test_unsigned_relevance_has_no_blue_half():
    figure = explanation(signed(1, 4, 4), np.abs(signed(1, 4, 4))).plot()
    heat = figure.axes[1].images[1]
    assert heat.norm.vmin == 0
    red, _, blue, alpha = heat.cmap(np.linspace(0, 1, 9)).T
    assert (red > blue).all()
    assert (np.diff(alpha) > 0).all()


def test_colours_say_the_sign():
    scale = panels.colours(np.array([-2.0, 0.0, 1.0]))
    against, zero, half = scale.mappable.to_rgba(np.array([-2.0, 0.0, 1.0]))
    assert against[2] > against[0]
    assert half[0] > half[2]
    np.testing.assert_allclose(zero[:3], 1.0, atol=0.02)


def test_an_outlier_does_not_bleach_a_large_picture():
    relevance = np.ones((100, 100))
    relevance[0, 0] = 1e6
    assert panels.colours(relevance).norm.vmax == 1.0
    relevance[:] = 0
    relevance[0, 0] = 3
    assert panels.colours(relevance).norm.vmax == 3.0


def test_images_with_other_channels_show_the_heat_alone():
    figure = explanation(signed(7, 4, 5), signed(7, 4, 5)).plot()
    (heat,) = figure.axes[0].images
    assert heat.get_array().shape == (4, 5)


def test_features_become_bars_sorted_by_magnitude():
    relevance = np.array([[0.1, -0.5, 0.3], [1.0, 2.0, -3.0]])
    figure = explanation(signed(3), relevance).plot(0, feature_names=["age", "height", "weight"])
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [-0.5, 0.3, 0.1]
    assert axes.yaxis_inverted()
    labels = [label.get_text().split(" = ")[0] for label in axes.get_yticklabels()]
    assert labels == ["height", "weight", "age"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0][2] > colours[0][0]
    assert colours[1] == colours[2] == mpl.colors.to_rgba(panels.FOR)


def test_bars_beyond_the_first_twenty_are_summed_in_words():
    relevance = np.stack([np.arange(1.0, 31.0)] * 2)
    figure = explanation(signed(30), relevance).plot()
    assert len(figure.axes[0].patches) == panels.MOST_BARS
    assert "10 others sum to +55" in texts(figure)


def test_integers_become_coloured_tokens():
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    figure = explanation(ids, signed(3)).plot(1)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "9", "10"]
    grounds = [patch.get_facecolor() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    expected = panels.colours(signed(3)[1].astype(np.float64)).mappable.to_rgba(signed(3)[1])
    np.testing.assert_allclose(grounds, expected, atol=1e-6)


def test_tokens_are_shown_as_text_and_white_space_as_signs():
    figure = explanation(np.zeros((2, 4), np.int64), signed(4)).plot(tokens=["$a$", "\n", " ", "Ġword"])
    assert [text.get_text() for text in figure.axes[0].texts] == [r"\$a\$", "\\n", "·", "Ġword"]


def test_tokens_of_embeddings_sum_over_features():
    relevance = signed(3, 8)
    figure = explanation(signed(3, 8), relevance).plot(tokens=["a", "b", "c"])
    first = figure.axes[0].patches[0].get_facecolor()
    sums = relevance[0].sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(first, panels.colours(sums).mappable.to_rgba(sums[0]), atol=1e-6)


def test_lines_of_tokens_never_overlap_nor_leave_the_page():
    tokens = ["short", "a" * 60, "日本語" * 4] * 30
    lines = panels.token_lines(tokens)
    assert [position for line in lines for position, _, _ in line] == list(range(len(tokens)))
    for line in lines:
        edges = [edge for _, left, width in line for edge in (left, left + width)]
        assert edges == sorted(edges)
        assert edges[-1] <= panels.LINE_CHARACTERS


def test_long_texts_are_cut_and_say_so():
    count = panels.MOST_TOKENS + 5
    figure = explanation(np.zeros((2, count), np.int64), np.zeros((2, count))).plot()
    assert len(figure.axes[0].texts) == panels.MOST_TOKENS
    assert f"first {panels.MOST_TOKENS} of {count} tokens" in texts(figure)


@pytest.mark.parametrize(("shape", "lines"), [((12, 3), 3), ((12, 40), 0), ((1, 12), 1)])
def test_series_become_a_heat_strip(shape, lines):
    relevance = signed(*shape)
    figure = explanation(signed(*shape), relevance).plot(0)
    axes = figure.axes[0]
    (strip,) = axes.images
    expected = relevance[0].sum(axis=1) if shape[0] == 12 else relevance[0, 0]
    np.testing.assert_allclose(strip.get_array(), expected[None, :], rtol=1e-4, atol=1e-6)
    assert len(axes.lines) == lines


def test_the_first_input_is_drawn_unless_one_is_named():
    both = {"first": np.full((2, 3), 0.1), "second": np.full((2, 4), 9.0)}
    found = explanation(signed(3), signed(3), relevance=both, inputs={"second": signed(4), "first": signed(3)})
    assert len(found.plot().axes[0].patches) == 3
    assert len(found.plot(input="second").axes[0].patches) == 4


# What cannot be drawn


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"example": 2}, "no example 2"),
        ({"example": -3}, "no example -3"),
        ({"input": "y"}, "'y'.*x"),
        ({"feature_names": ["a", "b"]}, "feature_names needs 3.*2 names"),
        ({"feature_names": "abc"}, "feature_names must be a list of names, found a single text"),
        ({"tokens": ["a"] * 4}, "tokens needs 3.*4 names"),
    ],
)
def test_wrong_settings_of_a_plot_are_named(options, words):
    with pytest.raises(SettingError, match=words):
        explanation(signed(3), signed(3)).plot(**options)


def test_shapes_without_a_picture_say_what_to_do():
    with pytest.raises(SettingError, match=r"'x' of shape \[2, 2, 2, 2\].*\.relevance"):
        explanation(signed(2, 2, 2, 2), signed(2, 2, 2, 2)).plot()


def test_no_relevance_at_all_is_said():
    with pytest.raises(SettingError, match="none"):
        explanation(signed(3), signed(3), relevance={}).plot()


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (5, 2)])
@pytest.mark.parametrize("value", [0.0, 1e-300, 1e300])
def test_extreme_relevance_draws(shape, value):
    figure = explanation(np.zeros((2, *shape)), np.full((2, *shape), value)).plot()
    assert len(pictures.png(figure)) > 1000


def test_nothing_global_is_touched():
    before = dict(mpl.rcParams)
    modules = set(sys.modules)
    pictures.png(explanation(signed(1, 4, 4), signed(1, 4, 4)).plot())
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in set(sys.modules) - modules


def test_letters_without_a_glyph_do_not_warn():
    tokens = ["\U0001f9ff", "\u0b95", "ok"]
    figure = explanation(np.zeros((2, 3), np.int64), signed(3)).plot(tokens=tokens)
    assert pictures.png(figure).startswith(b"\x89PNG")


def test_dollar_signs_are_no_formulas():
    figure = explanation(signed(2), signed(2), name="$x_{").plot(feature_names=["$a_b$", "$\\frac{$"])
    assert len(pictures.png(figure)) > 1000


# Saving pictures


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")])
def test_pictures_are_saved_in_the_format_of_their_suffix(tmp_path, name, magic):
    explanation(signed(3), signed(3)).plot(path=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    assert os.listdir(tmp_path) == [name]


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    with pytest.raises(SettingError, match=r"\.docx.*png"):
        explanation(signed(3), signed(3)).plot(path=tmp_path / "a.docx")
    assert os.listdir(tmp_path) == []


def test_a_failing_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, file, **options):
        file.write(b"half")
        raise RuntimeError("no")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError):
        explanation(signed(3), signed(3)).plot(path=path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.png"]


# Without matplotlib


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_plot_names_the_extra():
    with pytest.raises(MissingDependencyError, match=re.escape('pip install "backtrace-jax[viz]"')):
        explanation(signed(3), signed(3)).plot()


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_the_notebook_shows_tables():
    page = explanation(signed(3), signed(3))._repr_html_()
    assert "<img" not in page
    assert page.count("<table") == 2


# Notebook HTML


class Page(HTMLParser):
    """Tags, texts and attributes of a piece of HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs]
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_html_escapes_every_text():
    found = explanation(
        signed(3), signed(3), name=NASTY, output=NASTY, outputs={NASTY: signed(4)}, fingerprint={"mode": NASTY}
    )
    page = Page(found._repr_html_())
    assert set(page.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "img"}
    assert page.open == []
    assert " ".join(page.words).count(NASTY) >= 3


def test_html_shows_targets_totals_and_books():
    found = explanation(signed(3), signed(3))
    words = Page(found._repr_html_()).words
    assert "logits[1]" in words
    assert describe.number(float(found.relevance["x"][1].sum(dtype=np.float64))) in words
    assert describe.number(float(found.ledger.bias[0])) in words


def test_html_of_contrastive_shows_both_sides():
    found = digits("contrastive")
    words = Page(found._repr_html_()).words
    assert words[words.index("image") + 1 :][:2] == ["for", "against"]
    for relevance in (found.positive["image"], found.negative["image"]):
        assert describe.number(float(relevance[1].sum(dtype=np.float64))) in words


@pytest.mark.parametrize(("mode", "tables"), [("contrastive", 2), ("integrated-gradients", 2), ("gradient", 1)])
def test_html_shows_books_where_there_are_some(mode, tables):
    found = digits(mode)
    page = Page(found._repr_html_())
    assert page.tags.count("table") == tables
    assert ("ledger" in page.words) == (found.ledger is not None)
    assert ("no ledger: gradients are not conserved" in page.words) == (mode == "gradient")
    if found.completeness_error is not None:
        assert page.words[-4:] == [
            str(part) for i, e in enumerate(found.completeness_error) for part in (i, f"{e:.1e}")
        ]


def test_html_embeds_the_picture_and_nothing_from_outside():
    page = Page(explanation(signed(1, 4, 4), signed(1, 4, 4))._repr_html_())
    (source,) = [value for value in page.attributes if value.startswith("data:image/png;base64,")]
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert image.width > 300
    assert not [value for value in page.attributes if "://" in value]


def test_html_without_a_fitting_picture_still_has_its_tables():
    page = Page(explanation(signed(2, 2, 2, 2), signed(2, 2, 2, 2))._repr_html_())
    assert page.tags.count("table") == 2
    assert "img" not in page.tags
