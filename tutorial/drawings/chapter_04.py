"""The picture of chapter 4: the rows of a head in the order of Hugging Face's files, and in Mistral's."""

import numpy as np

from tiny.files.weights import halves_to_pairs
from tutorial.drawings import PAPER

ROWS = 8  # of one head
STYLES = (("0.82", ""), ("0.95", "///"), ("0.68", "..."), ("0.88", "xxx"))  # of the four pairs: grey and hatch


def layouts_picture():
    """Two rows of boxes, one for each row of a head, joined by lines."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    order = halves_to_pairs(np.arange(ROWS)[:, None], ROWS).reshape(ROWS)
    figure = Figure(figsize=(9.0, 3.1), facecolor=PAPER, layout="constrained")
    panel = figure.subplots()
    for top, rows in ((0, np.arange(ROWS)), (2.2, order)):
        for place, row in enumerate(rows):
            grey, hatch = STYLES[row % (ROWS // 2)]
            panel.add_patch(Rectangle((place, top), 0.92, 0.8, facecolor=grey, edgecolor="0.35", hatch=hatch))
            panel.text(place + 0.46, top + 0.4, str(row), ha="center", va="center", fontsize=12,
                       bbox={"facecolor": grey, "edgecolor": "none", "pad": 2})
    for place, row in enumerate(order):
        panel.plot([row + 0.46, place + 0.46], [0.8, 2.2], color="0.25", linewidth=1.2)
    for pair in range(ROWS // 2):
        panel.text(2 * pair + 0.96, 3.25, f"pair {pair}", ha="center", va="center", fontsize=10)
        panel.plot([2 * pair, 2 * pair + 1.92], [3.08, 3.08], color="black", linewidth=1.5)
    for half, words in enumerate(("first half", "second half")):
        panel.text(half * ROWS / 2 + ROWS / 4, -0.3, words, ha="center", va="center", fontsize=10)
    panel.text(-0.2, 0.4, "HF's file", ha="right", va="center", fontsize=11)
    panel.text(-0.2, 2.6, "this book", ha="right", va="center", fontsize=11)
    panel.set(xlim=(-1.6, ROWS), ylim=(3.5, -0.5))
    panel.axis("off")
    return figure


def draw() -> dict:
    """The pictures by name."""
    return {"rope_layouts": layouts_picture()}
