"""Figures show the numbers that they are given: every cell, line and colour is read back."""

import math
import sys

import numpy as np
import pytest
from compare import assert_close
from matplotlib.backends.backend_agg import FigureCanvasAgg
from oracles import GOLDEN

import tiny
from tiny.numerics import softmax
from tiny.tools import plots
from tiny.tools.terminal.coloured_text import COLOURS

RNG = np.random.default_rng(8)
# Differences of an average of up to 70 values near 1, in float32.
WEIGHTS = 1e-6  # measured 1.5e-7


def lines(panel):
    return {line.get_label(): line.get_xydata() for line in panel.lines}


def inside(figure):
    """Whether every text of a figure lies within its page, where it can be read."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (width, height), renderer = canvas.get_width_height(), canvas.get_renderer()
    for panel in figure.axes:
        for text in panel.texts:
            box = text.get_window_extent(renderer)
            if text.get_text() and not (-1 <= box.x0 and box.x1 <= width + 1 and -1 <= box.y0 and box.y1 <= height + 1):
                return False
    return True


def small(figure):
    """The smallest letters of a figure, in points."""
    texts = [text for panel in figure.axes for text in (*panel.texts, *panel.get_xticklabels(), panel.title)]
    return min(text.get_fontsize() for text in texts if text.get_text())


def test_repeated_choices():
    repeats = {name: (RNG.random(4), RNG.random(4)) for name in ("prose", "code", "verse")}
    figure = plots.repeated_choices(repeats, (0.125, 13 / 28))
    for side, panel in enumerate(figure.axes):
        for name, values in repeats.items():
            assert_close(lines(panel)[name][:, 1], 100 * values[side], atol=0, name=name)
        assert_close(lines(panel)["random"][0, 1], 100 * (0.125, 13 / 28)[side], atol=0)
        assert len({line.get_linestyle() + str(line.get_marker()) for line in panel.lines}) == 4
    assert inside(figure)


def test_lines_differ_in_brightness():
    for of in (2, 3, 5):
        light = [np.dot(plots.shade(n, of)[:3], [0.2126, 0.7152, 0.0722]) for n in range(of)]
        assert np.diff(light).min() > 0.1 and light[-1] < 0.75, of


def test_an_expert_has_one_colour_on_paper_and_in_a_terminal():
    """Codes 16 to 231 of a terminal are a cube of six levels, from 232 on they are greys."""
    assert COLOURS[:2] == (214, 117) and COLOURS[7] == 250
    assert [tuple(round(255 * c) for c in plots.expert_colour(e)) for e in (0, 1, 7, 8)] == [
        (255, 175, 0), (135, 215, 255), (188, 188, 188), (255, 175, 0)]


@pytest.mark.parametrize("pieces, columns, cells", [
    (["\u2581One", "\u2581day", "."], 20, [(0, 0, " One"), (0, 4, " day"), (0, 8, ".")]),
    (["\u2581One", "\u2581day", "."], 8, [(0, 0, " One"), (0, 4, " day"), (1, 0, ".")]),
    (["a", "<0x0A>", "b"], 9, [(0, 0, "a"), (0, 1, "\u21b5"), (1, 0, "b")]),
    (["long" * 5, "b"], 9, [(0, 0, "longlongl"), (1, 0, "b")]),
    (["\x07", "$x$"], 9, [(0, 0, "\u00b7"), (0, 1, "$x$")])])
def test_places_of_tokens(pieces, columns, cells):
    assert plots.place_tokens(pieces, columns) == cells


def test_tokens_by_expert():
    pieces, layers = ["\u2581One", "\u2581day", "<0x0A>", "$1$"], {"layer 0": np.array([0, 7, 3, 3]),
                                                                  "layer 2": np.array([1, 1, 2, 5])}
    figure = plots.tokens_by_expert(pieces, layers)
    assert len(figure.axes) == 2 and inside(figure) and small(figure) >= 7
    for panel, (name, experts) in zip(figure.axes, layers.items()):
        assert panel.get_title(loc="left") == name
        assert [patch.get_facecolor()[:3] for patch in panel.patches] == [plots.expert_colour(e) for e in experts]
        assert [t.get_text() for t in panel.texts if t.get_fontsize() == 7] == [str(e) for e in experts]
        assert "".join(t.get_text() for t in panel.texts if t.get_fontsize() == 9) == " One day\u21b5$1$"


@pytest.mark.parametrize("T, H, G, d", [(1, 1, 1, 2), (5, 4, 2, 8), (70, 4, 1, 16), (9, 6, 3, 4)])
def test_attention_weights_against_the_formula(float64_too, T, H, G, d):
    q, keys = (RNG.standard_normal((T, n, d)).astype(np.float32) for n in (H, G))
    for head in range(H):
        scores = q[:, head].astype(float) @ keys[:, head // (H // G)].astype(float).T / math.sqrt(d)
        expected = softmax(np.where(np.tri(T, dtype=bool), scores, -np.inf))
        assert_close(plots.attention_weights(q, keys, head), expected, atol=WEIGHTS, name=f"head {head}")


def test_attention_map(float64_too):
    weights = softmax(np.where(np.tri(6, dtype=bool), RNG.standard_normal((6, 6)), -np.inf)).astype(np.float32)
    tokens = ["<s>", "\u2581a", "$b$", "c", "<0x0A>", "."]
    figure = plots.attention_map(weights, tokens, "layer 0, head 1")
    panel, shown = figure.axes[0], figure.axes[0].images[0].get_array()
    assert (shown.mask == np.triu(np.ones((6, 6), bool), 1)).all()
    assert_close(shown.filled(0), weights, atol=0)
    assert [t.get_text() for t in panel.get_yticklabels()] == ["<s>", "\u00b7a", "$b$", "c", "\u21b5", "."]
    cells = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in panel.texts}
    assert cells == {(i, j): f"{100 * weights[i, j]:.0f}" for i in range(6) for j in range(i + 1)
                     if weights[i, j] >= 0.005}
    assert panel.images[0].get_zorder() > panel.collections[0].get_zorder(), "hatching lies under the cells"
    assert inside(figure) and small(figure) >= 7


def test_a_long_attention_map_has_no_numbers():
    assert not plots.attention_map(np.tri(40, dtype=np.float32), list("x" * 40), "long").axes[0].texts


def test_attention_map_of_a_model_shows_whole_averages():
    model, trace = tiny.load(GOLDEN / "mixtral-a" / "mistral"), {}
    model([1, 17, 300, 4, 4, 99], trace=trace)
    for head in range(model.config.n_heads):
        weights = plots.attention_weights(trace["q01"], trace["k01"], head)
        assert_close(weights.sum(axis=1), np.ones(6), atol=WEIGHTS, name=f"head {head}")


def test_rope_angles():
    figure = plots.rope_angles(16, 1e4, positions=(1, 50))
    *clocks, panel = figure.axes
    assert len(clocks) == 8 and inside(figure) and small(figure) >= 7
    for pair, clock in enumerate(clocks):
        hands = [line.get_xydata()[1] for line in clock.lines[1:]]
        angles = [position * 1e4 ** (-2 * pair / 16) for position in range(6)]
        assert_close(np.array(hands), np.array([[math.cos(a), math.sin(a)] for a in angles]), atol=1e-6)
    turn, one, fifty = (line.get_xydata()[:, 1] for line in panel.lines)
    assert_close(turn[0], 2 * math.pi, atol=0)
    assert_close(one, np.array([1e4 ** (-2 * i / 16) for i in range(8)]), atol=1e-15)
    assert_close(fifty, 50 * one, atol=1e-13)


def test_relative_scores():
    """All ones: the score is the mean cosine over the pairs, of the distance alone."""
    scores = plots.rope_scores(16, 1e4, 12)
    expected = [[np.mean([math.cos((m - n) * 1e4 ** (-2 * i / 16)) for i in range(8)]) for n in range(12)]
                for m in range(12)]
    assert_close(scores, np.array(expected), atol=1e-6, name="scores")  # measured 2e-7
    left, right = plots.relative_score_map(16, 1e4, 12).axes[:2]
    assert_close(np.asarray(left.images[0].get_array()), scores, atol=0)
    assert_close(right.lines[1].get_xydata()[:12, 1], scores[:, 0].astype(float), atol=1e-6)
    assert right.lines[1].get_xydata().shape == (96, 2)


def test_kv_cache_bytes():
    figure = plots.kv_cache_bytes({"many heads": 4096 * 8, "few": 4096}, 1 << 20)
    first, second = (line.get_xydata() for line in figure.axes[0].lines)
    assert_close(first[[0, -1], 1], np.array([0.0, 32.0]), atol=0)
    assert_close(second[[0, -1], 1], np.array([0.0, 4.0]), atol=0)
    assert [t.get_text() for t in figure.axes[0].texts] == ["many heads\n32 KiB a token", "few\n4 KiB a token"]
    assert inside(figure)


def test_kv_cache_rows():
    figure = plots.kv_cache_rows([4, 3], [[2, 1], [1, 0], [0, 2]])
    panel = figure.axes[0]
    rows = [[t.get_text() for t in panel.texts if t.get_fontsize() == 8][n * 7:][:7] for n in range(3)]
    assert rows == [["1", "1", "", "", "1", "", ""], ["1", "1", "2", "", "1", "", ""],
                    ["1", "1", "2", "", "1", "3", "3"]]
    white, new = (1.0, 1.0, 1.0), plots.shade(0, 2)[:3]
    last = [patch.get_facecolor()[:3] for patch in panel.patches][14:]
    assert [colour == new for colour in last] == [False] * 5 + [True] * 2
    assert [colour == white for colour in last] == [text == "" for text in rows[2]]
    assert [t.get_text() for t in panel.texts if t.get_fontsize() == 9] == ["sequence 0, 4 rows", "sequence 1, 3 rows"]
    assert inside(figure)


def test_figures_belong_to_the_caller():
    """No window system is asked for, and none of Matplotlib's own lists of open figures grows."""
    plots.kv_cache_bytes({"few": 4096}, 1024)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
