"""The pictures of chapter 3: who shares a key head, which keys a text has, and the mask of a chunk."""

import numpy as np

from tiny.attention import attend, attention
from tiny.numerics import softmax
from tutorial.drawings import PAPER

H, G = 6, 3  # heads of the queries, and of the keys
LENGTHS, SPANS = [2, 3], [(0, 5), (6, 9)]
QUERIES, KEYS = 3, 7  # of the chunk
GREYS, HATCHES = ("0.8", "0.93", "0.68"), ("", "///", "...")


def box(panel, column: float, row: float, words: str, grey: str, hatch: str = ""):
    """A cell with words in it; a hatch lies behind them."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((column, row), 0.92, 0.8, facecolor=grey, edgecolor="0.35", hatch=hatch, linewidth=0.8))
    panel.text(column + 0.46, row + 0.4, words, ha="center", va="center", fontsize=9,
               bbox={"facecolor": grey, "edgecolor": "none", "pad": 1.5})


def shared() -> np.ndarray:
    """Which query heads change their answer when a KV head changes. Shapes:  -> (G, H)."""
    rng = np.random.default_rng(3)
    q, keys, values = (rng.standard_normal((2, n, 4), np.float32) for n in (H, G, G))
    before, changed = attention(q, keys, values, [2], [(0, 2)]), []
    for g in range(G):
        other = values.copy()
        other[:, g] += 1
        changed.append((attention(q, keys, other, [2], [(0, 2)]) != before).any(axis=(0, 2)))
    return np.array(changed)


def groups_picture():
    """Heads and their KV heads; the rows of two packed texts in the queries and in the keys."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.7), facecolor=PAPER, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(0.8, 1))
    for g, of_group in enumerate(shared()):
        middle = np.flatnonzero(of_group).mean()
        box(left, middle, 2, f"KV {g}", GREYS[g], HATCHES[g])
        for h in np.flatnonzero(of_group):
            box(left, h, 0, f"head {h}", GREYS[g], HATCHES[g])
            left.plot([h + 0.46, middle + 0.46], [0.8, 2], color="0.2", linewidth=1.2)
    left.set(xlim=(-0.1, H), ylim=(2.9, -0.1))
    left.set_title("which query heads share a KV head", fontsize=10.5)
    first = 0
    for n, (length, (start, stop)) in enumerate(zip(LENGTHS, SPANS)):
        for row in range(length):
            box(right, first + row, 0, f"q {first + row}", GREYS[n], HATCHES[n])
        for row in range(start, stop):
            box(right, row, 2, f"key {row}", GREYS[n], HATCHES[n])
        for query, key in ((first, start), (first + length - 0.08, stop - 0.08)):
            right.plot([query, key], [0.8, 2], color="0.2", linewidth=1.2)
        right.text((first + start + length / 2 + (stop - start) / 2) / 2, 1.4, f"text {n}", ha="center", va="center",
                   fontsize=10)
        first += length
    box(right, 5, 2, "-", PAPER)
    right.set(xlim=(-0.1, SPANS[-1][1]), ylim=(2.9, -0.1))
    right.set_title("the rows of two packed texts", fontsize=10.5)
    for panel in (left, right):
        panel.axis("off")
    return figure


def chunk_picture():
    """The weights of a chunk's queries among equal keys: as they are, and with the mask over the first keys."""
    from matplotlib.figure import Figure

    zeros, eye = np.zeros((QUERIES, 1, KEYS), np.float32), np.eye(KEYS, dtype=np.float32)
    right = attend(zeros, np.zeros_like(eye), eye, np.empty(QUERIES * KEYS, np.float32), True, "float32")[:, 0]
    scores = np.zeros((QUERIES, KEYS), np.float32)
    scores[:, :QUERIES] += np.triu(np.full((QUERIES, QUERIES), -np.inf, np.float32), 1)
    figure = Figure(figsize=(9.6, 2.6), facecolor=PAPER, layout="constrained")
    tables = {"right: the last 3 keys": right, "wrong: the first 3 keys": softmax(scores)}
    for panel, (title, weights) in zip(figure.subplots(1, 2), tables.items()):
        for (row, column), weight in np.ndenumerate(weights):
            box(panel, column, row, f"{100 * weight:.0f}" if weight else "", "0.8" if weight else PAPER,
                "" if weight else "////")
        panel.set(xlim=(-0.1, KEYS), ylim=(QUERIES - 0.1, -0.1), title=title, facecolor=PAPER)
        panel.title.set_fontsize(10.5)
        panel.set_xticks(np.arange(KEYS) + 0.46, [f"key {key}" for key in range(KEYS)], fontsize=8.5)
        panel.set_yticks(np.arange(QUERIES) + 0.4, [f"query {n}" for n in range(QUERIES)], fontsize=8.5)
        panel.tick_params(length=0)
        for side in panel.spines.values():
            side.set_visible(False)
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"attention_groups": groups_picture(), "attention_chunk": chunk_picture()}
