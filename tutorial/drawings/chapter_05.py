"""The picture of chapter 5: tokens and their experts, and the same choices grouped by expert."""

import numpy as np

import tiny
from tutorial.drawings import PAPER

LINE, LAYER = "Tom had a red ball and ran", 1


def dispatch_picture(model):
    """A table of tokens and experts with the weights; a row of boxes for each expert, one for each of its tokens."""
    from matplotlib.figure import Figure

    trace: dict = {}
    ids = model.tokenizer.encode(LINE)
    model([model.tokenizer.bos_id, *ids], trace=trace)
    experts, weights = (trace[f"{name}{LAYER:02}"][1:] for name in ("experts", "expert_weights"))
    T, E = len(ids), model.config.moe.num_experts
    pieces = [piece.strip() or "?" for piece in model.tokenizer.pieces(ids)]
    figure = Figure(figsize=(10.4, 0.42 * max(T, E) + 0.9), facecolor=PAPER, layout="constrained")
    table, groups = figure.subplots(1, 2)
    for t in range(T):
        for e in range(E):
            rank = np.flatnonzero(experts[t] == e)
            weight = float(weights[t, rank[0]]) if len(rank) else 0.0
            cell(table, e, t, f"{weight:.2f}" if weight else "", 1 - 0.45 * weight if weight else 0.98)
    table.set(xlim=(-0.05, E), ylim=(T, -0.05), xlabel="expert", title="which experts each token chose, and how much",
              facecolor=PAPER)
    table.set_xticks(np.arange(E) + 0.47, range(E))
    table.set_yticks(np.arange(T) + 0.47, [f"{t}: {piece}" for t, piece in enumerate(pieces)])
    most = 0
    for e in range(E):
        tokens, _ = np.nonzero(experts == e)
        most = max(most, len(tokens))
        for place, token in enumerate(tokens):
            cell(groups, place, e, str(token), 0.85)
        if not len(tokens):
            groups.text(0.1, e + 0.47, "nobody: its matrices are not read", va="center", fontsize=9)
    groups.set(xlim=(-0.05, max(most, 5)), ylim=(E, -0.05), title="the tokens that each expert gets", facecolor=PAPER)
    groups.set_xticks([])
    groups.set_yticks(np.arange(E) + 0.47, [f"expert {e}" for e in range(E)])
    for panel in (table, groups):
        panel.tick_params(length=0, labelsize=9)
        panel.title.set_fontsize(10.5)
        for side in panel.spines.values():
            side.set_visible(False)
    return figure


def cell(panel, column: float, row: float, words: str, grey: float):
    """A box with words in it."""
    from matplotlib.patches import Rectangle

    panel.add_patch(Rectangle((column, row), 0.94, 0.94, facecolor=(grey,) * 3, edgecolor="0.55", linewidth=0.6))
    panel.text(column + 0.47, row + 0.47, words, ha="center", va="center", fontsize=9)


def draw() -> dict:
    """The pictures by name."""
    return {"expert_dispatch": dispatch_picture(tiny.load("tiny-mixtral"))}
